"""Replay of Parquet: round trips, and files made to hurt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.agent.source.rig import concatenated, open_source, running
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import Window

pa = pytest.importorskip("pyarrow", exc_type=ImportError)  # some releases of it refuse an older numpy
parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
FAST = "kind = 'replay'\nrate_hz = 1000000\n"


def _windows(folder: Path, source: str) -> list[Window]:
    return list(open_source(folder, FAST + source).windows(0))


def test_round_trip(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).standard_normal((30000, 2)).astype(np.float32)
    times = pa.array(1_700_000_000_000_000 + np.arange(30000) * 1000, pa.timestamp("us"))
    y = pa.array([None if i == 7 else float(value) for i, value in enumerate(samples[:, 1])], pa.float32())
    table = pa.table({"when": times, "x": samples[:, 0], "y": y, "note": ["a"] * 30000})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7001)
    source = (
        "path = 'a.parquet'\ntime_column = 'when'\nsample_rate_hz = 1000\nwindow_samples = 1000\nchannels = ['x', 'y']"
    )
    windows = _windows(tmp_path, source)
    expected = samples.copy()
    expected[7, 1] = np.nan
    np.testing.assert_array_equal(concatenated(windows), expected)
    assert windows[3].t_s == pytest.approx(1_700_000_003, abs=1e-5)
    with pytest.raises(AgentError) as refused:
        _windows(tmp_path, source.replace("'y'", "'note'"))
    assert refused.value.code == "source.malformed"
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(AgentError) as refused:
        _windows(tmp_path, source)
    assert refused.value.code == "source.malformed"


def test_a_file_whose_pages_are_garbage(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": np.arange(5000.0)}), tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[10:2000] = b"\xff" * 1990
    (tmp_path / "a.parquet").write_bytes(content)
    with running(tmp_path, f"{FAST}path = 'a.parquet'\nsample_rate_hz = 10\nwindow_samples = 100") as source:
        source.until_state("source.malformed")


@pytest.mark.parametrize("content", [b"", b"PAR1" + b"\xff" * 40 + b"PAR1", b"PAR1" * 3])
def test_hostile_files_have_a_code(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(AgentError) as refused:
        _windows(tmp_path, "path = 'a.parquet'\nwindow_samples = 10\nsample_rate_hz = 100")
    assert refused.value.code == "source.malformed"
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(AgentError) as refused:
        _windows(tmp_path, "path = 'a.parquet'\nwindow_samples = 10\nsample_rate_hz = 100")
    assert refused.value.code == "source.unreadable"


def test_rows_without_their_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    times = pa.array([None] * 20_000 + [i / 10 for i in range(40)] + [None] * 10_000, pa.float64())
    parquet.write_table(pa.table({"t": times, "x": np.arange(30_040.0)}), tmp_path / "a.parquet")
    source = "path = 'a.parquet'\ntime_column = 't'\nsample_rate_hz = 10\nwindow_samples = 10"
    np.testing.assert_array_equal(concatenated(_windows(tmp_path, source))[:, 0], np.arange(20_000, 20_040))
    assert "30000 rows without a time were left out" in caplog.text
    parquet.write_table(
        pa.table({"t": pa.array([None] * 100, pa.float64()), "x": np.arange(100.0)}), tmp_path / "a.parquet"
    )
    with running(tmp_path, FAST + source) as taken:
        taken.until_state("source.malformed")
    assert "column 't' holds no time" in caplog.text
