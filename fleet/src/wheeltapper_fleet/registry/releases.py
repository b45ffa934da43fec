"""Releases: a bundle that passed its gates becomes something that a device accepts.

Invariants:
    * The TUF metadata decides what is published. The table ``releases`` follows it, and :meth:`Releases.reconcile` adds
      the rows that a crash between the two left out.
    * Before a release is in the metadata, its manifest and every file that it names are in the blob store.
    * A release's number is one more than the last one's. It is part of its path and of its manifest.
    * The content of a release never changes.
    * A release whose gates did not all pass, or that has no gates, is refused; so is one that no device could run.
    * A release that no device could verify within the coming week, because the metadata of root or targets end, is
      refused.

What this module does not do: sign (the team's key is offline; see :mod:`wheeltapper_fleet.trust.repository`); decide
who may publish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Engine, Row, insert, select
from sqlalchemy.exc import IntegrityError
from tuf.api.metadata import TargetFile

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.dataset_views import record_origin
from wheeltapper_fleet.registry.published import find_published, published_release
from wheeltapper_fleet.registry.runnable import check_runnable
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_fleet.trust.repository import Repository, verified_target
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest
from wheeltapper_protocols.wire.ids import manifest_path

__all__ = ["Release", "Releases"]

_VERIFIABLE_SECONDS: Final = 7 * 86_400.0


@dataclass(frozen=True)
class Release:
    """One published release. ``path``, ``sha256`` and ``length`` (bytes) are its manifest's; times are Unix seconds."""

    model: str
    release: int
    path: str
    sha256: str
    length: int
    published_at: float
    published_by: str


class Releases:
    """Publishes releases, finds them, and verifies them.

    Args:
        engine: the fleet's database.
        repository: the TUF repository.
        blobs: where manifests and files of releases are.
        clock: Unix seconds.
    """

    def __init__(self, engine: Engine, repository: Repository, blobs: BlobStore, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._repository = repository
        self._blobs = blobs
        self._clock = clock

    def next_number(self, model: str) -> int:
        """The number of the next release of ``model``.

        Raises:
            FleetError: ``release.model_unknown``.
        """
        return max(self._repository.releases(model), default=0) + 1

    def publish(self, model: str, manifest: bytes, role_metadata: bytes, by: str) -> Release:
        """Publish a release. Publishing it again with the same manifest changes nothing.

        Args:
            model: its model.
            manifest: its manifest, as :func:`wheeltapper_fleet.registry.prepare.prepare_release` made it.
            role_metadata: the next metadata of the team's TUF role, as
                :func:`wheeltapper_fleet.trust.repository.sign_for_team` made it.
            by: who publishes, for the record.

        Raises:
            FleetError: ``release.*``, ``tuf.*``, ``blob.*``, ``trust.expired``, ``bundle.invalid``.
            WireError: ``manifest.*``, ``runtime.*``: no device could run it.
        """
        published = self._repository.releases(model)
        decoded = decode_manifest(manifest)
        number = self._checked_number(model, decoded)
        if number in published:
            if not _matches(published[number], manifest):
                raise FleetError(
                    "release.exists", f"{model} {number} is published with other content; use the next number"
                )
            self._record(model, number, published[number], manifest, by)
            return self.get(model, number)
        if number != max(published, default=0) + 1:
            raise FleetError("release.number", f"the next release of {model} is {max(published, default=0) + 1}")
        self._repository.check_alive(model, self._clock() + _VERIFIABLE_SECONDS, renewed=True)
        self._check_content(decoded)
        path = manifest_path(model, number)
        new = self._repository.check(model, role_metadata)
        if set(new) != {path} or not _matches(new[path], manifest):
            raise FleetError(
                "release.metadata", f"the metadata must add {path} with this manifest's hash, and nothing else"
            )
        self._blobs.put_bytes(manifest)
        self._repository.publish(model, role_metadata)
        self._record(model, number, new[path], manifest, by)
        return self.get(model, number)

    def reconcile(self) -> int:
        """Add a row for each published release that has none (after a crash in :meth:`publish`). Call it at the start.

        Returns:
            How many rows were added.
        """
        added = 0
        for model in self._repository.models():
            known = {entry.release for entry in self.list(model)}
            for number, target in self._repository.releases(model).items():
                if number in known:
                    continue
                manifest = self._blobs.path(target.hashes["sha256"]).read_bytes()
                added += self._record(model, number, target, manifest, "reconciled")
        return added

    def get(self, model: str, release: int) -> Release:
        """One release.

        Raises:
            FleetError: ``release.not_found``.
        """
        with reading(self._engine) as connection:
            return _release(published_release(connection, model, release))

    def list(self, model: str | None = None) -> list[Release]:
        """The releases, of one model or of all, in order."""
        query = select(releases).order_by(releases.c.model, releases.c.release)
        if model is not None:
            query = query.where(releases.c.model == model)
        with reading(self._engine) as connection:
            return [_release(row) for row in connection.execute(query)]

    def manifest(self, model: str, release: int) -> Manifest:
        """The manifest of a release.

        Raises:
            FleetError: ``release.not_found``, ``blob.not_found``.
        """
        return decode_manifest(self._blobs.path(self.get(model, release).sha256).read_bytes())

    def bundle_file(self, model: str, release: int, name: str) -> Path:
        """A file of the bundle of a release, ``manifest.json`` first of all.

        Raises:
            FleetError: ``release.not_found``, ``release.no_file``, ``blob.not_found``.
        """
        path = self._blobs.file_of(self.get(model, release).sha256, name)
        if path is None:
            raise FleetError("release.no_file", f"{model} {release} has no file {name[:80]!r}", 404)
        return path

    def verify(self, model: str, release: int, root: bytes | None = None) -> Manifest:
        """Verify a release as a device would, from the trusted root down to every byte of every file.

        Args:
            model: its model.
            release: its number.
            root: the TUF root to start from; by default the repository's own first one.

        Raises:
            FleetError: ``tuf.unverified``, ``release.not_found``, ``release.metadata``, ``blob.*``.
        """
        path = manifest_path(model, release)
        target = verified_target(self._repository.folder, root or self._repository.trusted_root(), path)
        self._blobs.check(target.hashes["sha256"], target.length)
        manifest = decode_manifest(self._blobs.path(target.hashes["sha256"]).read_bytes())
        if (manifest.model, manifest.release) != (model, release):
            raise FleetError("release.metadata", f"{path} names another release; do not use it")
        for file in manifest.files:
            self._blobs.check(file.sha256, file.length)
        return manifest

    def _checked_number(self, model: str, manifest: Manifest) -> int:
        if manifest.model != model:
            raise FleetError("release.model", f"the manifest is of {manifest.model!r}, not of {model[:80]!r}")
        if manifest.release is None:
            raise FleetError("release.number", "the manifest has no release number; prepare the release first")
        return manifest.release

    def _check_content(self, manifest: Manifest) -> None:
        failed = [gate.name for gate in manifest.gates if not gate.passed]
        if failed or not manifest.gates:
            which = "did not pass: " + ", ".join(failed) if failed else "were not run"
            raise FleetError("release.gate_failed", f"the gates {which}; train a better candidate")
        for file in manifest.files:
            if not self._blobs.has(file.sha256, file.length):
                raise FleetError(
                    "release.blob_missing", f"the blob of {file.name} is not in the store; upload it first"
                )
        check_runnable(manifest, lambda name: self._blobs.path(manifest.file(name).sha256).read_bytes())

    def _record(self, model: str, number: int, target: TargetFile, manifest: bytes, by: str) -> bool:
        values: dict[str, Any] = {
            "model": model,
            "release": number,
            "path": target.path,
            "sha256": target.hashes["sha256"],
            "length": target.length,
            "manifest": msgspec.json.decode(manifest),
            "published_at": self._clock(),
            "published_by": by[:128],
        }
        try:
            with self._engine.begin() as connection:
                if find_published(connection, model, number, releases.c.release) is not None:
                    return False
                connection.execute(insert(releases).values(values))
                record_origin(connection, model, number, decode_manifest(manifest).lineage)
        except IntegrityError:  # another request was faster; its row is the same
            return False
        return True


def _matches(target: TargetFile, manifest: bytes) -> bool:
    own = TargetFile.from_data(target.path, manifest, ["sha256"])
    return target.length == own.length and target.hashes.get("sha256") == own.hashes["sha256"]


def _release(row: Row[Any]) -> Release:
    return Release(
        model=row.model,
        release=row.release,
        path=row.path,
        sha256=row.sha256,
        length=row.length,
        published_at=row.published_at,
        published_by=row.published_by,
    )
