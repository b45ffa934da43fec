"""The service's log: one line an event on standard error, and what repeats is written once with a count.

Invariants:
    * A line is written at once when it is new. While it comes again, it is written at most once a pause,
      with how often it came since; the pause is a minute at first and doubles up to an hour. It is new again after it
      stayed away for a pause.
    * Nothing goes uncounted: what was left out is told with the first line of any kind after the pause, or at the end.
    * At most :data:`MAX_LINES` different lines are remembered; beyond it, the newest of a logger count as one.
    * What libraries say of every request and every client (who connects, who sends nonsense) is not written; what they
      say of errors is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Final

from wheeltapper_fleet.ground.request import current_request

__all__ = ["MAX_LINES", "CountingHandler", "JsonFormatter", "start_logging"]

MAX_LINES: Final = 512
_FIRST_PAUSE_SECONDS: Final = 60.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NAMED: Final = ("campaign", "device")
_QUIET: Final = {
    "httpx": logging.WARNING,
    "nats": logging.CRITICAL,  # its client reports errors to its caller too
    "alembic": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.ERROR,  # below it: its start and end, and each client that does not speak HTTP
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message; the request's id and what it is about, if any.

    A line about a campaign or a device outside of a request names it by ``extra={"campaign": …}``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; line breaks within are escaped."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        request = current_request()
        if request is not None:
            line |= {"request": request.id} | {
                name: request.subject[name] for name in _NAMED if name in request.subject
            }
        line |= {name: str(record.__dict__[name]) for name in _NAMED if name in record.__dict__}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def start_logging(form: str = "text") -> None:
    """Log to standard error from now on.

    Args:
        form: ``text``, or ``json`` for one JSON object a line.
    """
    handler = CountingHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library, level in _QUIET.items():
        logging.getLogger(library).setLevel(level)


@dataclass(slots=True)
class _Line:
    """One line that was written, and what came of it since."""

    record: logging.LogRecord
    written_at_s: float
    newest_at_s: float
    pause_s: float = _FIRST_PAUSE_SECONDS
    left_out: int = 0


class CountingHandler(logging.StreamHandler[IO[str]]):
    """Writes lines to a stream; the module says which.

    Args:
        stream: by default standard error.
        monotonic: seconds that never run backwards.
    """

    def __init__(self, stream: IO[str] | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream or sys.stderr)
        self._monotonic = monotonic
        self._lines: dict[tuple[str, int, str], _Line] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it. The handler's lock is held, as for every ``emit``."""
        try:
            now_s = self._monotonic()
            self._tell_left_out(now_s)
            key = (record.name, record.levelno, record.getMessage())
            if key not in self._lines and len(self._lines) >= MAX_LINES:
                key = (record.name, record.levelno, "")
            line = self._lines.get(key)
            if line is None:
                self._lines[key] = _Line(record, now_s, now_s)
                super().emit(record)
            else:
                line.newest_at_s = now_s
                line.left_out += 1
                line.record = record
        except Exception:  # noqa: BLE001  # as logging.Handler asks: a log line never ends what logs it
            self.handleError(record)

    def close(self) -> None:
        """Tell what was left out, and end."""
        with self.lock or contextlib.nullcontext():
            for line in self._lines.values():
                self._tell(line, self._monotonic())
            self._lines.clear()
        super().close()

    def _tell_left_out(self, now_s: float) -> None:
        """Write the lines whose pause is over with their counts, and forget those that stayed away for a pause."""
        for key, line in list(self._lines.items()):
            if now_s - line.written_at_s < line.pause_s:
                continue
            if line.left_out:
                self._tell(line, now_s)
                line.pause_s = min(2 * line.pause_s, _LONGEST_PAUSE_SECONDS)
            elif now_s - line.newest_at_s >= line.pause_s:
                del self._lines[key]

    def _tell(self, line: _Line, now_s: float) -> None:
        if not line.left_out:
            return
        old = line.record
        times = "once more" if line.left_out == 1 else f"{line.left_out} times more"
        text = f"{old.getMessage()} ({times} in the last {now_s - line.written_at_s:.0f} s)"
        line.left_out, line.written_at_s = 0, now_s
        super().emit(logging.LogRecord(old.name, old.levelno, old.pathname, old.lineno, text, None, None))
