"""The TUF repository that devices fetch from: accepts a team's signed metadata, renews snapshot and timestamp.

Invariants:
    * The served files are consistent after a kill at any write. New files have new names; ``timestamp.json``, which
      names the rest by version, length and hash, is replaced last. A file that no timestamp refers to counts as
      absent, and the next publication overwrites it.
    * A team's metadata is accepted only if its delegation verifies it, its version is the current one + 1, it has
      not expired, it holds every earlier target unchanged, and every path is within the delegation.
    * One writer at a time, across threads and processes (a file lock).

Source: The Update Framework specification, sections 5 (client workflow) and 7 (consistent snapshots).

What this module does not do: hold the team's key (:func:`sign_for_team` runs where that key is), rotate ``root`` and
``targets``, interpret manifests (:mod:`wheeltapper_fleet.registry`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlparse

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.keys import DIRECTOR, Lifetimes, expiry, load_signer, meta_file, online_key, tuf_folder
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import parse_manifest_path

__all__ = ["MAX_METADATA_BYTES", "Repository", "sign_for_team", "verified_target"]

MAX_METADATA_BYTES: Final = 4 * 1024 * 1024
_FILE_NAME: Final = re.compile(r"(timestamp|[1-9][0-9]{0,8}\.[a-z0-9][a-z0-9-]{0,62})\.json\Z")


def sign_for_team(
    current: bytes,
    path: str,
    manifest: bytes,
    signer: Signer,
    *,
    now: float,
    lifetimes: Lifetimes | None = None,
) -> bytes:
    """Add one release to a team's metadata and sign its next version. Runs where the team's key is.

    Args:
        current: the role's metadata as the repository serves it now.
        path: TUF target path of the new release.
        manifest: the manifest's bytes; they contain the release number.
        signer: signs with the team's key.
        now: Unix seconds.
        lifetimes: how long the metadata is valid.

    Returns:
        The new metadata file's bytes.

    Raises:
        FleetError: ``release.exists``, ``tuf.malformed``.
    """
    role = _read_targets(current)
    if path in role.targets:
        raise FleetError("release.exists", f"{path} is signed already and a release never changes; use the next number")
    role.targets[path] = TargetFile.from_data(path, manifest, ["sha256"])
    role.version += 1
    role.expires = expiry(now, (lifetimes or Lifetimes()).targets_seconds)
    metadata = Metadata(role)
    metadata.sign(signer)
    return metadata.to_bytes()


class Repository:
    """The metadata files in ``folder``, with the signers of the two online roles.

    Args:
        folder: the files that devices fetch.
        snapshot: signer of the snapshot role.
        timestamp: signer of the timestamp role.
        clock: Unix seconds.
        lifetimes: how long the metadata that is signed here is valid.
    """

    def __init__(
        self,
        folder: Path,
        snapshot: Signer,
        timestamp: Signer,
        clock: Callable[[], float],
        lifetimes: Lifetimes | None = None,
    ) -> None:
        self.folder = folder
        self._snapshot_signer = snapshot
        self._timestamp_signer = timestamp
        self._clock = clock
        self._lifetimes = lifetimes or Lifetimes()
        self._timestamp()

    @classmethod
    def open(cls, data_dir: Path, clock: Callable[[], float], lifetimes: Lifetimes | None = None) -> Repository:
        """Open the repository in the service's data folder.

        Raises:
            FleetError: ``keys.missing``, ``tuf.not_found``.
        """
        snapshot = load_signer(online_key(data_dir, "snapshot"))
        timestamp = load_signer(online_key(data_dir, "timestamp"))
        return cls(tuf_folder(data_dir), snapshot, timestamp, clock, lifetimes)

    def trusted_root(self) -> bytes:
        """The first root metadata. A device receives it at its enrolment and trusts it from then on."""
        return self.read("1.root.json")

    def read(self, name: str) -> bytes:
        """Read one metadata file.

        Args:
            name: as a TUF client asks for it: ``timestamp.json`` or ``<version>.<role>.json``.

        Raises:
            FleetError: ``tuf.not_found``.
        """
        if not _FILE_NAME.match(name):
            raise FleetError("tuf.not_found", f"{name[:80]!r} is not the name of a metadata file")
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise FleetError("tuf.not_found", f"there is no {name} in this repository") from error

    def models(self) -> tuple[str, ...]:
        """The models that have a team role, and so can have releases."""
        delegations = self._targets().delegations
        roles = (delegations.roles or {}) if delegations is not None else {}
        return tuple(name for name in roles if name != DIRECTOR)

    def team_keys(self, model: str) -> tuple[Key, ...]:
        """The public keys that may sign for ``model``.

        Raises:
            FleetError: ``release.model_unknown``.
        """
        self._check_model(model)
        targets = self._targets()
        return tuple(targets.get_key(keyid) for keyid in targets.get_delegated_role(model).keyids)

    def role_metadata(self, model: str) -> bytes:
        """The current metadata of a model's team role.

        Raises:
            FleetError: ``release.model_unknown``.
        """
        self._check_model(model)
        return self.read(f"{self._snapshot().meta[f'{model}.json'].version}.{model}.json")

    def releases(self, model: str) -> dict[int, TargetFile]:
        """The published manifests of ``model``, by release number.

        Raises:
            FleetError: ``release.model_unknown``.
        """
        found = _read_targets(self.role_metadata(model)).targets
        return dict(sorted((parse_manifest_path(path)[1], target) for path, target in found.items()))

    def check(self, model: str, role_metadata: bytes) -> dict[str, TargetFile]:
        """Check a team's new metadata against every rule in this module's docstring. Changes nothing.

        Returns:
            The targets that it adds, by path.

        Raises:
            FleetError: ``release.model_unknown``, ``tuf.malformed``, ``tuf.signature``, ``tuf.version``,
                ``tuf.expired``, ``tuf.changed``, ``tuf.path``, ``tuf.delegations``.
        """
        current = _read_targets(self.role_metadata(model))
        metadata = _read(role_metadata)
        role = metadata.signed
        if not isinstance(role, Targets):
            raise FleetError("tuf.malformed", "this is another role's metadata; send the team role's targets metadata")
        targets = self._targets()
        try:
            targets.verify_delegate(model, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise FleetError(
                "tuf.signature", f"the team key of {model!r} did not sign this; sign it with that team's key"
            ) from error
        if role.version != current.version + 1:
            message = f"version {role.version} does not follow {current.version}; fetch the metadata and sign again"
            raise FleetError("tuf.version", message)
        if role.expires.timestamp() <= self._clock():
            raise FleetError("tuf.expired", "the metadata has expired; sign it again")
        if role.delegations is not None:
            raise FleetError("tuf.delegations", "a team role must not delegate; remove the delegations and sign again")
        for path, target in current.targets.items():
            if role.targets.get(path) != target:
                raise FleetError("tuf.changed", f"{path} was changed or removed; published releases are immutable")
        new = {path: target for path, target in role.targets.items() if path not in current.targets}
        for path in new:
            _check_path(path, model)
        return new

    def publish(self, model: str, role_metadata: bytes) -> None:
        """Check a team's new metadata, then write it, a new snapshot and a new timestamp.

        Args:
            model: whose team signed it.
            role_metadata: the metadata file's bytes.

        Raises:
            FleetError: the codes of :meth:`check`.
        """
        with self._lock():
            self.check(model, role_metadata)
            version = _read_targets(role_metadata).version
            files.write_atomic(self.folder / f"{version}.{model}.json", role_metadata)
            snapshot = self._snapshot()
            snapshot.meta[f"{model}.json"] = meta_file(version, role_metadata)
            self._write_timestamp(self._write_snapshot(snapshot))

    def refresh_timestamp(self) -> bool:
        """Sign snapshot and timestamp anew where less than half of their validity is left.

        The service calls this once a minute, so the metadata never expires while it runs.

        Returns:
            Whether anything was signed.
        """
        with self._lock():
            snapshot = self._snapshot()
            if self._is_fresh(snapshot, self._lifetimes.snapshot_seconds):
                timestamp = self._timestamp()
                if self._is_fresh(timestamp, self._lifetimes.timestamp_seconds):
                    return False
                self._write_timestamp(self.read(f"{snapshot.version}.snapshot.json"))
            else:
                self._write_timestamp(self._write_snapshot(snapshot))
            return True

    def _is_fresh(self, signed: Snapshot | Timestamp, lifetime_seconds: float) -> bool:
        return signed.expires.timestamp() - self._clock() >= lifetime_seconds / 2

    def _write_snapshot(self, snapshot: Snapshot) -> bytes:
        snapshot.version += 1
        snapshot.expires = expiry(self._clock(), self._lifetimes.snapshot_seconds)
        metadata = Metadata(snapshot)
        metadata.sign(self._snapshot_signer)
        content = metadata.to_bytes()
        files.write_atomic(self.folder / f"{snapshot.version}.snapshot.json", content)
        return content

    def _write_timestamp(self, snapshot: bytes) -> None:
        timestamp = self._timestamp()
        timestamp.version += 1
        timestamp.expires = expiry(self._clock(), self._lifetimes.timestamp_seconds)
        timestamp.snapshot_meta = meta_file(_read(snapshot).signed.version, snapshot)
        metadata = Metadata(timestamp)
        metadata.sign(self._timestamp_signer)
        files.write_atomic(self.folder / "timestamp.json", metadata.to_bytes())

    def _timestamp(self) -> Timestamp:
        return Metadata[Timestamp].from_bytes(self.read("timestamp.json")).signed

    def _snapshot(self) -> Snapshot:
        version = self._timestamp().snapshot_meta.version
        return Metadata[Snapshot].from_bytes(self.read(f"{version}.snapshot.json")).signed

    def _targets(self) -> Targets:
        version = self._snapshot().meta["targets.json"].version
        return Metadata[Targets].from_bytes(self.read(f"{version}.targets.json")).signed

    def _check_model(self, model: str) -> None:
        if model not in self.models():
            known = ", ".join(self.models())
            raise FleetError("release.model_unknown", f"{model[:80]!r} has no team role; the models are: {known}")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, files.PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def verified_target(folder: Path, root: bytes, path: str) -> TargetFile:
    """Look up a target as a device would: with python-tuf's client, starting from ``root``.

    Args:
        folder: the repository's metadata files.
        root: the root metadata that the device trusts.
        path: TUF target path.

    Raises:
        FleetError: ``tuf.unverified``, ``release.not_found``.
    """
    with tempfile.TemporaryDirectory() as cache:
        try:
            updater = Updater(cache, folder.resolve().as_uri(), fetcher=_FolderFetcher(), bootstrap=root)
            target = updater.get_targetinfo(path)
        except RepositoryError as error:
            raise FleetError("tuf.unverified", f"the trusted root does not verify the metadata: {error}") from error
        except DownloadHTTPError as error:
            raise FleetError("tuf.unverified", f"a metadata file is missing: {error}") from error
    if target is None:
        raise FleetError("release.not_found", f"{path} is not published")
    return target


class _FolderFetcher(FetcherInterface):
    """Reads ``file:`` URLs, so that python-tuf's client works on a folder."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            return iter([Path(unquote(urlparse(url).path)).read_bytes()])
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"{url.rpartition('/')[2]} is not there", 404) from error


def _check_path(path: str, model: str) -> None:
    # A TUF client silently ignores a path outside of the delegation, so it is refused here.
    if not path.startswith(f"releases/{model}/"):
        raise FleetError("tuf.path", f"{path[:120]!r} is not below releases/{model}/")
    try:
        parse_manifest_path(path)
    except WireError as error:
        raise FleetError("tuf.path", error.message) from error


def _read(content: bytes) -> Metadata[Any]:
    if len(content) > MAX_METADATA_BYTES:
        raise FleetError(
            "tuf.malformed", f"the metadata has {len(content)} bytes; at most {MAX_METADATA_BYTES} are accepted"
        )
    try:
        return Metadata.from_bytes(content)
    except (DeserializationError, RecursionError) as error:
        raise FleetError("tuf.malformed", "the metadata cannot be read; sign it again") from error


def _read_targets(content: bytes) -> Targets:
    signed = _read(content).signed
    if not isinstance(signed, Targets):
        raise FleetError("tuf.malformed", "this is another role's metadata; send the team role's targets metadata")
    return signed
