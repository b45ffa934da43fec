"""Columns of Parquet as other programs write them: every kind of number and time gives the same values."""

from __future__ import annotations

import decimal
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import TableOptions
from wheeltapper_protocols.tables.parquet_table import ParquetTable

pa = pytest.importorskip("pyarrow", exc_type=ImportError)  # some releases of it refuse an older numpy
parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)

NAN = float("nan")
EPOCH = 1_767_225_600
"""2026-01-01T00:00:00Z."""
EAST = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
"""The same moment elsewhere."""


def read(
    path: Path, columns: dict[str, Any], notes: Notes | None = None, **options: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """What a file with ``columns`` gives: all samples, and their times."""
    parquet.write_table(pa.table(columns), path / "a.parquet")
    chunks = list(ParquetTable.open(path / "a.parquet", TableOptions(**options)).chunks(notes or Notes()))
    times = [part for _, part in chunks if part is not None]
    return np.concatenate([part for part, _ in chunks]), np.concatenate(times) if times else None


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, 3], pa.int16()), [1, NAN, 3]),
        (pa.array([1, None, 2**60], pa.int64()), [1, NAN, 2.0**60]),
        (pa.array([1, 2**64 - 1], pa.uint64()), [1, 2.0**64]),
        (pa.array(np.array([0.5, NAN], np.float16), pa.float16()), [0.5, NAN]),
        (pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-3.00")]), [1.25, NAN, -3]),
        (pa.array([1.5, 2.5, 1.5]).dictionary_encode(), [1.5, 2.5, 1.5]),
        (pa.array(["1.5", None, "", "2"]), [1.5, NAN, NAN, 2]),
        (pa.array(["1.5", "2"]).dictionary_encode(), [1.5, 2]),
    ],
)
def test_every_kind_of_number(tmp_path: Path, column: Any, expected: list[float]) -> None:
    samples, _ = read(tmp_path, {"x": column})
    np.testing.assert_array_equal(samples[:, 0], expected)


def test_missing_and_texts_are_as_in_csv(tmp_path: Path) -> None:
    notes = Notes()
    columns = {"x": pa.array([1.0, -999.0, 3.0]), "y": pa.array(["1,5", "ERR", "bad"])}
    samples, _ = read(tmp_path, columns, notes, decimal=",", missing=(-999.0, "ERR"))
    np.testing.assert_array_equal(samples, [[1, 1.5], [NAN, NAN], [3, NAN]])
    assert notes.first == {"cells": "row 3: column 'y' holds 'bad', which is no number: it counts as missing"}


@pytest.mark.parametrize(
    ("columns", "options", "why"),
    [
        ({"x": ["a", "b"]}, {}, "row 1: column 'x' holds 'a', which is no number"),
        ({"x": ["0,5", "1,5"]}, {}, "decimal = ','"),
        ({"x": [True, False]}, {}, "column 'x' holds bool, not numbers"),
        ({"x": [[1.0, 2.0]]}, {}, "column 'x' holds list"),
        ({"x": [1.0], "t": pa.array([0], pa.timestamp("ms"))}, {}, "is it the time_column"),
        ({"x": [1.0, 2.0], "t": ["31.1.2026", "1.2.2026"]}, {"time_column": "t"}, "time_format"),
        ({"x": [1.0, 2.0], "t": pa.array([None, None], pa.int64())}, {"time_column": "t"}, "holds no times"),
        ({"x": [1.0]}, {"time_column": "t"}, "no column 't'"),
    ],
)
def test_what_is_no_number_or_no_time_is_refused(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], why: str
) -> None:
    with pytest.raises(RecordingError, match=why) as refused:
        read(tmp_path, columns, **options)
    assert refused.value.code == "recording.malformed"


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (pa.array([EPOCH * 10**9 + 5 * 10**8, None, (EPOCH + 1) * 10**9], pa.int64()), {"time_unit": "ns"}),
        (pa.array([EPOCH * 1000 + 500, None, EPOCH * 1000 + 1000], pa.uint64()), {"time_unit": "ms"}),
        (pa.array([EPOCH + 0.5, None, EPOCH + 1]), {}),
        (pa.array([EPOCH + 0.5, NAN, EPOCH + 1]), {}),
        (pa.array([EPOCH * 1000 + 500, -1, EPOCH * 1000 + 1000]), {"time_unit": "ms", "missing": (-1.0,)}),
        (pa.array([EPOCH * 10**6 + 500_000, None, EPOCH * 10**6 + 10**6], pa.timestamp("us")), {}),
        (pa.array([EPOCH * 1000 + 500, None, EPOCH * 1000 + 1000], pa.timestamp("ms", tz="Asia/Kathmandu")), {}),
        (pa.array([EPOCH * 10**9 + 5 * 10**8, None, (EPOCH + 1) * 10**9], pa.timestamp("ns")), {"time_unit": "ms"}),
        (pa.array([EAST.replace(microsecond=500_000), None, EAST.replace(second=1)]), {}),
        (pa.array(["2026-01-01T00:00:00.5", None, "2026-01-01T00:00:01Z"]), {}),
        (pa.array(["2026-01-01T00:00:00.5", "", "2026-01-01T01:00:01+01:00"]).dictionary_encode(), {}),
        (pa.array(["1/1/26 0:00:00.5", None, "1/1/26 0:00:01.0"]), {"time_format": "%d/%m/%y %H:%M:%S.%f"}),
        (pa.array([decimal.Decimal(f"{EPOCH}.5"), None, decimal.Decimal(f"{EPOCH + 1}.0")]), {}),
    ],
)  # fmt: skip
def test_every_kind_of_time(tmp_path: Path, column: Any, options: dict[str, Any]) -> None:
    notes = Notes()
    samples, times = read(tmp_path, {"t": column, "x": [1.0, 2.0, 3.0]}, notes, time_column="t", **options)
    assert times is not None
    assert times.tolist() == pytest.approx([EPOCH + 0.5, EPOCH + 1], abs=1e-6)
    np.testing.assert_array_equal(samples[:, 0], [1, 3])
    assert notes.summary() == ["1 rows without a time were left out"]


def test_days_and_times_of_day(tmp_path: Path) -> None:
    _, days = read(tmp_path, {"t": [date(2026, 1, 1), date(2026, 1, 2)], "x": [1, 2]}, time_column="t")
    assert days is not None
    assert days.tolist() == [EPOCH, EPOCH + 86_400]
    for column in (pa.array([1500, 2500], pa.time32("ms")), pa.array([1_500_000, 2_500_000], pa.duration("us"))):
        _, times = read(tmp_path, {"t": column, "x": [1, 2]}, time_column="t")
        assert times is not None
        assert times.tolist() == [1.5, 2.5]


def test_an_index_without_a_name_is_no_channel(tmp_path: Path) -> None:
    samples, _ = read(tmp_path, {"x": [1.0, 2.0], "__index_level_0__": [7, 8]})
    np.testing.assert_array_equal(samples, [[1], [2]])
