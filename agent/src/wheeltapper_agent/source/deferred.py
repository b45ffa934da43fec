"""A source whose file or device was not as it should be when the agent started; it is made when it can be.

Invariants: what is wrong is the state of this one pipeline, and is tried again with backoff, without end. Until the
source is made nobody knows what its windows look like: :attr:`DeferredSource.spec` raises what is wrong instead.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from typing import Final

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import StopEvent
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import Source, SourceSpec, Window, malformed_payloads, pending_windows, source_room
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["DeferredSource", "as_agent_error"]

_LOG = logging.getLogger(__name__)
_RETRY_FIRST_SECONDS: Final = 1.0
_RETRY_MAX_SECONDS: Final = 60.0


def as_agent_error(error: Exception) -> AgentError:
    """What a source's maker raised, with a code."""
    if isinstance(error, AgentError | ProtocolError):
        return AgentError(error.code, error.message)
    return AgentError("source.failed", f"{type(error).__name__}: {error}")


class DeferredSource:
    """Stands for a source until it can be made, then gives its windows.

    Args:
        make: the source.
        error: why it could not be made the first time.
        name: of the pipeline, for the log.
    """

    def __init__(self, make: Callable[[], Source], error: AgentError, name: str) -> None:
        self._make, self._error, self._name = make, error, name
        self._made: Source | None = None
        self._ready = False
        self._closed = StopEvent()
        _LOG.warning("pipeline %s: %s; trying again", name, error)

    @property
    def spec(self) -> SourceSpec:
        """What the windows look like.

        Raises:
            AgentError: the source is not made; why.
        """
        if self._made is None:
            raise AgentError(self._error.code, self._error.message)
        return self._made.spec

    @property
    def state(self) -> str:
        """The code of what is wrong, or the state of the source."""
        return self._error.code if self._made is None else self._made.state

    @property
    def dropped(self) -> int:
        """Windows that were skipped."""
        return 0 if self._made is None else self._made.dropped

    @property
    def pending(self) -> int:
        """Windows that are ready."""
        return 0 if self._made is None else pending_windows(self._made)

    @property
    def room(self) -> int:
        """Windows that may wait."""
        return 0 if self._made is None else source_room(self._made)

    @property
    def malformed_payloads(self) -> int:
        """Payloads that could not be read."""
        return 0 if self._made is None else malformed_payloads(self._made)

    def model_ready(self) -> None:
        """Begin, if the source was holding or will be."""
        self._ready = True  # before the look at what is made: the other thread looks in the other order
        if self._made is not None:
            self._made.model_ready()

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self._closed.set()
        if self._made is not None:
            self._made.close()

    def windows(self, first: int) -> Iterator[Window]:
        """Those of the source, once it is made."""
        failures = 1
        while self._made is None:
            delay = retry_delay_seconds(failures, random.random(), _RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS)  # noqa: S311  # jitter
            if self._closed.wait(delay):
                return
            try:
                self._made = self._make()
            except Exception as error:  # noqa: BLE001  # a plug-in's surprise is the state of its own pipeline
                found, failures = as_agent_error(error), failures + 1
                if found.code != self._error.code:
                    _LOG.warning("pipeline %s: %s; trying again", self._name, found)
                self._error = found
        _LOG.info("pipeline %s: its source is there", self._name)
        if self._ready:
            self._made.model_ready()
        if self._closed.is_set():
            self._made.close()
        yield from self._made.windows(first)
