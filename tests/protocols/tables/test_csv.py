"""Tables of text: each shape that recorders write gives its values or an error that says what to do, never other
numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.csv_table import CsvTable
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import TableOptions

NAN = math.nan


def read(
    path: Path, notes: Notes | None = None, **options: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """All samples [row, channel] of a table, and their times."""
    chunks = list(CsvTable.open(path, TableOptions(**options)).chunks(notes or Notes()))
    times = [part for _, part in chunks if part is not None]
    return np.concatenate([part for part, _ in chunks]), np.concatenate(times) if times else None


def written(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


RIGHT: list[tuple[str, str | bytes, dict[str, Any], list[list[float]]]] = [
    ("plain", "x,y\n1,2\n3,4\n", {}, [[1, 2], [3, 4]]),
    ("decimal comma", "x;y\n1,5;-2,25\n3e1;,5\n", {"decimal": ","}, [[1.5, -2.25], [30, 0.5]]),
    ("decimal comma in tabs", "x\ty\n1,5\t2\n", {"decimal": ",", "delimiter": "\t"}, [[1.5, 2]]),
    ("quoted decimal comma", 'x,y\n"1,5","2"\n', {"decimal": ",", "delimiter": ","}, [[1.5, 2]]),
    ("preamble", "Logger 7\nStart: now, or so\n\nx,y\n1,2\n", {"skip_rows": 3}, [[1, 2]]),
    ("no header", "1,2\n3,4\n", {"header": False}, [[1, 2], [3, 4]]),
    ("no header, by number", "9,1,2\n9,3,4\n", {"header": False, "channels": ("3", "2")}, [[2, 1], [4, 3]]),
    ("no header, by name", "1,2\n3,4\n", {"header": False, "channels": ("x", "y")}, [[1, 2], [3, 4]]),
    ("delimiter at the end", "x,y,\n1,2,\n3,4,\n", {}, [[1, 2], [3, 4]]),
    ("delimiter at the end of rows only", "x,y\n1,2,\n3,4,\n", {}, [[1, 2], [3, 4]]),
    ("comments", "# made by me\nx,y\n1,2\n# pause\n3,4\n", {}, [[1, 2], [3, 4]]),
    ("carriage returns", "x,y\r\n1,2\r\n3,4\r\n", {}, [[1, 2], [3, 4]]),
    ("old Mac", "x,y\r1,2\r3,4\r", {}, [[1, 2], [3, 4]]),
    ("byte order mark", "\ufeffx,y\n1,2\n", {}, [[1, 2]]),
    ("UTF-16", "x,y\n1,2\n".encode("utf-16"), {}, [[1, 2]]),
    ("UTF-16 without a mark", "x,y\n1,2\n".encode("utf-16-le"), {}, [[1, 2]]),
    ("Latin-1", "x [°C],y\n1,2\n".encode("latin-1"), {"channels": ("x [°C]", "y")}, [[1, 2]]),
    ("mixed encodings", "x [°C],y,n\n".encode() + "1,2,ü\n".encode("latin-1"), {"channels": ("x [°C]", "y")}, [[1, 2]]),
    ("quotes", '"x","y"\n"1","2"\n', {}, [[1, 2]]),
    ("blanks", "x  y\n 1   2\n-3\t4\n", {"delimiter": " "}, [[1, 2], [-3, 4]]),
    ("empty cells", "x,y\n,2\n3, \n", {}, [[NAN, 2], [3, NAN]]),
    ("missing", "x,y\nERR,-999\n3,-999.0\n5,6\n", {"missing": ("ERR", -999.0)}, [[NAN, NAN], [3, NAN], [5, 6]]),
    ("missing number as text", "x\n-1\n2\n", {"missing": ("-1.0",)}, [[NAN], [2]]),
    ("one column with a hole", "x\n1\n\n3\n\n", {}, [[1], [NAN], [3]]),
    ("a number as a name", "t,1,2\n0,5,6\n", {"channels": ("1", "2"), "time_column": "t"}, [[5, 6]]),
    ("an index", ",x,y\n0,1,2\n", {"channels": ("x", "y")}, [[1, 2]]),
    ("texts elsewhere", 'note,x\n"on, slowly",1\noff,2\n', {"channels": ("x",)}, [[1], [2]]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "options", "expected"), [case[1:] for case in RIGHT], ids=[case[0] for case in RIGHT]
)
def test_a_table_gives_its_values(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], expected: list[list[float]]
) -> None:
    notes = Notes()
    samples, _ = read(written(tmp_path, content), notes, **options)
    np.testing.assert_array_equal(samples, expected)
    assert notes.counts == {}


REFUSED: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    ("decimal comma", "x;y\n0,000;0,5\n", {"delimiter": ";"}, "line 2: column 'x' holds '0,000'.*decimal = ','"),
    ("decimal comma in one cell", "x;y\n1;2\n3;4,5\n", {"delimiter": ";"}, "line 3: column 'y' holds '4,5'.*decimal"),
    ("decimal comma between commas, said", "x,y\n0,5,1,5\n", {"decimal": ",", "delimiter": ","}, "line 2 has 4 cells"),
    ("a header, said to be none", "x,y\n1,2\n", {"header": False}, "line 1 holds x, y: set header = true"),
    ("decimal comma between commas", "x,y\n0,5,1,5\n", {}, "line 2 has 4 cells.*decimal = ','"),
    ("point beside a decimal comma", "x;y\n1,5;1.234\n", {"decimal": ","}, "'1.234', which has a point"),
    ("thousands", 'x;y\n1;"1,234.5"\n', {"delimiter": ";"}, "thousands"),
    ("German thousands", "x;y\n1,5;1.234,5\n", {"decimal": ","}, "thousands"),
    ("Swiss thousands", "x,y\n1,1'234.5\n", {}, "thousands"),
    ("French thousands", "x;y\n1,5;1\u00a0234,5\n", {"decimal": ","}, "thousands"),
    ("grouped digits", "x,y\n1_000,1\n", {}, "column 'x' holds '1_000', which is no number"),
    ("other digits", "x,y\n١٢,1\n", {}, "which is no number"),
    ("longer row", "x,y\n1,2\n1,2,3\n", {}, "line 3 has 3 cells, and the header has 2"),
    ("longer rows", "note,x,y\non, 1200,1,2\noff,1,2\n", {"channels": ("x", "y")}, "line 2 has 4 cells"),
    ("shorter row", "x,y,z\n1,2,3\n1,2\n4,5,6\n", {}, "line 3 has 2 cells, and the header has 3"),
    ("preamble", "Logger 7\nx,y\n1,2\n", {}, "line 2 has 2 cells, and the header has 1; .*skip_rows"),
    ("no header", "0.1,0.2\n0.3,0.4\n", {}, "header holds numbers.*header = false"),
    ("no header, decimal comma", "0,1;0,2\n", {"decimal": ","}, "header = false"),
    ("no header, with times", "2026-01-31T12:00:00,0.2\n", {}, "header = false"),
    ("no header, columns named", "0.1,0.2\n0.3,0.4\n", {"channels": ("x", "y")}, "header = false"),
    ("savetxt", "# x,y\n1,2\n3,4\n", {}, "header = false"),
    ("time by name without a header", "1,2\n", {"header": False, "time_column": "t"}, "by its number, from 1 to 2"),
    ("wrong delimiter", "x;y\n1;2\n", {"channels": ("x",)}, "is ';' the delimiter"),
    ("wrong delimiter, all columns", "x;y\n1;2\n", {}, "column 'x;y' holds '1;2', which is no number"),
    ("a column of texts", "x,y\n1,on\n2,off\n", {}, "line 2: column 'y' holds 'on', which is no number"),
    ("truth", "x,y\n1,True\n", {}, "'True', which is no number"),
    ("units", "x,y\n1,2 g\n", {}, "'2 g', which is no number"),
    ("one name twice", "x,y,x\n1,2,3\n", {}, "two columns have the name 'x'"),
    ("one name twice, asked for", "x,y,x\n1,2,3\n", {"channels": ("x",)}, "two columns have the name 'x'"),
    ("no name", ",x,y\n0,1,2\n", {}, "column 1 has no name"),
    ("empty", "", {}, "it is empty"),
    ("only empty lines", "\n\n \n", {}, "it is empty"),
    ("all skipped", "x,y\n1,2\n", {"skip_rows": 2}, "it is empty"),
    ("binary", b"\x7fELF\2\1\1\0\0\0,2\n3,4\n", {}, "it is no text"),
    ("open quote", 'x,y\n"1,2\n3,4\n5,6\n', {}, "line 4"),
    ("a quote within", 'x,y\n"1"5,2\n', {}, "line 2"),
    ("times with a decimal comma", "t;x\n0,5;1\n", {"delimiter": ";", "time_column": "t"}, "'0,5'.*decimal = ','"),
    ("times the day first", "t,x\n31.01.2026 12:00,1\n", {"time_column": "t"}, "'31.01.2026 12:00'.*time_format"),
    ("times of another format", "t,x\n2026-01-31,1\n", {"time_column": "t", "time_format": "%d.%m"}, "must hold %d.%m"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "options", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_table_of_another_shape_is_refused(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(RecordingError, match=why) as refused:
        read(written(tmp_path, content), **options)
    assert refused.value.code == "recording.malformed"


def test_only_a_header_has_no_rows(tmp_path: Path) -> None:
    table = CsvTable.open(written(tmp_path, "x,y\n"), TableOptions())
    assert table.channels == ("x", "y")
    assert list(table.chunks(Notes())) == []


def test_texts_among_numbers_are_counted_and_named(tmp_path: Path) -> None:
    said: list[str] = []
    notes = Notes(said.append)
    samples, _ = read(written(tmp_path, "x,y\n1,2\nERR,OL\n5,---\n7,8"), notes)
    np.testing.assert_array_equal(samples, [[1, 2], [NAN, NAN], [5, NAN], [7, 8]])
    assert notes.lost == 3
    assert said == ["line 3: column 'x' holds 'ERR', which is no number: it counts as missing"]
    assert notes.summary() == ["3 cells that are no numbers count as missing"]


@pytest.mark.parametrize("zeros", [1, 512, 200_000])
def test_zero_bytes_after_a_power_cut_are_left_out(tmp_path: Path, zeros: int) -> None:
    rows = [f"{i},{i}" for i in range(20)]
    content = "\n".join(["x,y", *rows[:10], "\0" * zeros, *rows[10:], "\0" * zeros])
    notes = Notes()
    samples, _ = read(written(tmp_path, content), notes)
    np.testing.assert_array_equal(samples[:, 0], np.arange(20))
    assert set(notes.counts) == {"rows"}
    assert notes.first["rows"] == "line 12 holds zero bytes, as after a power cut: it is left out"


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    notes = Notes()
    samples, _ = read(written(tmp_path, "x,y\n1,2\n3"), notes)
    np.testing.assert_array_equal(samples, [[1, 2]])
    assert notes.summary() == ["1 rows were cut off or damaged, and left out"]


TIMES: list[tuple[str, dict[str, Any], list[float]]] = [
    ("0.5 1.5", {}, [0.5, 1.5]),
    ("1500 2500", {"time_unit": "ms"}, [1.5, 2.5]),
    ("1767225600000000123 1767225601000000123", {"time_unit": "ns"}, [1_767_225_600, 1_767_225_601]),
    ("0,5 1,5", {"decimal": ",", "delimiter": ";"}, [0.5, 1.5]),
    ("2026-01-01T00:00:00 2026-01-01T00:00:01.5", {}, [1_767_225_600, 1_767_225_601.5]),
    ("2026-01-01T01:00:00+01:00 2026-01-01T00:00:01Z", {}, [1_767_225_600, 1_767_225_601]),
    ("01.02.2026_00:00 02.02.2026_00:00", {"time_format": "%d.%m.%Y_%H:%M"}, [1_769_904_000, 1_769_990_400]),
    ("02/01/26 02/02/26", {"time_format": "%m/%d/%y"}, [1_769_904_000, 1_769_990_400]),
    ("12:00:00.25 12:00:01.25", {"time_format": "%H:%M:%S.%f"}, [43_200.25, 43_201.25]),
]


@pytest.mark.parametrize(("cells", "options", "expected"), TIMES)
def test_times(tmp_path: Path, cells: str, options: dict[str, Any], expected: list[float]) -> None:
    delimiter = options.get("delimiter", ",")
    lines = [f"{cell}{delimiter}1" for cell in cells.split()]
    path = written(tmp_path, "\n".join([f"t{delimiter}x", *lines]))
    _, times = read(path, time_column="t", **options)
    assert times is not None
    assert times.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ""},
        {"delimiter": ";;"},
        {"delimiter": '"'},
        {"decimal": ";"},
        {"skip_rows": -1},
        {"time_unit": "min"},
        {"time_format": "iso"},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(RecordingError) as refused:
        TableOptions(**options)
    assert refused.value.code == "recording.options"


@given(
    rows=st.lists(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3), min_size=1, max_size=20),
    decimal=st.sampled_from([".", ","]),
    mark=st.sampled_from(["", "\ufeff"]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"]),
    preamble=st.integers(0, 3),
    header=st.booleans(),
)
def test_however_a_table_is_written_it_gives_its_numbers_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[float]],
    decimal: str,
    mark: str,
    end: str,
    encoding: str,
    preamble: int,
    header: bool,
) -> None:
    lines = [f"line {number}" for number in range(preamble)] + (["a;b;c"] if header else [])
    lines += [";".join(repr(number).replace(".", decimal) for number in row) for row in rows]
    path = written(tmp_path_factory.mktemp("csv"), (mark + end.join([*lines, ""])).encode(encoding))
    samples, _ = read(path, delimiter=";", decimal=decimal, skip_rows=preamble, header=header)
    np.testing.assert_array_equal(samples, rows)
    other = {".": ",", ",": "."}[decimal]
    right: dict[str, Any] = {"delimiter": ";", "decimal": decimal, "skip_rows": preamble, "header": header}
    for wrong in ({"decimal": other}, {"header": not header}, {"skip_rows": preamble + 1}):
        try:
            found, _ = read(path, **(right | wrong))
        except RecordingError:
            continue
        # Fewer rows where one was skipped on purpose; and whole numbers are the same with a comma as with a point.
        assert all(row in rows for row in found.tolist())
