"""Stands for the source of a pipeline, and makes it: at the start, and anew whenever it broke.

Whatever a source does is the state of this one pipeline: it raises (also what is no ``Exception``, such as
``SystemExit``), hangs, ends without saying so, or gives what is no window.

Invariants:
    * Making the source, or reading it, is tried again with growing pauses, without end. :attr:`DeferredSource.state` is
      the code of the fault until windows come again, and :attr:`DeferredSource.trouble` says what is wrong.
    * No method but :attr:`DeferredSource.spec` raises, and none but :meth:`DeferredSource.windows` waits for long.
    * Until the source is made for the first time the form of its windows is unknown, and :attr:`DeferredSource.spec`
      raises the error.
    * What is no window is left out and counted. So many in a row count as a fault.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError, FaultCount
from wheeltapper_agent.ground.repeated import RepeatedFaults
from wheeltapper_agent.ground.stop_event import StopEvent
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.source.attempt import Attempt
from wheeltapper_agent.source.base import (
    Source,
    SourceSpec,
    Window,
    checked_window,
    malformed_payloads,
    pending_windows,
    source_faults,
    source_room,
    window_seconds,
)
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["DeferredSource", "SourceTrouble", "as_agent_error", "standing_for"]

_LOG = logging.getLogger(__name__)
_RETRY_FIRST_SECONDS: Final = 1.0
_RETRY_MAX_SECONDS: Final = 60.0
_CALL_SECONDS: Final = 2.0
"""How long a method of the source that should return at once is waited for."""
_HANG_SECONDS: Final = 30.0
"""Making a source that takes longer is called hanging, and is waited for."""
_SILENT_SECONDS: Final = 60.0
_SILENT_WINDOWS: Final = 10
"""A source that says that it runs is silent after so many intervals, and at least as many seconds, without a window."""
_STOOD_SECONDS: Final = 10.0
"""A source that was opened again and did not fail for so long says its own state."""
_MAX_GARBAGE: Final = 100
"""So many things in a row that are no windows are a fault."""
_MAX_COUNT: Final = 2**53
_POLL_SECONDS: Final = 0.1
_CODE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


def as_agent_error(error: BaseException) -> AgentError:
    """Return ``error`` as an AgentError: with its own code, or ``source.failed``."""
    if isinstance(error, AgentError | ProtocolError):
        return AgentError(error.code, error.message)
    return AgentError("source.failed", f"{type(error).__name__}: {error}"[:500])


@dataclass(frozen=True, slots=True)
class SourceTrouble:
    """Why a source gives no windows."""

    code: str
    message: str
    times: int
    """Failures since windows came last."""
    next_try_seconds: float
    """Seconds until it is tried again; 0: it is being tried."""


class DeferredSource:
    """Stands for a source, makes it and gives its windows; implements
    :class:`~wheeltapper_agent.source.base.Source`.

    Args:
        make: makes the source, or raises.
        error: why the source could not be made the first time; None: it was, or was not tried.
        name: of the pipeline, for the log.
        made: the source, if it is made already.
        clock: the device's.
        opening: the attempt to make it that is under way.
        anew: whether a source that broke is made anew; False: ``made`` is asked for windows again.
    """

    def __init__(
        self,
        make: Callable[[], Source],
        error: AgentError | None,
        name: str,
        *,
        made: Source | None = None,
        clock: Clock | None = None,
        opening: Attempt[Source] | None = None,
        anew: bool = True,
    ) -> None:
        self._make, self._error, self._name, self._anew = make, error, name, anew
        self._made, self._opening = made, opening
        self._clock = clock or SystemClock()
        self._faults = RepeatedFaults(_LOG, self._clock)
        self._failures = int(error is not None)
        self._garbage = 0
        self._spec: SourceSpec | None = None
        self.form: tuple[int, int] | None = None
        """[sample, channel] of a window, by the spec; None before the first window."""
        self._closing: Attempt[None] | None = None
        self._earlier = {"dropped": 0, "malformed": 0}
        """Counts of sources that broke."""
        self._ready = False
        self._closed = StopEvent()
        self._opening_since_s = self._heard_at_s = self._opened_at_s = self._clock.monotonic()
        self._next_try_at_s: float | None = None
        if error is not None:
            self._faults.happened(f"pipeline {name}: the source cannot be opened yet: {error}; trying again")

    # --- what the pipeline and the status ask -------------------------------------------------------------------------

    @property
    def spec(self) -> SourceSpec:
        """The form of the windows.

        Raises:
            AgentError: the source is not made yet, or cannot say; the reason.
        """
        made = self._made
        if made is not None:
            try:
                self._spec = made.spec
            except BaseException as fault:
                raise as_agent_error(fault) from fault
        if self._spec is None:
            error = self._error or AgentError("source.unreachable", "the source is not open yet")
            raise AgentError(error.code, error.message)
        return self._spec

    @property
    def state(self) -> str:
        """The code of what is wrong, or else the state of the source."""
        made, error, now_s = self._made, self._error, self._clock.monotonic()
        if self._opening is not None and now_s - self._opening_since_s > _HANG_SECONDS:
            return "source.hangs"
        if error is not None and (made is None or now_s - self._opened_at_s < _STOOD_SECONDS):
            return error.code
        if made is None:
            return "waiting"
        state = self._asked(lambda: made.state, "source.failed")
        if not isinstance(state, str) or not _CODE.fullmatch(state):
            return "source.failed"
        if state == "running" and now_s - self._heard_at_s > max(_SILENT_SECONDS, _SILENT_WINDOWS * self._interval_s()):
            return "source.silent"
        return state

    @property
    def trouble(self) -> SourceTrouble | None:
        """Why the source gives no windows; None while it does."""
        error, next_try_at_s = self._error, self._next_try_at_s
        if error is None or self._closed.is_set():
            return None
        left_s = 0.0 if next_try_at_s is None else max(0.0, next_try_at_s - self._clock.monotonic())
        return SourceTrouble(error.code, error.message[:500], self._failures, left_s)

    @property
    def failures(self) -> int:
        """Faults since the agent started."""
        return self._faults.total

    @property
    def dropped(self) -> int:
        """Windows that were skipped, and things that are no windows."""
        return self._earlier["dropped"] + self._counted(lambda made: made.dropped)

    @property
    def pending(self) -> int:
        """Windows that are ready."""
        return self._counted(pending_windows)

    @property
    def room(self) -> int:
        """Windows that may wait without loss."""
        return self._counted(source_room)

    @property
    def malformed_payloads(self) -> int:
        """Payloads that could not be read."""
        return self._earlier["malformed"] + self._counted(malformed_payloads)

    @property
    def faults(self) -> list[FaultCount]:
        """What went wrong, by kind."""
        made = self._made
        found = self._asked(lambda: source_faults(made), []) if made is not None else []
        theirs = [each for each in found if isinstance(each, FaultCount)] if isinstance(found, list) else []
        return self._faults.counts() + theirs

    @property
    def interval_seconds(self) -> float:
        """Declared seconds from one window to the next; 0: unknown."""
        return self._interval_s()

    def model_ready(self) -> None:
        """Let the source begin, if it waits for a model, now or once it is made."""
        self._ready = True  # set before _made is read; the thread of windows() sets _made before it reads _ready
        if self._made is not None:
            self._call(self._made.model_ready, "model_ready")

    def begin_to_close(self) -> None:
        """End :meth:`windows` soon; returns at once."""
        self._closed.set()
        if self._made is not None and self._closing is None:
            self._closing = Attempt(self._made.close, f"close-{self._name}")

    def close(self) -> None:
        """End :meth:`windows` soon."""
        self.begin_to_close()
        if self._closing is not None:
            self._wait_for(self._closing, "close")

    # --- the thread of the pipeline -----------------------------------------------------------------------------------

    def windows(self, first: int) -> Iterator[Window]:
        """Give the windows; make the source and read it, trying again as long as needed."""
        return (window for window in self.steps(first) if window is not None)

    def steps(self, first: int) -> Iterator[Window | None]:
        """Like :meth:`windows`, but give None before each pause, so that what was taken before does not wait."""
        index = first
        while not self._failures or self._opening is not None or self._paused():
            stream = self._open(index)
            while stream is not None:
                given = self._next(stream)
                if isinstance(given, Window):
                    index += 1
                    yield given
                elif given is None:
                    yield None
                else:
                    if given:
                        return
                    stream = None
            if self._closed.is_set():
                return
            yield None

    def _paused(self) -> bool:
        """Wait until the source is tried again; False if it was closed."""
        delay_s = retry_delay_seconds(self._failures, random.random(), _RETRY_FIRST_SECONDS, _RETRY_MAX_SECONDS)  # noqa: S311  # jitter
        self._next_try_at_s = self._clock.monotonic() + delay_s
        closed = self._closed.wait(delay_s)
        self._next_try_at_s = None
        return not closed

    def _open(self, first: int) -> Iterator[Window] | None:
        """Make the source if need be, and begin to read it; None if that failed or the source was closed."""
        try:
            if self._made is None:
                self._made = self._opened()
                if self._made is None:
                    return None
                if self._error is not None:
                    _LOG.info("pipeline %s: the source is open", self._name)
            self._opened_at_s = self._heard_at_s = self._clock.monotonic()
            self.form = None
            if self._ready:
                self._call(self._made.model_ready, "model_ready")
            if self._closed.is_set():
                self.close()
            return iter(self._made.windows(first))
        except BaseException as error:  # noqa: BLE001  # a plug-in may raise anything
            self._failed(error)
            return None

    def _opened(self) -> Source | None:
        """Make the source in a thread of its own; None if this one was closed meanwhile."""
        if self._opening is None:
            self._opening_since_s = self._clock.monotonic()
            self._opening = Attempt(self._make, f"open-{self._name}")
        attempt = self._opening
        while not attempt.wait(_POLL_SECONDS):
            if self._closed.is_set():
                return None
        self._opening = None
        return attempt.result()

    def _next(self, stream: Iterator[Any]) -> Window | bool | None:
        """Return the next window; None for something that is none; whether the stream has come to its end (True) or
        broke (False)."""
        try:
            given = next(stream)
        except StopIteration:
            made = self._made
            if self._closed.is_set() or (made is not None and self._asked(lambda: made.state, "") == "ended"):
                return True
            self._failed(AgentError("source.failed", "the source stopped giving windows and does not say why"))
            return False
        except BaseException as error:  # noqa: BLE001  # see _open
            self._failed(error)
            return False
        try:
            window = checked_window(given)
        except ValueError as error:
            self._garbage += 1
            self._earlier["dropped"] += 1
            self._faults.happened(f"pipeline {self._name}: the source gives what is no window: {error}")
            if self._garbage < _MAX_GARBAGE:
                return None
            self._failed(AgentError("source.garbage", f"the source gives what is no window: {error}"))
            return False
        self._heard_at_s = self._clock.monotonic()
        if self.form is None:
            self.form = self._declared_form()
        if self._failures or self._garbage:
            self._error, self._failures, self._garbage = None, 0, 0
            self._faults.ended()
        return window

    def _declared_form(self) -> tuple[int, int] | None:
        """The shape of a window by the spec; None if the source cannot say."""
        try:
            spec = self.spec
            return spec.window_samples, len(spec.channels)
        except AgentError as error:
            self._faults.happened(f"pipeline {self._name}: the source cannot say how its windows look: {error}")
            return None

    def misfits(self, window: Window) -> bool:
        """Whether ``window`` has another form than the source says; it is counted then, and is not to be scored."""
        if self.form is None or window.samples.shape == self.form:
            return False
        self._faults.happened(
            f"pipeline {self._name}: source.garbage: a window is {list(window.samples.shape)} [sample, channel], but "
            f"the source says {list(self.form)}; it is not scored"
        )
        return True

    def _failed(self, error: BaseException) -> None:
        """Note a fault, and let go of the source that broke."""
        self._error, self._garbage = as_agent_error(error), 0
        self._failures += 1
        if not self._closed.is_set():
            _LOG.debug("pipeline %s: the source failed", self._name, exc_info=error)
            self._faults.happened(
                f"pipeline {self._name}: the source failed: {self._error}; trying again", kind=self._error.code
            )
        made = self._made
        if made is None or not self._anew:
            return
        self._earlier["dropped"] += self._counted(lambda each: each.dropped)
        self._earlier["malformed"] += self._counted(malformed_payloads)
        self._made = None
        self._call(made.close, "close")

    # --- foreign code -------------------------------------------------------------------------------------------------

    def _interval_s(self) -> float:
        made = self._made
        found = self._asked(lambda: window_seconds(made), 0.0) if made is not None else 0.0
        return found if isinstance(found, float) and found > 0 else 0.0

    def _counted(self, count: Callable[[Source], int]) -> int:
        """A count of the source; 0 where there is none or it cannot say."""
        made = self._made
        if made is None:
            return 0
        found = self._asked(lambda: count(made), 0)
        return min(int(found), _MAX_COUNT) if isinstance(found, int) and found > 0 else 0

    def _asked(self, ask: Callable[[], object], otherwise: object) -> object:
        try:
            return ask()
        except BaseException as error:  # noqa: BLE001  # a property of a plug-in
            self._faults.happened(f"pipeline {self._name}: the source cannot say how it is: {as_agent_error(error)}")
            return otherwise

    def _call(self, work: Callable[[], None], what: str) -> None:
        """Call a method that should return at once; leave one that hangs to itself."""
        self._wait_for(Attempt(work, f"{what}-{self._name}"), what)

    def _wait_for(self, attempt: Attempt[None], what: str) -> None:
        """Wait for such a call; count one that hangs or raised."""
        if not attempt.wait(_CALL_SECONDS):
            self._faults.happened(f"pipeline {self._name}: {what} of the source hangs and is left to itself")
        elif attempt.error is not None:
            reason = as_agent_error(attempt.error)
            self._faults.happened(f"pipeline {self._name}: {what} of the source failed: {reason}")


def standing_for(source: Source, name: str, clock: Clock) -> DeferredSource:
    """Return ``source`` if it is a :class:`DeferredSource`, or else one that stands for it.

    Nobody can make the latter's source anew: it is asked for windows again when it broke.
    """
    if isinstance(source, DeferredSource):
        return source
    return DeferredSource(lambda: source, None, name, made=source, clock=clock, anew=False)
