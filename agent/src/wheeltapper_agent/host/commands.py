"""Commands of the fleet that take a while or change the agent: each is carried out once, on a thread of its own.

Invariants:
    * A command is answered once: what is under way or was answered is not begun again, however often it comes.
    * A command that is over is not begun.
    * What goes wrong is the answer; it never ends the thread.
    * An answer that the spool does not take is forgotten with its command, which the fleet says again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from wheeltapper_agent.captures.reports import AnsweringRecords
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.records.port import unnumbered_report
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.commands import (
    Command,
    CommandReport,
    DiagnosticsCommand,
    ResetBaselineCommand,
    RestartPipelineCommand,
    SettingsCommand,
)

__all__ = ["CommandRunner", "Ordered"]

_LOG: Final = logging.getLogger(__name__)
_MAX_WAITING: Final = 32
_JOIN_SECONDS: Final = 2.0
_MAX_DETAIL_CHARACTERS: Final = 1000

Ordered: TypeAlias = DiagnosticsCommand | RestartPipelineCommand | ResetBaselineCommand | SettingsCommand


class CommandRunner:
    """Carries out commands, one after the other.

    Args:
        records: the spool, where answers go.
        clock: time.
        carry_out: does what a command (its id, its body) asks; gives the report, or None where the status answers.
            AgentError becomes the answer.
    """

    def __init__(
        self, records: AnsweringRecords, clock: Clock, carry_out: Callable[[str, Ordered], CommandReport | None]
    ) -> None:
        self._records = records
        self._clock = clock
        self._carry_out = carry_out
        self._waiting: queue.Queue[tuple[Command, Ordered] | None] = queue.Queue(_MAX_WAITING)
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def start(self) -> None:
        """Begin to carry out commands."""
        self._thread.start()

    def stop(self) -> None:
        """End after the command under way, or without it if it takes long."""
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def alive(self) -> bool:
        """Whether the thread runs, or was stopped."""
        return self._thread.is_alive() or self._stopping

    def take(self, command: Command, body: Ordered) -> None:
        """Carry out a command later. Where too many wait, it is left to the fleet, which repeats it."""
        with self._lock:
            if command.expires_at < self._clock.now() or command.id in self._under_way or self._answered(command.id):
                return
            try:
                self._waiting.put_nowait((command, body))
            except queue.Full:
                return
            self._under_way.add(command.id)

    def _answered(self, command: str) -> bool:
        try:
            return self._records.answered(command)
        except Exception:  # noqa: BLE001  # logged; the fleet repeats the command
            _LOG.exception("command %s: the spool cannot tell whether it was answered", command)
            return True

    def _run(self) -> None:
        while not self._stopping:
            item = self._waiting.get()
            if item is None:
                continue
            command, body = item
            try:
                answer = self._done(command, body)
                if answer is not None:
                    self._records.append(unnumbered_report(answer, self._clock.now()))
            except Exception:  # noqa: BLE001  # logged; the fleet repeats the command
                _LOG.exception(
                    "command %s: its answer could not be kept; it is done again when it is repeated", command.id
                )
            finally:
                with self._lock:
                    self._under_way.discard(command.id)

    def _done(self, command: Command, body: Ordered) -> CommandReport | None:
        if command.expires_at < self._clock.now():
            return None
        _LOG.info("command %s: %s", command.id, type(body).__name__)
        try:
            return self._carry_out(command.id, body)
        except AgentError as error:
            code, detail = error.code, error.message
        except Exception as error:  # noqa: BLE001  # it is the answer
            _LOG.exception("command %s failed", command.id)
            code, detail = "command.failed", brief(error)
        return CommandReport(command=command.id, code=code, detail=detail[:_MAX_DETAIL_CHARACTERS])
