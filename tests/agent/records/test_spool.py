"""The spool keeps its promises under kills and random use: nothing is lost, nothing is numbered twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wheeltapper_agent.records.spool import Spool, read_figures
from wheeltapper_protocols.wire.messages import Alert, CaptureReport, LossReport, Report, Severity, TelemetryRecord

ALL = ("telemetry", "alert", "report")


def record(window: int) -> TelemetryRecord:
    return TelemetryRecord(seq=1, pipeline="main", window=window, t_s=float(window), score=0.5)


class SpoolMachine(RuleBasedStateMachine):
    """Compares the spool with a model: numbers, acks and window indexes, with reopening at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.spool = Spool(self.folder / "s.db")
        self.epoch, self.seq, self.acked, self.window = self.spool.epoch, 0, 0, 0

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        self.spool.append(*(record(self.window + index) for index in range(count)))
        self.seq += count
        self.window += count

    @rule(share=st.floats(0, 1))
    def ack(self, share: float) -> None:
        upto = int(self.seq * share)
        self.spool.ack(self.epoch, upto)
        self.acked = max(self.acked, min(upto, self.seq))

    @rule()
    def foreign_ack(self) -> None:
        assert not self.spool.ack("f" * 16 if self.epoch != "f" * 16 else "0" * 16, 10**6)

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.spool = Spool(self.folder / "s.db")

    @invariant()
    def holds_exactly_what_is_not_acked(self) -> None:
        assert [held.seq for held in self.spool.peek(0, 10_000, ALL)] == list(range(self.acked + 1, self.seq + 1))
        assert self.spool.epoch == self.epoch
        assert self.spool.next_window("main") == self.window
        assert self.spool.oldest() == self.acked + 1

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)

_WRITER = """
import sys
from pathlib import Path
from wheeltapper_agent.records.spool import Spool
from wheeltapper_protocols.wire.messages import TelemetryRecord
spool = Spool(Path(sys.argv[1]))
window = spool.next_window("main")
while True:
    spool.append(TelemetryRecord(seq=1, pipeline="main", window=window, t_s=0.0))
    window += 1
    print(window, flush=True)
"""


def test_kill_9_neither_loses_nor_repeats(tmp_path: Path) -> None:
    path, epochs = tmp_path / "s.db", set()
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, env=environment)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.1)
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().split()
        writer.wait()
        spool = Spool(path)
        held = spool.peek(0, 10**6, ALL)
        epochs.add(spool.epoch)
        spool.close()
        windows = [entry.item.window for entry in held if isinstance(entry.item, TelemetryRecord)]
        assert windows == list(range(len(windows)))
        assert [entry.seq for entry in held] == list(range(1, len(held) + 1))
        assert len(held) >= int(said[-1] if said else 0)
    assert len(epochs) == 1


def test_caps_drop_the_oldest_and_count_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", max_records=100)
    for index in range(300):
        spool.append(record(index))
    figures = spool.figures()
    assert figures.dropped > 0
    assert figures.dropped == 204
    assert [held.seq for held in spool.peek(0, 999, ("telemetry",))] == list(range(206, 302))
    assert [(held.seq, held.after) for held in spool.peek(0, 9, ("report",))] == [(102, 0)]
    assert spool.peek(0, 9, ("telemetry",))[0].after == 102
    assert figures.held <= 100
    assert read_figures(tmp_path / "s.db") == figures


def test_a_corrupt_database_begins_a_new_epoch(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database" * 1000)
    spool = Spool(tmp_path / "s.db")
    spool.append(record(0))
    assert spool.figures().seq == 2
    first = spool.peek(0, 1, ALL)[0].item
    assert isinstance(first, Report)
    assert isinstance(first.body, LossReport)
    assert (first.body.why, first.body.lost_epoch) == ("spool.corrupt", None)


def test_kinds_and_answers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    alert = Alert(
        epoch="0" * 16, oldest=1, seq=1, pipeline="main", window=0, t_s=0.0, at=0.0, model="m", release=1, score=2.0,
        severity=Severity.WARNING,
    )  # fmt: skip
    report = Report(epoch="0" * 16, oldest=1, seq=1, at=0.0, body=CaptureReport(command="c1", pipeline="main"))
    spool.append(record(0), alert, report)
    assert [held.seq for held in spool.peek(0, 9, ("alert", "report"))] == [2, 3]
    first = spool.peek(0, 9, ("alert",))[0].item
    assert isinstance(first, Alert)
    assert first.epoch == spool.epoch
    assert spool.answered("c1")
    assert not spool.answered("c2")
