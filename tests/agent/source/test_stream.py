"""What all streaming sources share: retry with backoff, dropping whole windows, silence, bad payloads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.agent.servers import until
from tests.agent.source.rig import RunningSource, concatenated
from wheeltapper_agent.ground.backoff import retry_delay_seconds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.pipeline.config import QualityConfig
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.pipeline.quality import QualityObserver
from wheeltapper_agent.source.base import Window, pending_windows, source_faults
from wheeltapper_agent.source.polling import PollSchedule
from wheeltapper_agent.source.stream import Sink, StreamSource
from wheeltapper_agent.source.stream_config import StreamConfig
from wheeltapper_protocols.signal.quality import DataQuality
from wheeltapper_protocols.wire.messages import Alert, Report, Severity, TelemetryRecord

QUICK = StreamConfig(
    sample_rate_hz=100, window_samples=10, queue_windows=4, retry_first_seconds=0.02, retry_max_seconds=0.08
)


class NullRecords:
    """Records that are kept nowhere."""

    def append(self, *items: TelemetryRecord | Alert | Report) -> None: ...

    def next_window(self, pipeline: str) -> int:
        return 0

    def open_alert(self, pipeline: str) -> Severity:
        return Severity.NORMAL


class ScriptedReader:
    """A reader that does what the test says; one step a call."""

    def __init__(self, *steps: Callable[[Sink], None]) -> None:
        self._steps = list(steps)
        self.calls = 0

    def read(self, sink: Sink) -> None:
        self.calls += 1
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        step(sink)


def _push(sink: Sink, first: int, count: int) -> None:
    sink.connected()
    sink.push(np.arange(first, first + count, dtype=np.float64)[:, None], t_s=first / 100)


def _gone(_sink: Sink) -> None:
    raise AgentError("source.unreachable", "nobody there")


def _source(reader: ScriptedReader, config: StreamConfig = QUICK, wait: bool = False) -> RunningSource:
    return RunningSource(StreamSource(reader, config, SystemClock(), "main", wait_when_full=wait))


def test_it_comes_back_by_itself_and_the_time_stamps_say_what_was_lost() -> None:
    def surprise(_sink: Sink) -> None:
        raise RuntimeError("a library's surprise")

    def break_off(sink: Sink) -> None:
        _push(sink, 0, 20)
        raise AgentError("source.unreachable", "pulled out")

    release = threading.Event()

    def hold(sink: Sink) -> None:
        release.wait(10)
        _push(sink, 23, 7)

    with _source(ScriptedReader(_gone, surprise, break_off, _gone, hold)) as source:
        source.until(2)
        source.until_state("source.unreachable")
        release.set()
        found = concatenated(source.until(3))[:, 0]
        np.testing.assert_array_equal(found[:20], np.arange(20))
        assert np.isnan(found[20:23]).all()
        np.testing.assert_array_equal(found[23:], np.arange(23, 30))
        assert source.ended.wait(5)
        assert source.source.state == "ended"


def test_a_slow_pipeline_loses_whole_windows_and_they_are_counted() -> None:
    begin, done = threading.Event(), threading.Event()

    def flood(sink: Sink) -> None:
        _push(sink, 0, 10)
        begin.wait(10)
        for k in range(1, 100):
            _push(sink, 10 * k, 10)
        done.set()
        sink.closed.wait()

    reader = ScriptedReader(flood)
    source = StreamSource(reader, QUICK, SystemClock(), "main")
    with RunningSource(source, slow=True) as taken:
        taken.until(1)
        begin.set()
        assert done.wait(10)
        assert pending_windows(source) == 4
        taken.gate.set()
        until(lambda: len(taken.windows) + source.dropped == 100, 10, "all")
        assert source.dropped == 95
        np.testing.assert_array_equal(concatenated(taken.windows[-4:])[:, 0], np.arange(960, 1000))


@pytest.mark.parametrize("windows", [6, 24, 61])
def test_a_payload_of_more_windows_than_may_wait_keeps_them(windows: int) -> None:
    def deliver(sink: Sink) -> None:
        for k in range(5):
            _push(sink, 10 * windows * k, 10 * windows)
            sink.closed.wait(0.02)
        sink.closed.wait()

    with _source(ScriptedReader(deliver)) as taken:
        np.testing.assert_array_equal(concatenated(taken.until(5 * windows))[:, 0], np.arange(50 * windows))
        assert taken.source.dropped == 0


def test_windows_that_wait_for_room_are_pending() -> None:
    def deliver(sink: Sink) -> None:
        sink.push(np.zeros((80, 1)))  # 8 windows in two pieces, where 4 may wait
        sink.closed.wait()

    source = StreamSource(ScriptedReader(deliver), replace(QUICK, sample_rate_hz=10), SystemClock(), "main")
    stream = source.windows(0)
    next(stream)
    until(lambda: pending_windows(source) == 7, 0.9, "all others")
    for left in range(6, -1, -1):
        next(stream)
        until(lambda left=left: pending_windows(source) == left, 0.5, "one less")
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    assert source.dropped == 0


def test_a_payload_does_not_wait_longer_than_it_lasts() -> None:
    done = threading.Event()

    def deliver(sink: Sink) -> None:
        for k in range(5):
            _push(sink, 80 * k, 80)  # 8 windows, 0.8 s
        _push(sink, 400, 1200)
        done.set()
        sink.closed.wait()

    source = StreamSource(ScriptedReader(deliver), QUICK, SystemClock(), "main")
    with RunningSource(source, slow=True) as taken:
        taken.until(1)
        assert pending_windows(source) >= 4
        began_s = time.monotonic()
        assert done.wait(10)
        assert time.monotonic() - began_s < 5 * 0.8 + 1.0
        until(lambda: pending_windows(source) == 4, 5, "a full queue")
        taken.gate.set()
        until(lambda: len(taken.windows) + source.dropped == 160, 10, "all")
        assert source.dropped == 155


def test_a_pipeline_that_gathers_keeps_up_with_large_payloads() -> None:
    def deliver(sink: Sink) -> None:
        for k in range(4):
            _push(sink, 200 * k, 200)  # 20 windows, where 4 may wait
            if sink.closed.wait(0.5):
                return
        sink.closed.wait()

    source = StreamSource(ScriptedReader(deliver), QUICK, SystemClock(), "main")
    pipeline = Pipeline("main", source, NullRecords(), SystemClock(), gather_seconds=0.4)
    pipeline.start()
    until(lambda: pipeline.status().windows + source.dropped >= 80, 10, "all")
    pipeline.stop()
    assert (pipeline.status().windows, source.dropped) == (80, 0)


def test_a_wrong_rate_is_said_and_its_windows_are_not_given() -> None:
    heal = threading.Event()

    def read(sink: Sink) -> None:
        sink.connected()
        stamps = 1e9 + np.arange(3000) / 180
        for first in range(0, 3000, 20):
            sink.push_physical(np.arange(first, first + 20.0)[:, None], stamps[first : first + 20])
        heal.wait(10)
        stamps = stamps[-1] + np.arange(1, 1001) / 100
        for first in range(0, 1000, 20):
            sink.push_physical(np.arange(first, first + 20.0)[:, None], stamps[first : first + 20])
        sink.closed.wait()

    with _source(ScriptedReader(read), replace(QUICK, queue_windows=1000)) as taken:
        taken.until_state("source.mismatch")
        count = len(taken.windows)
        assert 100 < count < 200  # until it was sure
        until(lambda: taken.source.dropped > 0, 5, "windows that are not given")
        heal.set()
        taken.until_state("running")
        until(lambda: len(taken.windows) - count > 50, 5, "windows again")
        given, lost = len(taken.windows), taken.source.dropped
        # Each of the 4,000 samples is in a window that was given or counted, but for those between the two rates.
        assert given + lost >= 390


def test_a_gap_between_windows_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    def read(sink: Sink) -> None:
        sink.connected()
        for turn in range(20):
            sink.push(np.zeros((20, 1)), t_s=1e9 + turn * 1.0)  # 80 of 100 are missing
        sink.closed.wait()

    with _source(ScriptedReader(read), replace(QUICK, queue_windows=1000)) as taken:
        windows = taken.until(40)
    assert sum(window.gap_samples for window in windows) == 19 * 80
    assert caplog.text.count("samples are missing between two windows") == 1
    assert any("missing between two windows" in fault.text for fault in source_faults(taken.source))


@pytest.mark.parametrize("size", [20, 500, 2500])
def test_a_wrong_rate_shows_in_payloads_of_any_size(size: int) -> None:
    random = np.random.default_rng(1)

    def read(sink: Sink) -> None:
        sink.connected()
        for k in range(max(8, 3000 // size)):
            sink.push(random.normal(size=(size, 1)), t_s=1e9 + k * size / 150)
        sink.closed.wait()

    with _source(ScriptedReader(read), replace(QUICK, queue_windows=200)) as taken:
        taken.until_state("source.mismatch")


@pytest.mark.parametrize("hop", [420, 500, 750])
def test_payloads_that_overlap_are_right_whatever_their_size(hop: int) -> None:
    windows: list[Window] = []
    clock = StepClock(1e9)
    sink = Sink(replace(QUICK, window_samples=300, queue_windows=1), clock, windows.extend, "main")
    signal = np.random.default_rng(1).normal(size=(20_000, 1)).astype(np.float32)
    for first in range(0, 19_000, hop):
        clock.passed_s = first / 100 + 10.0
        sink.push(signal[first : first + 1000], t_s=1e9 + first / 100)  # taken in 4 pieces
        assert sink.state == "running"
    assert sum(window.late_samples for window in windows) > 4_000
    assert {window.gap_samples for window in windows} == {0}
    np.testing.assert_array_equal(concatenated(windows), signal[: 300 * len(windows)])


def test_what_was_left_out_and_could_not_be_read_is_counted() -> None:
    def read(sink: Sink) -> None:
        _push(sink, 0, 25)
        _push(sink, 0, 25)
        sink.refuse(AgentError("source.payload", "nonsense"))
        _push(sink, 25, 15)
        sink.refuse(AgentError("source.payload", "nonsense"))
        sink.closed.wait()

    source = StreamSource(ScriptedReader(read), QUICK, SystemClock(), "main")
    quality = QualityObserver(source, QualityConfig())
    pipeline = Pipeline("main", source, NullRecords(), SystemClock(), [quality])
    pipeline.start()
    until(lambda: quality.total.windows == 4 and quality.total.malformed == 2, 10, "the counts")
    assert quality.total == DataQuality(windows=4, values=40, late_samples=25, malformed=2)
    pipeline.stop()


class StepClock:
    """A clock whose wall time is set by the test."""

    def __init__(self, ahead_s: float) -> None:
        self.passed_s, self.ahead_s = 5.0, ahead_s

    def now(self) -> float:
        return self.passed_s + self.ahead_s

    def monotonic(self) -> float:
        return self.passed_s


class PollingRig:
    """What a polling reader does at 10 Hz, in simulated time."""

    def __init__(self, ahead_s: float) -> None:
        self.clock, self.windows = StepClock(ahead_s), list[Window]()
        self.sink = Sink(StreamConfig(sample_rate_hz=10, window_samples=600), self.clock, self.windows.extend, "main")

    def connect(self) -> None:
        self.ticks = PollSchedule(self.sink, 10.0)
        self.sink.connected()

    def poll(self, seconds: float) -> None:
        for _ in range(round(10 * seconds)):
            self.clock.passed_s += self.ticks.due_in_seconds() + 1e-9
            self.sink.push(np.zeros((1, 1)), t_s=self.ticks.t_s)

    @property
    def lost(self) -> int:
        return sum(each.gap_samples + int(np.isnan(each.samples).sum()) for each in self.windows)


@pytest.mark.parametrize("jump_s", [1.79e9, 20.0, -20.0, -900.0])
def test_a_wall_clock_that_is_set_moves_what_is_polled(jump_s: float) -> None:
    polled = PollingRig(ahead_s=1000.0)
    polled.connect()
    polled.poll(90)
    polled.clock.ahead_s += jump_s
    polled.poll(150)
    polled.clock.ahead_s += 0.5  # not more than a clock is slewed
    polled.poll(60)
    assert len(polled.windows) == 5
    assert polled.windows[-1].t_s == pytest.approx(max(0.0, polled.clock.now() - 60), abs=1.0)
    assert polled.lost == 0
    assert max(each.late_seconds for each in polled.windows) < 1


@pytest.mark.parametrize("jump_s", [0.0, 1.79e9, -42.0])
def test_a_wall_clock_that_is_set_between_two_connections_is_no_gap(jump_s: float) -> None:
    polled = PollingRig(ahead_s=1000.0)
    polled.connect()
    polled.poll(90)
    polled.sink.broke()
    polled.clock.passed_s += 5.0
    polled.clock.ahead_s += jump_s
    polled.connect()
    polled.poll(150)
    assert polled.lost == pytest.approx(50, abs=2)
    assert polled.windows[-1].t_s == pytest.approx(polled.clock.now() - 65, abs=1.0)
    assert sum(each.late_samples for each in polled.windows) == 0


def test_a_pipe_waits_instead() -> None:
    def flood(sink: Sink) -> None:
        for k in range(100):
            _push(sink, 10 * k, 10)

    with _source(ScriptedReader(flood), wait=True) as taken:
        assert taken.ended.wait(10)
        assert (len(taken.windows), taken.source.dropped) == (100, 0)


def test_closing_ends_a_reader_that_waits_for_room() -> None:
    def flood(sink: Sink) -> None:
        for k in range(100):
            _push(sink, 10 * k, 10)

    source = StreamSource(ScriptedReader(flood), QUICK, SystemClock(), "main", wait_when_full=True)
    taken = RunningSource(source, slow=True)
    until(lambda: source.pending == 4, 5, "a full queue")
    taken.close()


def test_silence_shows_and_ends() -> None:
    config = StreamConfig(sample_rate_hz=100, window_samples=10, silent_seconds=0.2)
    speak = threading.Event()

    def quiet(sink: Sink) -> None:
        sink.connected()
        speak.wait(10)
        _push(sink, 0, 10)
        sink.closed.wait()

    with _source(ScriptedReader(quiet), config) as source:
        source.until_state("source.silent")
        speak.set()
        source.until_state("running")


def test_bad_payloads_show_until_a_good_one() -> None:
    heal = threading.Event()

    def read(sink: Sink) -> None:
        _push(sink, 0, 5)
        sink.push(np.zeros((3, 2)))  # another number of channels
        sink.push(np.zeros((3, 1)), t_s=float("nan"))
        heal.wait(10)
        _push(sink, 5, 5)
        sink.closed.wait()

    with _source(ScriptedReader(read)) as source:
        source.until_state("source.payload")
        heal.set()
        source.until_state("running")
        np.testing.assert_array_equal(concatenated(source.until(1))[:, 0], np.arange(10))
        assert isinstance(source.source, StreamSource)
        assert source.source.malformed_payloads == 2


def test_scale_and_offset() -> None:
    config = StreamConfig(
        sample_rate_hz=100, window_samples=3, channels=("a", "b"), scale=(0.5, 2.0), offset=(1.0, 0.0)
    )

    def read(sink: Sink) -> None:
        sink.push(np.array([[1, 1], [2, 2], [32767, -32768]], dtype=np.int16))

    with _source(ScriptedReader(read), config) as source:
        np.testing.assert_array_equal(source.until(1)[0].samples, [[1, 2], [1.5, 4], [16384, -65536]])


def test_backoff_grows_within_its_bounds() -> None:
    delays = [retry_delay_seconds(n, 0.5, 1.0, 60.0) for n in range(1, 12)]
    assert delays[:4] == [1, 2, 4, 8]
    assert delays[-1] == 60
    assert retry_delay_seconds(10**9, 0.0, 1.0, 60.0) == 30
    assert retry_delay_seconds(0, 1.0, 1.0, 60.0) == 1.5


def test_a_reader_that_is_refused_for_long_is_not_asked_in_a_loop() -> None:
    reader = ScriptedReader(_gone)
    with _source(reader) as source:
        until(lambda: reader.calls >= 5, 10, "a few tries")
        assert source.source.state == "source.unreachable"


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate_hz": 0.0},
        {"window_samples": 0},
        {"window_samples": 2**25},
        {"hop_samples": -1},
        {"channels": ()},
        {"channels": ("x", "x")},
        {"channels": tuple(map(str, range(65)))},
        {"units": ("g", "g")},
        {"scale": (0.0,)},
        {"full_scale": (-1.0,)},
        {"queue_windows": 0},
        {"queue_windows": 2**25},
        {"retry_first_seconds": 0.0},
        {"silent_seconds": -1.0},
    ],
)
def test_impossible_streams_are_refused(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"sample_rate_hz": 100.0, "window_samples": 10}
    with pytest.raises(AgentError) as refused:
        StreamConfig(**(good | wrong))  # type: ignore[arg-type]  # of the parameters above
    assert refused.value.code == "config.invalid"


def test_a_payload_of_many_windows_never_becomes_all_of_them_at_once() -> None:
    taken: list[int] = []
    sink = Sink(QUICK, SystemClock(), lambda windows: taken.append(len(windows)), "main")
    for t_s in (None, 5.0):
        sink.push(np.arange(100_005.0)[:, None], t_s)
    assert max(taken) <= QUICK.queue_windows + 1
    assert sum(taken) in (20_000, 20_001)


def test_what_goes_wrong_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def read(sink: Sink) -> None:
        for number in range(200):
            _push(sink, number, 1)
            sink.refuse(AgentError("source.payload", f"byte {number} is nonsense"))
            sink.missing_values({"speed": "speed: the server is busy"})
        sink.missing_values({})
        done.set()
        sink.closed.wait()

    with _source(ScriptedReader(read), replace(QUICK, queue_windows=50)) as source:
        assert done.wait(10)
        faults = source_faults(source.source)
    assert [(fault.times, fault.over) for fault in faults] == [(200, False), (200, True)]
    assert "byte 199 is nonsense" in faults[0].text
    assert [record.levelname for record in caplog.records].count("WARNING") == 2
    assert len(caplog.records) <= 3


def test_the_fleet_is_told_why_there_is_no_value() -> None:
    def read(sink: Sink) -> None:
        sink.connected()
        while not sink.closed.wait(0.01):
            sink.missing_values({"speed": "speed: the gateway's unit does not answer"})
            sink.push(np.array([[np.nan]]))

    source = StreamSource(ScriptedReader(read), QUICK, SystemClock(), "main")
    pipeline = Pipeline("main", source, NullRecords(), SystemClock(), [])
    pipeline.start()
    until(lambda: pipeline.status().source == "source.no_value", 10, "the state")
    assert pipeline.status().detail == "pipeline main: speed: the gateway's unit does not answer"
    pipeline.stop()


def test_what_is_left_out_or_dropped_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def read(sink: Sink) -> None:
        for first in (0, 20, 15):
            _push(sink, first, 20)
        for number in range(1, 10):
            _push(sink, 40 * number, 40)
        sink.closed.wait()

    with RunningSource(StreamSource(ScriptedReader(read), QUICK, SystemClock(), "main"), slow=True) as source:
        until(lambda: source.source.dropped, 10, "dropped windows")
        named = " ".join(fault.text for fault in source_faults(source.source))
        assert "twice or too late" in named
        assert "too slowly" in named
    assert caplog.text.count("too late for their place") == caplog.text.count("too slowly") == 1


def test_a_reader_that_fails_and_recovers_all_the_time_writes_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    def read(sink: Sink) -> None:
        _push(sink, sink.malformed_payloads, 1)
        sink.malformed_payloads += 1
        raise AgentError("source.unreachable", "the line is bad")

    with _source(ScriptedReader(read)) as source:
        until(lambda: source_faults(source.source) and source_faults(source.source)[0].times > 10, 10, "failures")
    assert len(caplog.records) <= 2


def test_no_window_holds_an_infinite_value() -> None:
    taken: list[Window] = []
    sink = Sink(StreamConfig(sample_rate_hz=10, window_samples=2, scale=(2.0,)), SystemClock(), taken.extend, "main")
    sink.push(np.array([[np.inf], [3e38]]))  # twice 3e38 is above what float32 holds
    sink.push(np.array([[-np.inf], [1.0]]), t_s=np.array([5.0, 5.1]))
    plain = Sink(StreamConfig(sample_rate_hz=10, window_samples=2), SystemClock(), taken.extend, "main")
    plain.push(np.array([[np.inf], [1.0]], np.float32))
    plain.push_physical(np.array([[-1e39], [1.0]]))
    np.testing.assert_array_equal(concatenated(taken)[:, 0], [np.nan, np.nan, np.nan, 2.0, np.nan, 1.0, np.nan, 1.0])
    assert (
        sum(fault.times for fault in sink.fault_counts + plain.fault_counts) == 5
    )  # 3e38 became too large by its scale


@pytest.mark.parametrize("tolerance_s", [0.0, 1.0])
def test_stamps_that_are_coarser_than_the_samples(tolerance_s: float) -> None:
    taken: list[Window] = []
    clock = StepClock(0.0)
    config = StreamConfig(sample_rate_hz=10, window_samples=20, tolerance_seconds=tolerance_s)
    sink = Sink(config, clock, taken.extend, "main")
    for number in range(100):
        clock.passed_s += 0.1
        sink.push(np.array([[number]], np.float64), t_s=float(number // 10))
    if tolerance_s:
        np.testing.assert_array_equal(concatenated(taken)[:, 0], np.arange(100))
        assert not sink.fault_counts
    else:
        (fault,) = sink.fault_counts
        assert "needs tolerance_seconds" in fault.text
        assert fault.times == 90
        assert not fault.over
        sink.push(np.array([[100.0]]), t_s=10.0)
        assert sink.fault_counts[0].over
