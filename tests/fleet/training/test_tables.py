"""Files of other makers as recordings for training: whole snapshots only, what is left out is said."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.tables import TableForm, read_any
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import read_recording, write_recording
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import TableOptions

TIMED = TableOptions(time_column="t")


def table(path: Path, times: NDArray[np.float64], values: NDArray[np.float64] | None = None) -> Path:
    values = np.arange(float(len(times))) if values is None else values
    rows = [f"{t:.4f},{'' if np.isnan(x) else x}" for t, x in zip(times, values, strict=True)]
    path.write_text("t,x\n" + "\n".join(rows) + "\n")
    return path


def cut(path: Path, notes: Notes | None = None, window: int = 50, rate_hz: float = 100.0) -> list[int]:
    """The first value of each snapshot, whose values must follow one another."""
    form = TableForm(sample_rate_hz=rate_hz, window_samples=window, options=TIMED)
    found = read_any(path, form, notes or Notes())
    steps = np.diff(found.samples[:, :, 0], axis=1)
    assert bool((steps == 1).all())
    return [int(value) for value in found.samples[:, 0, 0]]


def test_a_gap_is_in_no_snapshot(tmp_path: Path) -> None:
    times = np.arange(20_000) / 100
    times[9_020:] += 0.7
    notes = Notes()
    assert cut(table(tmp_path / "a.csv", times), notes) == [*range(0, 9_000, 50), *range(9_020, 19_951, 50)]
    assert notes.counts == {"gaps": 20}


def test_a_missing_value_costs_its_snapshot(tmp_path: Path) -> None:
    values = np.arange(1000.0)
    values[[120, 130, 700]] = np.nan
    notes = Notes()
    found = cut(table(tmp_path / "a.csv", np.arange(1000) / 100, values), notes)
    assert found == [each for each in range(0, 1000, 50) if each not in (100, 700)]
    assert notes.summary() == ["2 windows with missing values were left out"]


def test_rows_that_came_twice_and_a_clock_that_was_set(tmp_path: Path) -> None:
    times, values = np.arange(1000) / 100, np.arange(1000.0)
    twice = np.sort(np.concatenate([np.arange(1000), [70, 71, 72]]))
    notes = Notes()
    assert cut(table(tmp_path / "a.csv", times[twice], values[twice]), notes) == list(range(0, 1000, 50))
    assert notes.counts == {"late": 3}
    times[520:] -= 3
    notes = Notes()
    form = TableForm(sample_rate_hz=100.0, window_samples=50, options=TIMED)
    found = read_any(table(tmp_path / "a.csv", times), form, notes)
    assert found.samples[:, 0, 0].tolist() == [*range(0, 500, 50), *range(520, 951, 50)]
    assert "back" in notes.counts


def test_coarse_times_and_none(tmp_path: Path) -> None:
    times = np.floor(np.arange(5000) / 100)
    notes = Notes()
    assert cut(table(tmp_path / "a.csv", times), notes) == list(range(0, 5000, 50))
    assert "coarse" in notes.counts
    (tmp_path / "b.csv").write_text("x\n" + "\n".join(map(str, range(20_000))))
    found = read_any(tmp_path / "b.csv", TableForm(sample_rate_hz=100.0, window_samples=64), Notes())
    assert found.samples[:, 0, 0].tolist() == list(range(0, 20_000 - 63, 64))
    np.testing.assert_allclose(found.t_s, np.arange(312) * 0.64)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (TableForm(window_samples=50), "training.table"),
        (TableForm(sample_rate_hz=100.0), "training.table"),
        (TableForm(sample_rate_hz=100.0, window_samples=5000, options=TIMED), "training.table"),
        (TableForm(sample_rate_hz=100.0, window_samples=50, units=("g",)), "training.table"),
        (TableForm(sample_rate_hz=100_000.0, window_samples=50, options=TIMED), "recording.mismatch"),
        (TableForm(sample_rate_hz=100.0, window_samples=50, options=TableOptions(header=False)), "recording.malformed"),
    ],
)
def test_what_a_table_lacks(tmp_path: Path, form: TableForm, code: str) -> None:
    table(tmp_path / "a.csv", np.arange(1000) / 100)
    with pytest.raises((TrainingError, RecordingError)) as refused:
        read_any(tmp_path / "a.csv", form, Notes())
    assert getattr(refused.value, "code", None) == code


def test_one_signal_in_every_format_is_one_recording(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    codes = np.random.default_rng(1).integers(-(2**15), 2**15, 4096)
    (tmp_path / "a.csv").write_text("x\n" + "\n".join(map(str, codes)))
    (tmp_path / "b.csv").write_text("x\n" + "\n".join(f"{code / 8:.3f}".replace(".", ",") for code in codes))
    parquet.write_table(pa.table({"x": codes}), tmp_path / "a.parquet")
    with wave.open(str(tmp_path / "a.wav"), "wb") as handle:
        handle.setnchannels(1)
        handle.setsampwidth(2)
        handle.setframerate(3333)
        handle.writeframes(codes.astype("<i2").tobytes())
    forms = {
        "a.csv": TableForm(sample_rate_hz=3333.3, window_samples=64),
        "a.parquet": TableForm(sample_rate_hz=3333.3, window_samples=64),
        "a.wav": TableForm(sample_rate_hz=3333.3, window_samples=64, scale=(32768.0,)),
    }
    found = {name: read_any(tmp_path / name, form, Notes()) for name, form in forms.items()}
    comma = TableForm(
        sample_rate_hz=3333.3, window_samples=64, scale=(8.0,), options=TableOptions(decimal=",", delimiter=";")
    )
    found["b.csv"] = read_any(tmp_path / "b.csv", comma, Notes())
    for recording in found.values():
        np.testing.assert_array_equal(recording.samples[:, :, 0].ravel(), codes)
        assert recording.sample_rate_hz == 3333.3
        np.testing.assert_array_equal(recording.t_s, found["a.csv"].t_s)
    write_recording(found["a.csv"], tmp_path / "a.npz")
    np.testing.assert_array_equal(read_recording(tmp_path / "a.npz").samples, found["a.wav"].samples)


def test_the_command_takes_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [f"{1_767_225_600_000_000 + round(i * 1e6 / 2048)};{x:.5f};ok" for i, x in enumerate(rng.normal(size=8192))]
    rows[5000] = rows[5000].split(";")[0] + ";ERR;ok"
    text = "a logger\nt;x;note\n" + "\n".join(rows).replace(".", ",")
    (tmp_path / "a.csv").write_text(text)
    line = [sys.executable, "-m", "wheeltapper_fleet", "train", "anomaly", "--recording", str(tmp_path / "a.csv")]
    line += ["--out", str(tmp_path / "b"), "--healthy-fraction", "1", "--json", "--sample-rate-hz", "2048"]
    line += ["--window-samples", "256", "--decimal", ",", "--skip-rows", "1", "--time-column", "t"]
    line += ["--time-unit", "us", "--channels", "x", "--units", "g", "--scale", "2", "--missing", "ERR"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    warnings = json.loads(done.stdout)["warnings"]
    assert any("1 windows with missing values were left out" in text for text in warnings)
    assert any("31 healthy windows are too few" in text for text in warnings)
    assert all(f"warning: {text}" in done.stderr for text in warnings)
    again = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert again.returncode == 2
    assert "[training.out_exists]" in again.stderr
    wrong = [*line[: line.index("--decimal")], "--skip-rows", "1", "--delimiter", ";", "--force", "--time-column", "t"]
    refused = subprocess.run(wrong, capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 2
    assert "decimal = ','" in refused.stderr
    assert refused.stderr.rstrip().endswith("[recording.malformed]")
