"""Shared by the tests of spool and delivery: records, a clock that tests move, a publisher that keeps what is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from wheeltapper_agent.records.spool import Spool
from wheeltapper_protocols.wire.messages import Alert, LossReport, Report, Severity, TelemetryRecord
from wheeltapper_protocols.wire.topics import Up

ALL = ("telemetry", "alert", "report")


def record(window: int, pipeline: str = "main") -> TelemetryRecord:
    """A telemetry record of the window ``window``."""
    return TelemetryRecord(seq=1, pipeline=pipeline, window=window, t_s=float(window), model="m", release=1, score=0.5)


def alert(window: int, **changes: object) -> Alert:
    """An alert of the window ``window``, with the fields ``changes``."""
    fields: dict[str, object] = {"epoch": "0" * 16, "oldest": 1, "seq": 1, "pipeline": "main", "window": window}
    fields |= {"t_s": float(window), "at": 1.0, "model": "m", "release": 1, "score": 2.0}
    return Alert(severity=Severity.WARNING, **(fields | changes))  # type: ignore[arg-type]  # by name, checked by msgspec


def losses(spool: Spool) -> list[LossReport]:
    """The loss reports that the spool holds."""
    found = [held.item.body for held in spool.peek(0, 10_000, ("report",)) if isinstance(held.item, Report)]
    return [body for body in found if isinstance(body, LossReport)]


class Clock:
    """A clock that moves only when a test changes ``seconds``."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return 1.7e9 + self.seconds

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class FakePublisher:
    """A publisher that keeps every message in ``sent``, in order. The test delivers them."""

    connected: bool = True
    sent: list[tuple[Up, bytes]] = field(default_factory=list)

    def publish(self, kind: Up, payload: bytes, retain: bool = False) -> bool:
        if self.connected:
            self.sent.append((kind, payload))
        return self.connected


def kill(spool: Spool) -> None:
    """Leave the spool as ``kill -9`` does: the file without what was not committed."""
    spool._closing.set()
    spool._due.set()
    with spool._lock:
        if spool._opened is not None:
            spool._opened.close()
            spool._opened = None
    spool._open = _dead  # type: ignore[method-assign]  # nobody writes any more


def _dead() -> NoReturn:
    raise OSError("killed")
