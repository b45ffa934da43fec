"""Calls about releases: upload blobs, publish, list, verify, drift; and what devices run by default."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from wheeltapper_fleet.client.bundles import fetch_bundle
from wheeltapper_fleet.client.requests import PREFIX, Requests, quoted

__all__ = ["ReleaseCalls"]


class ReleaseCalls(Requests):
    """One method for each route of releases and default releases."""

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

    def fetch_release_bundle(self, model: str, release: int, out: Path) -> None:
        """Fetch the bundle of a release into the folder ``out``, which is made and must not be there.

        Raises:
            FleetError: ``release.not_found``, ``release.out_exists``; ``release.damaged``: a file is not what the
                release says.
        """
        path = f"{PREFIX}/releases/{quoted(model)}/{release}/bundle/"
        sha256 = self.release(model, release)["sha256"]
        what = f"{model} {release}"
        fetch_bundle(lambda name: self._send("GET", path + quoted(name)).content, sha256, out, what, "release")

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

    def quality(self, model: str, release: int, **query: Any) -> dict[str, Any]:
        """The quality of a release, estimated without labels; ``query`` as for :meth:`drift`."""
        return dict(self._get(f"/releases/{quoted(model)}/{release}/quality", query))

    def compare_releases(self, model: str, one: int, other: int) -> dict[str, Any]:
        """Two releases of a model side by side."""
        return dict(self._get(f"/releases/{quoted(model)}/{one}/compare", {"other": other}))

    def release_card(self, model: str, release: int) -> dict[str, Any]:
        """The model card of a release."""
        return dict(self._get(f"/releases/{quoted(model)}/{release}/card"))

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

    def aliases(self, model: str | None = None) -> list[dict[str, Any]]:
        """The aliases of a model, or of all, by model and name."""
        return list(self.items("/aliases" if model is None else f"/models/{quoted(model)}/aliases"))

    def alias_changes(self, model: str, alias: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The newest changes of a model's aliases, or of one of them; ``limit`` of them at most."""
        query = {"limit": limit} | ({} if alias is None else {"alias": alias})
        return list(self._get(f"/models/{quoted(model)}/alias-changes", query)["items"])

    def set_alias(
        self, model: str, alias: str, release: int, why: str = "", if_match: str | None = None
    ) -> dict[str, Any]:
        """Let an alias name a release; with ``if_match`` only if its version is still that one."""
        path = f"/models/{quoted(model)}/aliases/{quoted(alias)}"
        return dict(self._change(path, {"release": release, "why": why}, if_match, "PUT"))

    def remove_alias(self, model: str, alias: str, why: str = "", if_match: str | None = None) -> None:
        """Let an alias name nothing; with ``if_match`` only if its version is still that one."""
        path = f"/models/{quoted(model)}/aliases/{quoted(alias)}/remove"
        self._change(path, {"why": why}, if_match, "POST")
