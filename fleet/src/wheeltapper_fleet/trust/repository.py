"""The TUF repository that devices fetch from: accepts a team's signed metadata, renews snapshot and timestamp.

Invariants:
    * The served files are consistent after a kill at any write. New files have new names; ``timestamp.json``, which
      names the rest by version, length and hash, is replaced last. A file that no timestamp refers to counts as
      absent, and the next publication overwrites it.
    * A new ``root`` is accepted only if the present root and itself verify it, new ``targets`` only if the newest root
      does, each with the next version. A device that was away for years walks from root to root.
    * A team's metadata is accepted only if its delegation verifies it, its version is the current one + 1, it has
      not expired, it holds every earlier target unchanged, and every path is within the delegation.
    * One writer at a time, across threads and processes (a file lock).

Source: The Update Framework specification, sections 5 (client workflow) and 7 (consistent snapshots).

What this module does not do: hold offline keys (:func:`sign_for_team` and :mod:`ceremony` run where those are),
interpret manifests (:mod:`wheeltapper_fleet.registry`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlparse

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.expiry import Life, RenewedBy
from wheeltapper_fleet.trust.keys import DIRECTOR, Lifetimes, expiry, load_signer, meta_file, online_key, tuf_folder
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import parse_manifest_path

__all__ = ["MAX_METADATA_BYTES", "Repository", "sign_for_team", "verified_target"]

MAX_METADATA_BYTES: Final = 4 * 1024 * 1024
_CLOCK_STEP_SECONDS: Final = 60.0
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
    """Add one release to a team's metadata and sign its next version, with a new life. Runs where the team's key is.

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
        """The newest root metadata. A device receives it at its enrolment and walks from it to those that follow."""
        version = 1
        while (self.folder / f"{version + 1}.root.json").exists():  # its versions have no gaps
            version += 1
        return self.read(f"{version}.root.json")

    def newest_root(self) -> Metadata[Root]:
        """The newest root metadata, parsed."""
        return Metadata[Root].from_bytes(self.trusted_root())

    def lives(self) -> list[Life]:
        """When each role's metadata end. The director signs no metadata, so it is not among them."""
        root, targets = self.newest_root().signed, self.targets()
        life, online = self._lifetimes, RenewedBy.SERVICE
        ends: list[tuple[str, Any, float, RenewedBy]] = [
            ("root", root, life.root_seconds, RenewedBy.OFFLINE_KEYS),
            ("targets", targets, life.targets_seconds, RenewedBy.OFFLINE_KEYS),
            ("snapshot", self._snapshot(), life.snapshot_seconds, online),
            ("timestamp", self._timestamp(), life.timestamp_seconds, online),
        ]
        for model in self.models():
            ends.append((model, self._team(model), life.targets_seconds, RenewedBy.OFFLINE_KEYS))
        found = []
        for name, signed, seconds, by in ends:
            role = root.roles.get(name) or targets.get_delegated_role(name)
            found.append(Life(name, signed.expires.timestamp(), seconds, by, len(role.keyids), role.threshold))
        return found

    def director(self) -> tuple[int, int]:
        """How many keys the director has, and how many of them must sign. What it signs are no metadata."""
        role = self.targets().get_delegated_role(DIRECTOR)
        return len(role.keyids), role.threshold

    def check_alive(self, model: str, until: float, *, renewed: bool = False) -> None:
        """Refuse what no device could verify until ``until``: root, targets or the team's metadata end before.

        Args:
            model: whose releases devices would verify.
            until: Unix seconds.
            renewed: the team's own metadata are about to be signed anew, so their present end does not matter.

        Raises:
            FleetError: ``trust.expired``, ``release.model_unknown``.
        """
        self._check_model(model)
        for life in self.lives():
            if life.name in {"root", "targets", model} and life.expires_at <= until:
                if renewed and life.name == model:
                    continue
                when = "has expired" if life.expires_at <= self._clock() else "expires before devices are through"
                raise FleetError(
                    "trust.expired",
                    f"the metadata of {life.name} {when}, and then no device accepts a release: "
                    f"run `wheeltapper keys renew --role {life.name} --keys-dir …` with its offline keys",
                    409,
                )

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
        return tuple(name for name in _delegated(self.targets()) if name != DIRECTOR)

    def team_keys(self, model: str) -> tuple[Key, ...]:
        """The public keys that may sign for ``model``.

        Raises:
            FleetError: ``release.model_unknown``.
        """
        self._check_model(model)
        targets = self.targets()
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
        found = self._team(model).targets
        return dict(sorted((parse_manifest_path(path)[1], target) for path, target in found.items()))

    def check(self, model: str, role_metadata: bytes) -> dict[str, TargetFile]:
        """Check a team's new metadata against every rule in this module's docstring. Changes nothing.

        Returns:
            The targets that it adds, by path.

        Raises:
            FleetError: ``release.model_unknown``, ``tuf.malformed``, ``tuf.signature``, ``tuf.version``,
                ``tuf.expired``, ``tuf.changed``, ``tuf.path``, ``tuf.delegations``.
        """
        current = self._team(model)
        metadata = _read(role_metadata)
        role = metadata.signed
        if not isinstance(role, Targets):
            raise FleetError("tuf.malformed", "this is another role's metadata; send the team role's targets metadata")
        targets = self.targets()
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

    def install(self, root: bytes | None, targets: bytes | None, teams: Mapping[str, bytes]) -> None:
        """Take over what a ceremony signed with offline keys. Either all of it is accepted, or nothing changes.

        Args:
            root: the next root metadata, if there is one.
            targets: the next metadata of the top-level targets role, if there are any.
            teams: metadata of team roles: the next ones, or the first ones of a model that ``targets`` adds.

        Raises:
            FleetError: the codes of :meth:`check`.
        """
        with self._lock():
            trusted = self.newest_root()
            if root is not None:
                trusted = self._checked_root(trusted, root)
            known = self.models()
            if targets is not None:
                self._check_targets(trusted.signed, targets, teams)
            for model, content in teams.items():
                if model in known and self.check(model, content):
                    raise FleetError("tuf.changed", f"these metadata of {model} add releases; publish those instead")
            snapshot = self._snapshot()
            documents = {**teams, **({"targets": targets} if targets is not None else {})}
            if root is not None:
                files.write_atomic(self.folder / f"{trusted.signed.version}.root.json", root)
            for name, content in documents.items():
                version = _read_targets(content).version
                files.write_atomic(self.folder / f"{version}.{name}.json", content)
                snapshot.meta[f"{name}.json"] = meta_file(version, content)
            if documents:
                self._write_timestamp(self._write_snapshot(snapshot))

    def _checked_root(self, trusted: Metadata[Root], content: bytes) -> Metadata[Root]:
        """The new root, which follows ``trusted`` and is signed by the keys of both."""
        new = _read(content)
        if not isinstance(new.signed, Root):
            raise FleetError("tuf.malformed", "this is another role's metadata; sign a root")
        try:
            trusted.verify_delegate(Root.type, new)
            new.verify_delegate(Root.type, new)
        except RepositoryError as error:
            raise FleetError("tuf.signature", "too few root keys signed the new root; sign with all of them") from error
        self._check_next(new.signed, trusted.signed.version, "root")
        return new

    def _check_targets(self, root: Root, content: bytes, teams: Mapping[str, bytes]) -> None:
        """Check new top-level targets, and the first metadata of each model that they add."""
        new, present = _read(content), self.targets()
        targets = _read_targets(content)
        try:
            root.verify_delegate(Targets.type, new.signed_bytes, new.signatures)
            self._check_next(targets, present.version, "targets")
            roles, before = _delegated(targets), _delegated(present)
            for model in roles.keys() - before.keys():
                first = _read(teams.get(model, b""))
                targets.verify_delegate(model, first.signed_bytes, first.signatures)
                self._check_next(first.signed, 0, model)
        except RepositoryError as error:
            raise FleetError("tuf.signature", f"too few keys signed: {error}") from error
        if before.keys() - roles.keys():
            raise FleetError("tuf.delegations", "the new targets drop a model; its devices would refuse every release")

    def _check_next(self, signed: Any, present: int, name: str) -> None:
        if signed.version != present + 1:
            raise FleetError("tuf.version", f"version {signed.version} of {name} does not follow {present}")
        if signed.expires.timestamp() <= self._clock():
            raise FleetError("tuf.expired", f"the new metadata of {name} have expired; sign them again")

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

    def skip_versions(self, count: int) -> None:
        """Sign snapshot and timestamp ``count`` versions further on, past what devices may have seen."""
        with self._lock():
            snapshot = self._snapshot()
            snapshot.version += count - 1
            self._write_timestamp(self._write_snapshot(snapshot), count)

    def _is_fresh(self, signed: Snapshot | Timestamp, lifetime_seconds: float) -> bool:
        left_seconds = signed.expires.timestamp() - self._clock()
        # More than a whole life left means that the clock was wrong when it was signed.
        return lifetime_seconds / 2 <= left_seconds <= lifetime_seconds + _CLOCK_STEP_SECONDS

    def _write_snapshot(self, snapshot: Snapshot) -> bytes:
        snapshot.version += 1
        snapshot.expires = expiry(self._clock(), self._lifetimes.snapshot_seconds)
        metadata = Metadata(snapshot)
        metadata.sign(self._snapshot_signer)
        content = metadata.to_bytes()
        files.write_atomic(self.folder / f"{snapshot.version}.snapshot.json", content)
        return content

    def _write_timestamp(self, snapshot: bytes, versions: int = 1) -> None:
        timestamp = self._timestamp()
        timestamp.version += versions
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

    def targets(self) -> Targets:
        """The current metadata of the top-level targets role."""
        version = self._snapshot().meta["targets.json"].version
        return Metadata[Targets].from_bytes(self.read(f"{version}.targets.json")).signed

    def _team(self, model: str) -> Targets:
        return _read_targets(self.role_metadata(model))

    def _check_model(self, model: str) -> None:
        if model not in self.models():
            known = ", ".join(self.models())
            raise FleetError("release.model_unknown", f"{model[:80]!r} has no team role; the models are: {known}")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, files.PRIVATE)
        try:
            if os.geteuid() == 0:  # a ceremony run by root must not lock the service's user out
                owner = self.folder.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
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


def _delegated(targets: Targets) -> Mapping[str, Any]:
    """The roles that the top-level targets delegate to, by name."""
    return (targets.delegations.roles or {}) if targets.delegations is not None else {}


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
