"""The updater's reports while the spool refuses them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.update.reports import MAX_PENDING, ReportQueue
from wheeltapper_protocols.wire.messages import ExecutionReport, ExecutionState


class Refusing:
    """Records that find no room until ``refuses`` is False."""

    def __init__(self) -> None:
        self.refuses = True
        self.kept: list[Any] = []

    def append(self, *items: Any) -> None:
        if self.refuses:
            raise OSError("planted")
        self.kept += [item.body for item in items]


def test_the_end_of_an_execution_outlives_many_other_reports(caplog: pytest.LogCaptureFixture) -> None:
    records = Refusing()
    queue = ReportQueue(cast(Any, records), SystemClock())
    queue.add(ExecutionReport(execution="e0", state=ExecutionState.WAITING, code="first"))
    queue.add(ExecutionReport(execution="e1", state=ExecutionState.COMMITTED))
    for number in range(MAX_PENDING + 50):
        queue.add(ExecutionReport(execution="e2", state=ExecutionState.WAITING, code=str(number)))
    records.refuses = False
    queue.send()
    assert not queue.pending
    assert len(records.kept) == MAX_PENDING
    assert records.kept[0] == ExecutionReport(execution="e1", state=ExecutionState.COMMITTED)
    assert [body.code for body in records.kept[1:]] == [str(number) for number in range(51, MAX_PENDING + 50)]
    assert "52 older reports found no room" in caplog.text


def test_of_ends_alone_the_newest_are_kept() -> None:
    records = Refusing()
    queue = ReportQueue(cast(Any, records), SystemClock())
    for number in range(MAX_PENDING + 3):
        queue.add(ExecutionReport(execution=f"e{number}", state=ExecutionState.FAILED))
    records.refuses = False
    queue.send()
    assert [body.execution for body in records.kept] == [f"e{number}" for number in range(3, MAX_PENDING + 3)]
