"""What the update needs from the TUF repository, as protocols; and a client that is made only when first used.

python-tuf and cryptography take 10 MB of memory. An agent that has no assignment to verify does without them, so this
module does not import them: :class:`DeferredMetadata` makes the real client
(:class:`wheeltapper_agent.update.tuf_client.TufClient`) at the first :meth:`~MetadataClient.refresh`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from wheeltapper_agent.ground.clock import InterruptibleSleep, no_sleep
from wheeltapper_protocols.wire.assignment import PipelineTarget

__all__ = ["DeferredMetadata", "MetadataClient", "VerifiedView"]


class VerifiedView(Protocol):
    """One consistent, verified view of the repository; see :class:`~.tuf_client.VerifiedMetadata`."""

    @property
    def expires_at_seconds(self) -> float: ...

    def verify_director(self, payload: bytes, signatures: dict[str, Any]) -> None: ...

    def check_target(self, target: PipelineTarget) -> None: ...


class MetadataClient(Protocol):
    """Fetches and verifies metadata; see :class:`~.tuf_client.TufClient`."""

    def refresh(self, not_before_seconds: float, sleep: InterruptibleSleep = no_sleep) -> VerifiedView: ...


class DeferredMetadata:
    """A :class:`MetadataClient` that calls ``make`` once, at the first refresh."""

    def __init__(self, make: Callable[[], MetadataClient]) -> None:
        self._make = make

    @functools.cached_property
    def _client(self) -> MetadataClient:
        return self._make()

    def refresh(self, not_before_seconds: float, sleep: InterruptibleSleep = no_sleep) -> VerifiedView:
        """See :class:`MetadataClient`."""
        return self._client.refresh(not_before_seconds, sleep)
