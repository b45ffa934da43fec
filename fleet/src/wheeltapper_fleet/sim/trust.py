"""The verified TUF metadata that all simulated devices share, fetched over the devices' API by python-tuf's client.

Ten thousand agents would each fetch and verify the same few files. Here that is done once; each assignment's signature
is verified all the same, against the delegation to the director.

Invariants:
    * The root that came with the enrolment is the trust anchor.
    * A release counts as its team's only where the team's metadata name the same length and SHA-256 as the assignment,
      and the manifest that the fleet serves has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
from tuf.api import exceptions
from tuf.api.metadata import Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.wire.assignment import PipelineTarget

__all__ = ["SharedMetadata"]

_DIRECTOR: Final = "director"
_CONFIG: Final = UpdaterConfig(prefix_targets_with_hash=False, app_user_agent="wheeltapper-simulate")
_PAUSE_SECONDS: Final = 5.0


class _Fetcher(FetcherInterface):
    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            response = self._client.get(url)
        except httpx.HTTPError as error:
            raise exceptions.DownloadError(type(error).__name__) from error
        if response.status_code != httpx.codes.OK:
            raise exceptions.DownloadHTTPError(url, response.status_code)
        return iter([response.content])


class SharedMetadata:
    """Implements :class:`wheeltapper_fleet.sim.device.Metadata`. What must be fetched is fetched on a thread.

    Args:
        folder: of python-tuf's cache.
        root: the trusted root.
        client: of the devices' API, with the certificate of a device.
    """

    def __init__(self, folder: Path, root: bytes, client: httpx.Client) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._root, self._client = folder, root, client
        self._targets: Targets | None = None
        self._known: dict[PipelineTarget, str] = {}
        self._asked: dict[PipelineTarget, float] = {}
        self._lock = threading.Lock()
        self.verified = 0
        """Assignments whose signature held."""

    def refresh(self) -> Updater:
        """Fetch and verify root, timestamp, snapshot and targets.

        Raises:
            FleetError: ``sim.metadata``.
        """
        try:
            updater = Updater(
                str(self._folder),
                str(self._client.base_url).rstrip("/") + "/v1/tuf/",
                fetcher=_Fetcher(self._client),
                config=_CONFIG,
                bootstrap=self._root,
            )
            updater.refresh()
        except (exceptions.RepositoryError, exceptions.DownloadError, OSError, ValueError) as error:
            raise FleetError("sim.metadata", f"the TUF metadata cannot be verified: {error}", 502) from error
        self._targets = updater._trusted_set.targets
        return updater

    def verify_director(self, payload: bytes, signatures: dict[str, Any]) -> None:
        """Check the signatures over ``payload`` against the director's keys and threshold.

        Raises:
            ValueError: they do not hold.
        """
        if self._targets is None:
            raise ValueError("there are no metadata yet")
        try:
            self._targets.verify_delegate(_DIRECTOR, payload, signatures)
        except exceptions.UnsignedMetadataError as error:
            raise ValueError(str(error)) from error
        self.verified += 1

    def disagreement(self, target: PipelineTarget) -> str | None:
        """The code of why ``target`` is not what its team signed; empty: it is; None: ask again, a thread finds out."""
        known = self._known.get(target)
        if known is None and time.monotonic() - self._asked.get(target, -_PAUSE_SECONDS) >= _PAUSE_SECONDS:
            self._asked[target] = time.monotonic()
            threading.Thread(target=self._find_out, args=(target,), name="sim-metadata", daemon=True).start()
        return known

    def _find_out(self, target: PipelineTarget) -> None:
        """A server that does not answer now is asked again later: then nothing is known."""
        with self._lock, contextlib.suppress(FleetError, httpx.HTTPError, exceptions.DownloadError):
            try:
                info = self.refresh().get_targetinfo(target.path)
            except (exceptions.RepositoryError, ValueError):
                self._known[target] = "trust.metadata"
                return
            if info is None:
                self._known[target] = "update.not_published"
            elif info.length != target.length or info.hashes.get("sha256") != target.sha256:
                self._known[target] = "update.disagree"
            else:
                content = self._client.get(f"/v1/blobs/{target.sha256}").content
                right = len(content) == target.length and hashlib.sha256(content).hexdigest() == target.sha256
                self._known[target] = "" if right else "fetch.hash"
