"""How often models were right: true faults and false alarms among what people looked into, counted by cases."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, func, select

from wheeltapper_fleet.alerts.tables import labels

__all__ = ["Findings"]

_READ_AGAIN_SECONDS: Final = 60.0
_YEAR_SECONDS: Final = 365 * 86_400.0


class Findings:
    """Remembers the counts of each model for a minute. They cover a year; reading them reads its labels."""

    def __init__(self) -> None:
        self._read_at: dict[str, float] = {}
        self._counts: dict[str, tuple[int, int]] = {}

    def read(self, connection: Connection, models: Collection[str], now: float) -> None:
        """Read the counts of those of ``models`` that were not read in the last minute."""
        wanted = [each for each in sorted(models) if not 0 <= now - self._read_at.get(each, -1.0) < _READ_AGAIN_SECONDS]
        if not wanted:
            return
        since = labels.c.resolved_at >= now - _YEAR_SECONDS
        found = select(labels.c.model, labels.c.verdict, labels.c.case_id, labels.c.episode).distinct()
        found = found.where(labels.c.model.in_(wanted), since)
        counted = found.subquery()
        query = select(counted.c.model, counted.c.verdict, func.count().label("cases"))
        counts = {
            (row.model, row.verdict): int(row.cases)
            for row in connection.execute(query.group_by(counted.c.model, counted.c.verdict))
        }
        for model in wanted:
            self._read_at[model] = now
            self._counts[model] = (counts.get((model, "true_fault"), 0), counts.get((model, "false_alarm"), 0))

    def of(self, model: str) -> tuple[int, int]:
        """True faults and false alarms of a model."""
        return self._counts.get(model, (0, 0))
