"""The TUF metadata of the fleet's repository, fetched and verified through python-tuf's client.

Signatures of assignments are checked against the delegation to the ``director`` role.

Invariants:
    * The root that came with the enrolment is the trust anchor.
    * Whatever fails, nothing that was verified is lost, and a later try is possible.
    * Expiry is judged at a time that never runs back past the newest verified time.
    * No version is accepted that is lower than one verified before, even where the cache was lost. (python-tuf treats
      an unreadable cache as an empty one.)
    * A server that sends metadata too slowly is given up after a time.

What this module does not do: the rules for an assignment (:mod:`wheeltapper_agent.update.trust`), fetch files
(:mod:`wheeltapper_agent.update.blobs`).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tuf.api import exceptions
from tuf.api.metadata import Root, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from wheeltapper_agent.ground.clock import Clock, InterruptibleSleep, no_sleep
from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import fsync_file, fsync_folder
from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_agent.update.floors import Floors, FloorStore
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.assignment import PipelineTarget

if TYPE_CHECKING:
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

__all__ = ["DIRECTOR", "TufClient", "VerifiedMetadata"]

DIRECTOR: Final = "director"
_TUF_PREFIX: Final = "/v1/tuf/"
_CONFIG: Final = UpdaterConfig(
    max_root_rotations=64,
    root_max_length=128 * 1024,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=1024 * 1024,
    targets_max_length=4 * 1024 * 1024,
    prefix_targets_with_hash=False,
    app_user_agent="wheeltapper-agent",
)


class _SlowError(exceptions.DownloadError):
    """The metadata did not come within the time allowed."""


class _Fetcher(FetcherInterface):
    """Does python-tuf's downloads through :class:`HttpsClient`. python-tuf caps the length while it reads.

    Args:
        client: of the server.
        clock: what the time is counted by.
        timeout_seconds: for everything that is fetched after :meth:`begin`; 0: no limit.
        sleep: called after each piece; raises to break off.
    """

    def __init__(self, client: HttpsClient, clock: Clock, timeout_seconds: float, sleep: InterruptibleSleep) -> None:
        self._client = client
        self._clock = clock
        self._timeout_seconds = timeout_seconds or math.inf
        self._sleep = sleep
        self.begin()

    def begin(self) -> None:
        """Begin to count the time anew."""
        self._until_seconds = self._clock.monotonic() + self._timeout_seconds

    def _fetch(self, url: str) -> Iterator[bytes]:
        # A generator would raise only when read, outside of python-tuf's own wrapping: take the first piece here.
        pieces = self._client.stream(url)
        try:
            first = next(pieces, b"")
        except HttpsError as error:
            if error.status:
                raise exceptions.DownloadHTTPError(error.message, error.status) from error
            raise exceptions.DownloadError(error.message) from error
        return self._rest(first, pieces)

    def _rest(self, piece: bytes, pieces: Generator[bytes, None, None]) -> Iterator[bytes]:
        """``piece``, then the others, as long as the time allowed is not over."""
        with contextlib.closing(pieces):
            while piece:
                yield piece
                self._sleep(0.0)
                if self._clock.monotonic() > self._until_seconds:
                    raise _SlowError(f"the server did not send it within {self._timeout_seconds:.0f} s")
                try:
                    piece = next(pieces, b"")
                except HttpsError as error:
                    raise exceptions.DownloadError(error.message) from error


def _translated(error: Exception) -> AgentError:
    """The error of ours, with its stable code, for an error of python-tuf."""
    codes: tuple[tuple[type[Exception], str], ...] = (
        (exceptions.ExpiredMetadataError, "trust.expired"),
        (exceptions.BadVersionNumberError, "trust.version"),
        (exceptions.UnsignedMetadataError, "trust.signature"),
        (exceptions.LengthOrHashMismatchError, "trust.hash"),
        (exceptions.DownloadLengthMismatchError, "trust.too_long"),
        (_SlowError, "fetch.slow"),
        (exceptions.DownloadError, "fetch.unreachable"),
        (exceptions.RepositoryError, "trust.metadata"),
    )
    if isinstance(error, OSError):
        return storage_error(error, "the repository's metadata cannot be kept")
    code = next((code for kind, code in codes if isinstance(error, kind)), "trust.metadata")
    return AgentError(code, f"the repository's metadata: {brief(error) or type(error).__name__}")


@dataclass(frozen=True)
class VerifiedMetadata:
    """The view of the repository that one refresh gave: every question is answered from the same consistent state."""

    updater: Updater
    fetcher: _Fetcher
    targets: Targets
    timestamp_expires: datetime.datetime

    @property
    def expires_at_seconds(self) -> float:
        """Unix time until which these metadata hold."""
        return self.timestamp_expires.timestamp()

    def verify_director(self, payload: bytes, signatures: dict[str, Any]) -> None:
        """Check the signatures over ``payload`` against the director's keys and threshold.

        Raises:
            ValueError: they do not meet the threshold, or the repository delegates nothing to a director.
        """
        try:
            self.targets.verify_delegate(DIRECTOR, payload, signatures)
        except exceptions.UnsignedMetadataError as error:
            raise ValueError(str(error)) from error

    def check_target(self, target: PipelineTarget) -> None:
        """Check that the metadata signed by the model's team name the same manifest as the assignment.

        Raises:
            AgentError: ``update.not_published``, ``update.disagree``, and those of :meth:`TufClient.refresh`.
        """
        self.fetcher.begin()
        try:
            info = self.updater.get_targetinfo(target.path)
        except (exceptions.RepositoryError, exceptions.DownloadError, OSError, ValueError) as error:
            raise _translated(error) from error
        if info is None:
            raise AgentError("update.not_published", f"{target.path} is not signed by the team of {target.model}")
        if info.length != target.length or info.hashes.get("sha256") != target.sha256:
            raise AgentError(
                "update.disagree", f"assignment and targets metadata name different bytes for {target.path}"
            )


class TufClient:
    """The device's view of the repository, cached in ``folder``.

    Args:
        folder: of the cache, which python-tuf keeps.
        root: bytes of the trusted root that came with the enrolment.
        client: of the server.
        clock: what expiry is judged by.
        floors: remember the highest versions.
        timeout_seconds: for one refresh, and for the metadata of one team; 0: no limit.
    """

    def __init__(
        self,
        folder: Path,
        root: bytes,
        client: HttpsClient,
        clock: Clock,
        floors: FloorStore,
        timeout_seconds: float = 0.0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._root = root
        self._client = client
        self._clock = clock
        self._floors = floors
        self._timeout_seconds = timeout_seconds

    def refresh(self, not_before_seconds: float, sleep: InterruptibleSleep = no_sleep) -> VerifiedMetadata:
        """Fetch and verify root, timestamp, snapshot and targets.

        Args:
            not_before_seconds: Unix time. Expiry is judged at the clock's time, but never before this.
            sleep: called after each piece, here and in :meth:`VerifiedMetadata.check_target`; what it raises is
                raised here.

        Raises:
            AgentError: ``trust.*``: something does not verify; ``fetch.unreachable`` or ``fetch.slow``: the server does
                not answer in time; ``storage.*``: the disk refuses.
        """
        fetcher = _Fetcher(self._client, self._clock, self._timeout_seconds, sleep)
        try:
            updater = Updater(
                str(self._folder),
                self._client.base_url + _TUF_PREFIX,
                fetcher=fetcher,
                config=_CONFIG,
                bootstrap=self._root,
            )
            trusted = updater._trusted_set
            now_seconds = max(self._clock.now(), not_before_seconds)
            # python-tuf has no public way to give the time; without this a clock set back would revive expired
            # metadata.
            trusted.reference_time = datetime.datetime.fromtimestamp(now_seconds, datetime.UTC)
            before = self._files()
            updater.refresh()
            self._make_durable(before)
        except (
            exceptions.RepositoryError,
            exceptions.DownloadError,
            OSError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise _translated(error) from error
        self._check_versions(_versions(trusted))
        return VerifiedMetadata(updater, fetcher, trusted.targets, trusted.timestamp.expires)

    def _files(self) -> dict[Path, int]:
        """The cached files with their inodes. python-tuf replaces what it writes, so a new inode is a new file."""
        found = [*self._folder.glob("*.json"), *self._folder.glob("root_history/*.json")]
        return {path: path.stat().st_ino for path in found if not path.is_symlink()}

    def _make_durable(self, before: dict[Path, int]) -> None:
        """Sync the files that changed since ``before`` (:meth:`_files`) to the disk, which python-tuf does not do."""
        changed = sorted(path for path, inode in self._files().items() if before.get(path) != inode)
        for path in changed:
            fsync_file(path)
        for folder in sorted({path.parent for path in changed}):
            fsync_folder(folder)

    def _check_versions(self, versions: dict[str, int]) -> None:
        """Refuse metadata that are older than those verified before, and remember the versions of the others.

        Raises:
            AgentError: ``trust.version``.
        """
        for name, version in versions.items():
            seen = self._floors.current.metadata.get(name, 0)
            if version < seen:
                text = f"{name.partition(' ')[0]} has version {version}, but version {seen} was verified before"
                raise AgentError("trust.version", f"the repository's metadata: {text}")
        self._floors.raise_to(Floors(metadata=versions))


def _versions(trusted: TrustedMetadataSet) -> dict[str, int]:
    """The versions of the metadata, which may only rise, by role and keys.

    With new keys the versions of a role begin anew. Otherwise a stolen online key could lock the device out for good by
    one very high version (TUF specification 1.0.33, 5.3.11, which forgets timestamp and snapshot together).
    """
    root = trusted.root
    online, offline = _keys(root, "timestamp", "snapshot"), _keys(root, "targets")
    return {
        "root": root.version,
        f"timestamp {online}": trusted.timestamp.version,
        f"snapshot {online}": trusted.snapshot.version,
        f"targets {offline}": trusted.targets.version,
    }


def _keys(root: Root, *roles: str) -> str:
    """A short name for the keys that ``root`` gives to ``roles``."""
    text = "; ".join(" ".join(sorted(root.roles[role].keyids)) for role in roles)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
