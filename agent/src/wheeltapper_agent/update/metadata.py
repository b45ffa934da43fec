"""A metadata client that is made when it is first asked: python-tuf and cryptography take 10 MB that an agent with
nothing to verify does without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from wheeltapper_agent.ground.clock import InterruptibleSleep, no_sleep
from wheeltapper_protocols.wire.assignment import PipelineTarget

__all__ = ["LateMetadata", "MetadataClient", "Verified"]


class Verified(Protocol):
    """One consistent, verified view of the repository."""

    @property
    def expires_at_seconds(self) -> float: ...

    def verify_director(self, payload: bytes, signatures: dict[str, Any]) -> None: ...

    def check_target(self, target: PipelineTarget) -> None: ...


class MetadataClient(Protocol):
    """Where verified views come from; see :class:`wheeltapper_agent.update.tuf_client.TufClient`."""

    def refresh(self, not_before_seconds: float, pause: InterruptibleSleep = no_sleep) -> Verified: ...


class LateMetadata:
    """Stands for what ``make`` gives, which is asked once."""

    def __init__(self, make: Callable[[], MetadataClient]) -> None:
        self._make = make

    @functools.cached_property
    def _client(self) -> MetadataClient:
        return self._make()

    def refresh(self, not_before_seconds: float, pause: InterruptibleSleep = no_sleep) -> Verified:
        """See :class:`~wheeltapper_agent.update.metadata.MetadataClient`."""
        return self._client.refresh(not_before_seconds, pause)
