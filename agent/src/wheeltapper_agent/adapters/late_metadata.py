"""A metadata client that is made when it is first asked: python-tuf and cryptography take 10 MB that an agent with
nothing to verify does without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from wheeltapper_agent.ports import MetadataClient, Pause, Verified, no_pause

__all__ = ["LateMetadata"]


class LateMetadata:
    """Stands for what ``make`` gives, which is asked once."""

    def __init__(self, make: Callable[[], MetadataClient]) -> None:
        self._make = make

    @functools.cached_property
    def _client(self) -> MetadataClient:
        return self._make()

    def refresh(self, not_before_seconds: float, pause: Pause = no_pause) -> Verified:
        """See :class:`~wheeltapper_agent.ports.MetadataClient`."""
        return self._client.refresh(not_before_seconds, pause)
