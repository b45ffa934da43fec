"""A client of the admin API.

Example:
    >>> found = find_fleet(Path("wheeltapper-data"))
    >>> with FleetClient(found.url, found.token) as client:
    ...     [device["id"] for device in client.devices()]
    ['press-1', 'press-2']

Invariants:
    * Every refusal of the server is raised as :class:`FleetError` with the server's own code.
    * A server that cannot be reached is raised as ``client.unreachable``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import httpx

from wheeltapper_fleet.client.device_calls import DeviceCalls
from wheeltapper_fleet.client.requests import PREFIX, quoted, refusal, unreachable
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["FleetAccess", "FleetClient", "find_fleet"]

_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True)
class FleetAccess:
    """The URL of a fleet service's admin API, and an API token for it."""

    url: str
    token: str = field(repr=False)


def find_fleet(data_dir: Path, wait_seconds: float = 0.0) -> FleetAccess:
    """Find the fleet service that runs on a data folder, by the folder's ``serve.json`` and ``api-token``.

    Args:
        data_dir: the folder.
        wait_seconds: how long to wait for a service that starts, if the folder has the keys of one.

    Raises:
        FleetError: ``client.not_running``.
    """
    deadline = time.monotonic() + wait_seconds
    while (data_dir / "keys").is_dir() and not (data_dir / "serve.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        served = json.loads((data_dir / "serve.json").read_text(encoding="utf-8"))
        return FleetAccess(str(served["admin_url"]), (data_dir / "api-token").read_text(encoding="ascii").strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        start = f"`wheeltapper serve --data-dir {shlex.quote(str(data_dir))}`"
        message = f"no fleet service runs on {data_dir}: start it with {start}, or give --url"
        raise FleetError("client.not_running", message, 503) from error


class FleetClient(DeviceCalls):
    """One method for each route of the admin API. Use it in a ``with`` statement, or close it.

    Every method raises FleetError with the server's code when the server refuses, and ``client.unreachable`` when the
    server does not answer. What the dicts contain is in the rooms' ``schemas.py``.

    Args:
        base_url: e.g. ``http://127.0.0.1:8080``.
        token: the API token.
        verify: whether to verify the server's TLS certificate, or the path of the CA to verify it with.
    """

    def healthz(self) -> dict[str, Any]:
        """Whether every part of the service works: ``ok``, and the names of the parts ``failing``."""
        return dict(self._send("GET", "/healthz", ok=(200, 503)).json())

    def request_capture(self, device: str, pipeline: str, snapshots: int) -> str:
        """Ask a device for a recording of its next ``snapshots`` windows; returns the command's id."""
        answer = self._post(f"/devices/{quoted(device)}/captures", {"pipeline": pipeline, "snapshots": snapshots})
        return str(answer["command"])

    def captures(self, device: str | None = None) -> list[dict[str, Any]]:
        """Recordings that were asked for or received, newest first."""
        return list(self.items("/captures", {"device": device} if device is not None else None))

    def capture(self, command: str) -> dict[str, Any]:
        """One recording that was asked for or received."""
        return dict(self._get(f"/captures/{quoted(command)}"))

    def await_capture(self, command: str) -> dict[str, Any]:
        """Wait until a recording that was asked for is here; a command that nobody answers expires.

        Raises:
            FleetError: the device's own code, where it could not make the recording.
        """
        while True:
            found = self.capture(command)
            if found["state"] == "received":
                return found
            if found["state"] == "failed":
                raise FleetError(found["code"], f"{found['device']} could not make the recording", 409)
            time.sleep(_POLL_SECONDS)

    def fetch_capture(self, command: str, target: Path) -> int:
        """Download a recording. The file appears whole or not at all.

        Args:
            command: the command, or the device's rule, that the recording answers.
            target: the file to write.

        Returns:
            The file's length in bytes.

        Raises:
            FleetError: ``capture.not_found``, ``client.hash``.
        """
        temporary = target.with_name(f".{target.name}.part")
        digest, length = hashlib.sha256(), 0
        try:
            with self._http.stream("GET", f"{PREFIX}/captures/{quoted(command)}/recording") as response:
                if response.status_code != 200:
                    response.read()
                    raise refusal(response)
                with temporary.open("wb") as file:
                    for chunk in response.iter_bytes():
                        digest.update(chunk)
                        length += file.write(chunk)
            if digest.hexdigest() != response.headers.get("X-Content-SHA256"):
                raise FleetError("client.hash", "the recording was damaged in transit; fetch it again", 502)
            temporary.replace(target)
        except httpx.HTTPError as error:
            raise unreachable(error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return length

    def has_blob(self, sha256: str) -> bool:
        """Whether the service has the blob."""
        return self._send("HEAD", f"{PREFIX}/blobs/{quoted(sha256)}", ok=(200, 404)).status_code == 200

    def put_blob(self, sha256: str, content: bytes | IO[bytes]) -> None:
        """Upload a blob; its content must hash to ``sha256``."""
        self._send("PUT", f"{PREFIX}/blobs/{quoted(sha256)}", content=content)

    def role_metadata(self, model: str) -> tuple[bytes, int]:
        """The team role's current metadata, and the number of the model's next release."""
        response = self._send("GET", f"{PREFIX}/models/{quoted(model)}/targets")
        return response.content, int(response.headers["X-Next-Release"])

    def publish(self, model: str, manifest: bytes, metadata: bytes) -> dict[str, Any]:
        """Publish a release. Its blobs must have been uploaded before.

        Args:
            model: the model's name.
            manifest: the manifest's bytes.
            metadata: the team role's newly signed metadata.
        """
        body = {"manifest": manifest.decode(), "metadata": metadata.decode()}
        return dict(self._post(f"/models/{quoted(model)}/releases", body))

    def publish_bundle(self, bundle_dir: Path, key: Path | str, rollback_floor: int | None = None) -> dict[str, Any]:
        """Publish a bundle as the next release of its model: number it, sign it here, upload its files, publish it.

        Args:
            bundle_dir: the bundle's folder.
            key: the team's key, a PEM file or a securesystemslib URI. It is not sent anywhere.
            rollback_floor: devices that commit this release never run an older one than ``rollback_floor`` again.

        Raises:
            FleetError: ``release.*``, ``keys.*``, ``tuf.*``.
        """
        from wheeltapper_fleet.registry.prepare import prepare_release
        from wheeltapper_fleet.trust.keys import load_signer
        from wheeltapper_fleet.trust.repository import sign_for_team
        from wheeltapper_protocols.manifest.manifest import decode_manifest
        from wheeltapper_protocols.wire.ids import manifest_path

        model = decode_manifest(prepare_release(bundle_dir, 1)).model
        current, number = self.role_metadata(model)
        manifest = prepare_release(bundle_dir, number, rollback_floor)
        metadata = sign_for_team(current, manifest_path(model, number), manifest, load_signer(key), now=time.time())
        for file in decode_manifest(manifest).files:
            if not self.has_blob(file.sha256):
                with (bundle_dir / file.name).open("rb") as content:
                    self.put_blob(file.sha256, content)
        return self.publish(model, manifest, metadata)

    def releases(self) -> list[dict[str, Any]]:
        """All releases, by model and number."""
        return list(self.items("/releases"))

    def release(self, model: str, release: int) -> dict[str, Any]:
        """One release."""
        return dict(self._get(f"/releases/{quoted(model)}/{release}"))

    def verify_release(self, model: str, release: int) -> dict[str, Any]:
        """Let the service verify a release as a device would, down to every byte."""
        return dict(self._get(f"/releases/{quoted(model)}/{release}/verify"))

    def drift(self, model: str, release: int, **query: Any) -> dict[str, Any]:
        """Compare the features and scores of a release's devices with its training.

        Args:
            model: the model's name.
            release: the release's number.
            query: ``since`` and ``until`` (Unix seconds), ``device``.
        """
        return dict(self._get(f"/releases/{quoted(model)}/{release}/drift", query))

    def set_default_release(
        self, model: str, release: int, *, pipeline: str = "main", tags: Mapping[str, str] | None = None, why: str = ""
    ) -> dict[str, Any]:
        """Make a release what a pipeline of every device with ``tags`` runs where no campaign says otherwise."""
        body = {"model": model, "release": release, "pipeline": pipeline, "tags": dict(tags or {}), "why": why}
        return dict(self._post("/default-releases", body))

    def default_releases(self, cleared: bool = False) -> list[dict[str, Any]]:
        """The default releases that are set, newest first; with ``cleared`` also those that were."""
        return list(self.items("/default-releases", {"cleared": cleared}))

    def clear_default_release(
        self, model: str, *, pipeline: str | None = None, tags: Mapping[str, str] | None = None, why: str = ""
    ) -> list[dict[str, Any]]:
        """Clear the default releases of a model, of all pipelines and audiences or of the ones given."""
        body = {"model": model, "pipeline": pipeline, "tags": None if tags is None else dict(tags), "why": why}
        return list(self._post("/default-releases/clear", body))

    def create_campaign(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Create a campaign. It does not start by itself."""
        return dict(self._post("/campaigns", {"spec": dict(spec)}))

    def campaigns(self) -> list[dict[str, Any]]:
        """All campaigns, newest first."""
        return list(self.items("/campaigns"))

    def campaign(self, campaign: str) -> dict[str, Any]:
        """One campaign, its executions counted by wave and state."""
        return dict(self._get(f"/campaigns/{quoted(campaign)}"))

    def executions(self, campaign: str, state: str | None = None) -> Iterator[dict[str, Any]]:
        """The executions of a campaign, by wave and device; with ``state`` only those in that state."""
        query = {} if state is None else {"state": state}
        return self.items(f"/campaigns/{quoted(campaign)}/executions", query)

    def campaign_log(self, campaign: str) -> Iterator[dict[str, Any]]:
        """What happened to a campaign, oldest first."""
        return self.items(f"/campaigns/{quoted(campaign)}/log")

    def act(self, campaign: str, action: str, expected_version: int | None = None) -> dict[str, Any]:
        """Act on a campaign.

        Args:
            campaign: the campaign's id.
            action: ``start``, ``approve``, ``pause``, ``resume`` or ``abort``.
            expected_version: the version that the action was decided on; None takes the current one.

        Returns:
            The campaign after the action.

        Raises:
            FleetError: ``campaign.conflict``: the campaign has changed since that version.
        """
        if expected_version is None:
            expected_version = int(self.campaign(campaign)["version"])
        return dict(self._post(f"/campaigns/{quoted(campaign)}/{action}", {"expected_version": expected_version}))

    def alerts(self, limit: int = 200) -> list[dict[str, Any]]:
        """The newest ``limit`` alerts, newest first."""
        return list(islice(self.items("/alerts", {"limit": min(limit, MAX_LIMIT)}), limit))

    def who(self) -> dict[str, Any]:
        """Whom the token stands for: ``name``, ``via``, ``roles``, ``permissions``."""
        return dict(self._get("/who"))

    def create_api_token(self, name: str, roles: Sequence[str], ttl_seconds: float | None = None) -> dict[str, Any]:
        """Make an API token; its secret, ``token``, is in the answer and nowhere else."""
        return dict(self._post("/api-tokens", {"name": name, "roles": [*roles], "ttl_seconds": ttl_seconds}))

    def api_tokens(self) -> list[dict[str, Any]]:
        """All API tokens, newest first, without their secrets."""
        return list(self.items("/api-tokens"))

    def revoke_api_token(self, token: str) -> None:
        """Revoke an API token by its id."""
        self._send("POST", f"{PREFIX}/api-tokens/{quoted(token)}/revoke")

    def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest ``limit`` changes: who, what, when."""
        return list(islice(self.items("/audit", {"limit": min(limit, MAX_LIMIT)}), limit))

    def processes(self) -> list[dict[str, Any]]:
        """The processes of the service that ran in the last week, by name."""
        return list(self.items("/processes"))

    def delivery(self, device: str) -> dict[str, Any]:
        """How many records of a device are ``stored``, ``missing``, ``dropped``, ``refused``."""
        return dict(self._get(f"/devices/{quoted(device)}/delivery"))

    def summary(self) -> dict[str, Any]:
        """The fleet in numbers."""
        return dict(self._get("/summary"))

    def events(self) -> Iterator[tuple[str, Any]]:
        """Live changes as (kind, value) until the stream ends; the kind is device, campaign, alert or reset."""
        kind = ""
        try:
            with self._http.stream("GET", f"{PREFIX}/events", timeout=httpx.Timeout(10.0, read=60.0)) as response:
                if response.status_code != 200:
                    response.read()
                    raise refusal(response)
                for line in response.iter_lines():
                    if line.startswith("event: "):
                        kind = line[7:]
                    elif line.startswith("data: "):
                        yield kind, json.loads(line[6:])
        except httpx.HTTPError as error:
            raise unreachable(error) from error
