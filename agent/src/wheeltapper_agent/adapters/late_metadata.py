"""The TUF client, made when it is first asked: python-tuf and cryptography take 10 MB that an agent with nothing to
verify does without.
"""

from __future__ import annotations

import functools
from pathlib import Path

from wheeltapper_agent.adapters.http import HttpsClient
from wheeltapper_agent.adapters.marks import MarkStore
from wheeltapper_agent.ports import Clock, MetadataClient, Pause, Verified, no_pause

__all__ = ["LateMetadata"]


class LateMetadata:
    """As :class:`wheeltapper_agent.adapters.tuf_client.TufClient`, whose arguments these are."""

    def __init__(
        self,
        folder: Path,
        root: bytes,
        client: HttpsClient,
        clock: Clock,
        marks: MarkStore,
        timeout_seconds: float = 0.0,
    ) -> None:
        self._folder, self._root, self._https, self._clock = folder, root, client, clock
        self._marks, self._timeout_seconds = marks, timeout_seconds

    @functools.cached_property
    def _client(self) -> MetadataClient:
        from wheeltapper_agent.adapters.tuf_client import TufClient

        return TufClient(self._folder, self._root, self._https, self._clock, self._marks, self._timeout_seconds)

    def refresh(self, not_before_seconds: float, pause: Pause = no_pause) -> Verified:
        """As :meth:`wheeltapper_agent.adapters.tuf_client.TufClient.refresh`."""
        return self._client.refresh(not_before_seconds, pause)
