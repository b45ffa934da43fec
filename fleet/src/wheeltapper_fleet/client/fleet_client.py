"""The admin API from the other side: what the command line and the demo speak.

Invariant: every refusal of the server comes out as :class:`FleetError` with the server's code; a server that cannot be
reached as ``client.unreachable``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final
from urllib.parse import quote

import httpx

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["Connection", "FleetClient", "find_fleet"]

_TIMEOUT_SECONDS: Final = 30.0
_PREFIX: Final = "/api/v1"


class Connection:
    """Where a fleet service is and the token for it."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token


def find_fleet(data_dir: Path) -> Connection:
    """The fleet service that runs on ``data_dir`` (its ``serve.json`` and ``api-token``).

    Raises:
        FleetError: ``client.not_running``.
    """
    try:
        served = json.loads((data_dir / "serve.json").read_text(encoding="utf-8"))
        return Connection(str(served["admin_url"]), (data_dir / "api-token").read_text(encoding="ascii").strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"no fleet service seems to run on {data_dir}; start it with `wheeltapper serve`, or give --url"
        raise FleetError("client.not_running", message, 503) from error


class FleetClient:
    """One method for each route. Close it, or use it in ``with``.

    Args:
        base_url: e.g. ``http://127.0.0.1:8080``.
        token: the API token.
    """

    def __init__(self, base_url: str, token: str, *, verify: str | bool = True) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_SECONDS,
            verify=verify,
            trust_env=False,
        )

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def healthz(self) -> dict[str, Any]:
        """Whether every part works."""
        return dict(self._send("GET", "/healthz", ok=(200, 503)).json())

    def create_token(
        self, device: str, ttl_seconds: float = 86_400.0, tags: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """A one-time enrolment token: ``device``, ``token``, ``expires_at``."""
        return dict(self._post("/tokens", {"device": device, "ttl_seconds": ttl_seconds, "tags": dict(tags or {})}))

    def devices(self) -> list[dict[str, Any]]:
        """All devices."""
        return list(self._get("/devices"))

    def device(self, device: str) -> dict[str, Any]:
        """One device."""
        return dict(self._get(f"/devices/{_part(device)}"))

    def revoke(self, device: str) -> dict[str, Any]:
        """Refuse the device from now on."""
        return dict(self._post(f"/devices/{_part(device)}/revoke", None))

    def forget(self, device: str) -> None:
        """Remove the device, so that its id can be enrolled again."""
        self._send("POST", f"{_PREFIX}/devices/{_part(device)}/forget")

    def request_capture(self, device: str, pipeline: str, snapshots: int) -> str:
        """Ask for a recording; returns the command's id."""
        answer = self._post(f"/devices/{_part(device)}/captures", {"pipeline": pipeline, "snapshots": snapshots})
        return str(answer["command"])

    def captures(self, device: str | None = None) -> list[dict[str, Any]]:
        """Recordings asked for or received, newest first."""
        return list(self._get("/captures", {"device": device} if device is not None else None))

    def fetch_capture(self, command: str, target: Path) -> int:
        """Save a recording; returns its length in bytes. The file appears whole or not at all.

        Raises:
            FleetError: ``capture.not_found``, ``client.hash``.
        """
        temporary = target.with_name(f".{target.name}.part")
        digest, length = hashlib.sha256(), 0
        try:
            with self._http.stream("GET", f"{_PREFIX}/captures/{_part(command)}/recording") as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                with temporary.open("wb") as file:
                    for chunk in response.iter_bytes():
                        digest.update(chunk)
                        length += file.write(chunk)
            if digest.hexdigest() != response.headers.get("X-Content-SHA256"):
                raise FleetError("client.hash", "the recording was damaged on its way; fetch it again", 502)
            temporary.replace(target)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return length

    def has_blob(self, sha256: str) -> bool:
        """Whether the blob is in the store."""
        return self._send("HEAD", f"{_PREFIX}/blobs/{_part(sha256)}", ok=(200, 404)).status_code == 200

    def put_blob(self, sha256: str, content: bytes | IO[bytes]) -> None:
        """Store a blob."""
        self._send("PUT", f"{_PREFIX}/blobs/{_part(sha256)}", content=content)

    def role_metadata(self, model: str) -> tuple[bytes, int]:
        """The team role's metadata as it is now, and the number of the next release."""
        response = self._send("GET", f"{_PREFIX}/models/{_part(model)}/targets")
        return response.content, int(response.headers["X-Next-Release"])

    def publish(self, model: str, manifest: bytes, metadata: bytes) -> dict[str, Any]:
        """Publish a release whose blobs are in the store."""
        body = {"manifest": manifest.decode(), "metadata": metadata.decode()}
        return dict(self._post(f"/models/{_part(model)}/releases", body))

    def publish_bundle(self, bundle_dir: Path, key: Path | str, rollback_floor: int | None = None) -> dict[str, Any]:
        """All of publishing: number the bundle, sign it here with the team's ``key``, upload, publish.

        Devices that commit it never go below ``rollback_floor`` again.

        Raises:
            FleetError: ``release.*``, ``keys.*``, ``tuf.*``.
        """
        from wheeltapper_fleet.registry.releases import prepare_release
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
        """All releases."""
        return list(self._get("/releases"))

    def release(self, model: str, release: int) -> dict[str, Any]:
        """One release."""
        return dict(self._get(f"/releases/{_part(model)}/{release}"))

    def verify_release(self, model: str, release: int) -> dict[str, Any]:
        """Have a release verified as a device would."""
        return dict(self._get(f"/releases/{_part(model)}/{release}/verify"))

    def drift(self, model: str, release: int, **query: Any) -> dict[str, Any]:
        """A release's features and scores against its training; ``since``, ``until``, ``device`` narrow it."""
        return dict(self._get(f"/releases/{_part(model)}/{release}/drift", query))

    def create_campaign(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A new campaign, not started."""
        return dict(self._post("/campaigns", {"spec": dict(spec)}))

    def campaigns(self) -> list[dict[str, Any]]:
        """All campaigns, newest first."""
        return list(self._get("/campaigns"))

    def campaign(self, campaign: str) -> dict[str, Any]:
        """One campaign, with executions and log."""
        return dict(self._get(f"/campaigns/{_part(campaign)}"))

    def act(self, campaign: str, action: str, expected_version: int | None = None) -> dict[str, Any]:
        """``start``, ``pause``, ``resume`` or ``abort``; without a version the one that is current now.

        Raises:
            FleetError: ``campaign.conflict`` where someone else was faster.
        """
        if expected_version is None:
            expected_version = int(self.campaign(campaign)["version"])
        return dict(self._post(f"/campaigns/{_part(campaign)}/{action}", {"expected_version": expected_version}))

    def alerts(self, limit: int = 200, after_id: int = 0) -> list[dict[str, Any]]:
        """Alerts, newest first."""
        return list(self._get("/alerts", {"limit": limit, "after_id": after_id}))

    def summary(self) -> dict[str, Any]:
        """The fleet in numbers."""
        return dict(self._get("/summary"))

    def events(self) -> Iterator[tuple[str, Any]]:
        """Live changes as (kind, value), until the server ends."""
        kind = ""
        try:
            with self._http.stream("GET", f"{_PREFIX}/events", timeout=httpx.Timeout(10.0, read=60.0)) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                for line in response.iter_lines():
                    if line.startswith("event: "):
                        kind = line[7:]
                    elif line.startswith("data: "):
                        yield kind, json.loads(line[6:])
        except httpx.HTTPError as error:
            raise _unreachable(error) from error

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._send("GET", _PREFIX + path, params=query).json()

    def _post(self, path: str, body: Mapping[str, Any] | None) -> Any:
        return self._send("POST", _PREFIX + path, json=body).json()

    def _send(self, method: str, path: str, *, ok: tuple[int, ...] = (), **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if not response.is_success and response.status_code not in ok:
            raise _refusal(response)
        return response


def _part(text: str) -> str:
    """``text`` as one part of a path."""
    return quote(text, safe="")


def _unreachable(error: Exception) -> FleetError:
    return FleetError("client.unreachable", f"cannot reach the fleet service: {error or type(error).__name__}", 503)


def _refusal(response: httpx.Response) -> FleetError:
    try:
        body = response.json()
        return FleetError(str(body["code"]), str(body["message"]), response.status_code)
    except (ValueError, KeyError, TypeError):
        message = f"the server answered with status {response.status_code}"
        return FleetError("client.answer", message, response.status_code)
