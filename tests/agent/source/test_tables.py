"""Replay of tables whose times are not what was assumed: coarse, in another unit, out of order; what is lost is
counted and logged once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.agent.servers import until
from tests.agent.source.rig import RunningSource, concatenated, open_source
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import Window, malformed_payloads
from wheeltapper_protocols.tables.signal import format_of

FAST = "kind = 'replay'\nrate_hz = 1000000\npath = 'a.csv'\n"
EPOCH = 1_750_000_000.0


def table(
    folder: Path, times: NDArray[np.float64], text: str = "{:.6f}", values: NDArray[np.float64] | None = None
) -> None:
    """A table with the rows 0, 1, 2, …, or ``values``, at ``times``."""
    values = np.arange(float(len(times))) if values is None else values
    rows = [f"{text.format(t)},{value:.10g}" for t, value in zip(times, values, strict=True)]
    (folder / "a.csv").write_text("t,x\n" + "\n".join(rows) + "\n")


def played(folder: Path, rate_hz: float, window: int, more: str = "") -> list[Window]:
    """All windows of the table."""
    keys = f"time_column = 't'\nsample_rate_hz = {rate_hz}\nwindow_samples = {window}\n"
    source = open_source(folder, FAST + keys + more)
    with RunningSource(source) as taken:
        until(taken.ended.is_set, 20, f"the end (it is {source.state})")
        return taken.windows


def refused(folder: Path, rate_hz: float, window: int, code: str, more: str = "") -> list[Window]:
    """The windows that a table gives before it ends in ``code``."""
    keys = f"time_column = 't'\nsample_rate_hz = {rate_hz}\nwindow_samples = {window}\n"
    with RunningSource(open_source(folder, FAST + keys + more)) as taken:
        taken.until_state(code)
        return taken.windows


def floored(step: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda times: np.floor(times / step + 1e-6) * step


def rounded(step: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda times: np.round(times / step) * step


@pytest.mark.parametrize("begin", [0.0, EPOCH])
@pytest.mark.parametrize(
    ("rate_hz", "coarse"),
    [
        (3200.0, rounded(0.001)),
        (700.0, floored(0.002)),  # no step or one
        (950.0, floored(0.001)),  # hardly coarser than a sample
        (1500.0, rounded(0.001)),
        (50.0, floored(1.0)),
        (25_600.0, floored(0.01)),
        (12.5, floored(1.0)),
        (100.0, rounded(0.04)),
    ],
)
def test_times_coarser_than_the_samples_lose_none(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rate_hz: float,
    coarse: Callable[..., NDArray[np.float64]],
    begin: float,
) -> None:
    table(tmp_path, begin + coarse(np.arange(9000) / rate_hz))
    windows = played(tmp_path, rate_hz, 500)
    np.testing.assert_array_equal(concatenated(windows)[:, 0], np.arange(9000))
    assert sum(window.late_samples + window.gap_samples for window in windows) == 0
    assert caplog.text.count("coarser than the samples") == 1


@pytest.mark.parametrize(("rate_hz", "step"), [(3200.0, 0.001), (50.0, 1.0)])
def test_a_gap_longer_than_the_steps_of_coarse_times_is_one(tmp_path: Path, rate_hz: float, step: float) -> None:
    times = np.arange(9000) / rate_hz
    times[4000:] += 100 * step
    table(tmp_path, floored(step)(times))
    windows = played(tmp_path, rate_hz, 500)
    whole = concatenated(windows)[:, 0]
    lost = sum(window.gap_samples for window in windows) + int(np.isnan(whole).sum())
    assert abs(lost - 100 * step * rate_hz) <= 2 * step * rate_hz + 500  # and at most a window that was not whole
    assert set(np.arange(3000)) < set(whole)


def test_rows_that_were_written_twice_are_no_coarse_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(tmp_path, np.repeat(np.arange(1000), 2) / 100, values=np.repeat(np.arange(1000.0), 2))
    windows = played(tmp_path, 100, 100)
    np.testing.assert_array_equal(concatenated(windows)[:, 0], np.arange(1000))
    assert sum(window.late_samples for window in windows) >= 999
    assert "coarser" not in caplog.text
    assert caplog.text.count("1000 samples were left out because their times came twice or too late") == 1


def test_missing_rows_are_no_coarse_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = np.random.default_rng(1).random(4000) > 0.3
    kept[0] = True
    table(tmp_path, np.arange(4000)[kept] / 100, values=np.arange(4000.0)[kept])
    found = concatenated(played(tmp_path, 100, 100))[:, 0]
    np.testing.assert_array_equal(found, np.where(kept, np.arange(4000.0), np.nan)[: len(found)])
    assert "coarser" not in caplog.text


@pytest.mark.parametrize("rows", [4, 12, 300, 9000])
@pytest.mark.parametrize(("factor", "unit"), [(1e3, "ms"), (1e6, "us"), (1e9, "ns")])
@pytest.mark.parametrize("begin", [0.0, EPOCH])
def test_times_in_another_unit_name_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: int, factor: float, unit: str, begin: float
) -> None:
    table(tmp_path, (begin + np.arange(rows) / 50) * factor, "{:.0f}")
    assert refused(tmp_path, 50, 4, "source.mismatch") == []
    assert f"set time_unit = '{unit}'" in caplog.text
    found = concatenated(played(tmp_path, 50, 4, f"time_unit = '{unit}'"))[:, 0]
    np.testing.assert_array_equal(found, np.arange(rows))


def test_a_unit_that_is_set_wrongly_is_named_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(tmp_path, np.arange(300) / 50)
    refused(tmp_path, 50, 10, "source.mismatch", "time_unit = 'us'")
    assert "set time_unit = 's'" in caplog.text
    table(tmp_path, np.arange(300) / 50 / 60)
    refused(tmp_path, 50, 10, "source.mismatch")
    assert "seem to be in minutes" in caplog.text


@pytest.mark.parametrize(("rows", "shown_hz"), [(12, 20), (40, 42), (40, 60), (400, 55)])
def test_a_short_table_of_another_rate_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: int, shown_hz: float
) -> None:
    table(tmp_path, np.arange(rows) / shown_hz)
    assert refused(tmp_path, 50, 4, "source.mismatch") == []
    assert f"sample_rate_hz is 50, but the times in the file show {shown_hz} Hz" in caplog.text


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_a_sensor_whose_clock_is_a_little_off_is_played(tmp_path: Path, share: float) -> None:
    table(tmp_path, np.arange(400) / (50 * share))
    np.testing.assert_array_equal(concatenated(played(tmp_path, 50, 10))[:, 0], np.arange(400))


def test_a_short_table_within_one_second_is_played_in_its_order(tmp_path: Path) -> None:
    table(tmp_path, np.full(40, EPOCH))
    np.testing.assert_array_equal(concatenated(played(tmp_path, 50, 10))[:, 0], np.arange(40))


def test_what_no_sensor_can_have_measured_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.arange(100.0)
    values[[3, 40]] = np.inf, -1e300
    table(tmp_path, np.arange(100) / 50, values=values)
    found = concatenated(played(tmp_path, 50, 10))[:, 0]
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 40]
    assert caplog.text.count("a value is infinite") == 1
    assert "2 values that are infinite" in caplog.text


@pytest.mark.parametrize(("gap_s", "hint"), [(3600.0, True), (500.0, False)])
def test_a_gap_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, gap_s: float, hint: bool) -> None:
    times = 10_000 + np.arange(600) / 10
    times[200:] += gap_s
    times[400:] += 70
    table(tmp_path, times)
    windows = played(tmp_path, 10, 20)
    assert sum(window.gap_samples for window in windows) == gap_s * 10 + 700
    assert caplog.text.count("are missing") == 1
    assert f"before {10_020 + gap_s:.10g} s {gap_s * 10:.0f} samples ({gap_s:g} s) are missing" in caplog.text
    assert ("local time" in caplog.text) is hint


@pytest.mark.parametrize(("content", "kind"), [("t,x\n0,1\n1,2\n", "csv"), ("0.1\t0.2\n0.3\t0.4\n", "csv")])
def test_a_file_without_a_known_ending_is_known_by_its_beginning(tmp_path: Path, content: str, kind: str) -> None:
    path = tmp_path / "2004.02.12.10.32.39"
    path.write_text(content)
    assert format_of(path) == kind
    for mark, other in ((b"PK\3\4", "npz"), (b"RF64", "wav"), (b"PAR1", "parquet"), (b"\0\1\2", "npz")):
        path.write_bytes(mark + b"\0\0\n")
        assert format_of(path) == other
    assert format_of(tmp_path / "none.dat") == "npz"


@pytest.mark.parametrize("order", ["shuffled", "backwards", "machines", "pairs"])
def test_times_out_of_order_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture, order: str) -> None:
    times = np.arange(6000) / 10
    times = {
        "shuffled": np.random.default_rng(3).permutation(times),
        "backwards": times[::-1],
        "machines": np.tile(times[:1000], 6),
        "pairs": times.reshape(-1, 2)[:, ::-1].ravel(),
    }[order]
    table(tmp_path, times)
    refused(tmp_path, 10, 100, "source.malformed")
    assert "the times do not rise: row" in caplog.text


@pytest.mark.parametrize("back_s", [3600.0, 2.0])
def test_a_clock_that_was_set_back_loses_no_whole_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, back_s: float
) -> None:
    times = 10_000 + np.arange(2000) / 10
    times[1050:] -= back_s
    table(tmp_path, times)
    windows = played(tmp_path, 10, 100)
    np.testing.assert_array_equal(concatenated(windows)[:, 0], [*range(1000), *range(1050, 1950)])
    assert sum(window.gap_samples for window in windows) == 50  # what the window before the step had
    assert sum(window.late_samples for window in windows) == 0
    assert caplog.text.count("row 1051: the time goes back") == 1


def test_times_that_begin_below_zero_count_from_the_first(tmp_path: Path) -> None:
    table(tmp_path, -0.05 + np.arange(1000) / 1000)
    windows = played(tmp_path, 1000, 100)
    np.testing.assert_array_equal(concatenated(windows)[:, 0], np.arange(1000))
    assert windows[1].t_s == pytest.approx(0.1)


def test_a_time_that_stands_still_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(tmp_path, np.full(500, EPOCH))
    refused(tmp_path, 50, 100, "source.malformed")
    assert "have one time" in caplog.text


def test_a_table_shorter_than_a_window_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(tmp_path, np.arange(60) / 50)
    assert played(tmp_path, 50, 100) == []
    assert "its 60 samples make no window of 100" in caplog.text


def test_what_a_table_lacks_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{i / 10},{'ERR' if i % 7 == 3 else i}" for i in range(100)]
    (tmp_path / "a.csv").write_text("t,x\n" + "\n".join(rows))
    source = open_source(tmp_path, f"{FAST}time_column = 't'\nsample_rate_hz = 10\nwindow_samples = 20")
    with RunningSource(source) as taken:
        until(taken.ended.is_set, 10, "the end")
    assert malformed_payloads(source) == 14
    assert caplog.text.count("which is no number") == 1
    assert caplog.text.count("14 cells that are no numbers count as missing") == 1


def test_every_option_of_a_table_is_a_key(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "made by hand\n"
        + "".join(f"01.02.2026 00:00:0{i};{i},5;{'weg' if i == 3 else -999 if i == 4 else i}\n" for i in range(6))
    )
    keys = (
        "skip_rows = 1\nheader = false\ndecimal = ','\ntime_column = '1'\nchannels = ['x', 'y']\n"
        "time_format = '%d.%m.%Y %H:%M:%S'\nmissing = ['weg', -999]\nsample_rate_hz = 1\nwindow_samples = 6"
    )
    (window,) = open_source(tmp_path, FAST + keys).windows(0)
    np.testing.assert_array_equal(window.samples[:, 0], np.arange(6) + 0.5)
    np.testing.assert_array_equal(window.samples[:, 1], [0, 1, 2, np.nan, np.nan, 5])
    assert window.t_s == 1_769_904_000


@pytest.mark.parametrize(
    "keys",
    [
        "decimal = ';'",
        "skip_rows = -1",
        "header = 1",
        "time_unit = 'min'",
        "time_format = 'iso'",
        "missing = 'ERR'",
        "missing = [true]",
        "delimiter = ''",
        "rate_hz = 0",
        "tolerance_seconds = -1",
    ],
)
def test_an_option_that_cannot_be_is_refused(tmp_path: Path, keys: str) -> None:
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, f"kind = 'replay'\npath = 'a.csv'\nsample_rate_hz = 1\nwindow_samples = 6\n{keys}")
    assert refused.value.code == "config.invalid"
