"""The newest lines of the agent's log, kept in memory for a diagnostics bundle."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

__all__ = ["LogTail"]

_LINE_CHARACTERS: Final = 500
_LINES_KEPT: Final = 500


class LogTail(logging.Handler):
    """Keeps the newest lines of the log in memory, some 100 KB at most."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        try:
            self._lines.append(self.format(record)[:_LINE_CHARACTERS])
        except Exception:  # noqa: BLE001  # as logging does: what cannot be formatted must not end its caller
            self.handleError(record)

    def lines(self, most: int) -> list[str]:
        """The newest ``most`` lines, oldest first."""
        return list(self._lines)[-most:] if most else []
