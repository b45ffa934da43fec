"""Importers: files of other makers, public sets where they are, and files that are not what they say."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.learning.rig import vibration
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.importers import SETS, files, of_set
from wheeltapper_fleet.learning.datasets.importing import Incoming, import_version
from wheeltapper_fleet.learning.datasets.label_file import read_labels
from wheeltapper_fleet.learning.datasets.manifest import DatasetManifest
from wheeltapper_fleet.learning.datasets.reading import Dataset, open_dataset
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.datasets.table_files import table_files
from wheeltapper_fleet.learning.datasets.tables import TableForm
from wheeltapper_fleet.learning.errors import DatasetError, TrainingError
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.signal.recording import Recording, write_recording
from wheeltapper_protocols.tables.options import TableOptions


def imported(kind: str, source: Path, store: Path) -> Dataset:
    opened = DatasetStore(store)
    import_version(opened, "it", of_set(kind, source, lambda text: None))
    return open_dataset("it", opened)


def code_of(error: BaseException) -> str:
    assert isinstance(error, FleetError | ProtocolError)
    return error.code


def test_recordings_and_tables_come_by_the_reader_of_devices(tmp_path: Path) -> None:
    write_recording(vibration(1), tmp_path / "b.npz")
    (tmp_path / "a.csv").write_text("t,ax\n" + "".join(f"{n / 100},{n % 7}\n" for n in range(64)))
    (tmp_path / "notes.md").write_text("not a recording")
    form = TableForm(window_samples=16, sample_rate_hz=100.0, options=TableOptions(time_column="t"))
    said: list[str] = []
    store = DatasetStore(tmp_path / "store")
    import_version(store, "it", files(tmp_path, form, said.append, {}))
    found = list(open_dataset("it", store).recordings())
    assert [(each.meta["machine"], each.channels, each.snapshots) for each in found] == [
        ("a", ("ax",), 4),
        ("m", ("de",), 6),
    ]
    assert said == []


def test_what_a_table_loses_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ax\n" + "".join("x\n" if n == 20 else f"{n % 7}\n" for n in range(64)))
    said: list[str] = []
    (one,) = files(tmp_path / "a.csv", TableForm(window_samples=16, sample_rate_hz=100.0), said.append)
    one.read()
    assert any("1 windows with missing values were left out" in text for text in said)


def test_tables_stay_tables(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.csv").write_text("run;temp;note\n1;20.5;ok\n2;;\n")
    (tmp_path / "b.tsv.xz").write_bytes(lzma.compress(b"run\ttemp\n1\t7\n"))
    columns = {
        "at": pa.array([1_000_000, 2_500_000], pa.timestamp("us")),
        "run": pa.array([1, None]),
        "fine": pa.array([1, 2], pa.int8()),
        "ok": pa.array([True, False]),
        "note": pa.array(["x", None]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "c.parquet")
    store = DatasetStore(tmp_path / "store")
    given = [
        *table_files(tmp_path / "a.csv", ";"),
        *table_files(tmp_path / "b.tsv.xz"),
        *table_files(tmp_path / "c.parquet"),
    ]
    import_version(store, "it", given)
    found = {table.meta["machine"]: table.columns for table in open_dataset("it", store).tables()}
    assert set(found) == {"a", "b", "c"}
    assert found["a"]["run"].tolist() == [1, 2]
    np.testing.assert_array_equal(found["a"]["temp"], [20.5, np.nan])
    assert found["a"]["note"].tolist() == ["ok", ""]
    assert found["b"]["temp"].tolist() == [7]
    assert found["c"]["at"].tolist() == [1.0, 2.5]
    np.testing.assert_array_equal(found["c"]["run"], [1.0, np.nan])
    assert {name: column.dtype.kind for name, column in found["c"].items()} == {
        "at": "f", "run": "f", "fine": "i", "ok": "i", "note": "U",
    }  # fmt: skip
    assert found["c"]["note"].tolist() == ["x", ""]
    parquet.write_table(pa.table({"l": pa.array([[1]])}), tmp_path / "d.parquet")
    (tmp_path / "e.parquet").write_bytes((tmp_path / "c.parquet").read_bytes()[:-9])
    for name in ("d.parquet", "e.parquet"):
        with pytest.raises(TrainingError) as refused:
            import_version(store, "it", table_files(tmp_path / name))
        assert refused.value.code == "import.malformed"
    assert store.versions("it") == [1]


def test_labels_that_people_wrote_down(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("source,name,value,start,stop\na.csv,fault,inner,,\na.csv,alarm,true,1.5,3\nb.csv,life,12,,\n")
    found = read_labels(path)
    assert [(label.name, label.value, label.start, label.stop) for label in found["a.csv"]] == [
        ("fault", "inner", None, None),
        ("alarm", True, 1.5, 3.0),
    ]
    assert found["b.csv"][0].value == 12.0
    for wrong in ("source,name\na,b\n", "source,name,value,start\na,b,c,soon\n", "source,name,value\na,,c\n"):
        path.write_text(wrong)
        with pytest.raises(FleetError):
            read_labels(path)


def engines(folder: Path, cycles: str = "") -> Path:
    """Two engines to train on and one to test, as the turbofan sets are written."""
    rows = [
        [unit, cycle, *np.random.default_rng(100 * unit + cycle).normal(size=24).round(4)]
        for unit in (1, 2)
        for cycle in range(1, 9)
    ]
    text = "".join(" ".join(map(str, row)) + "  \n" for row in rows)
    (folder / "train_FD009.txt.xz").write_bytes(lzma.compress((text + cycles).encode()))
    tested = [[1, cycle, *np.random.default_rng(cycle).normal(size=24).round(4)] for cycle in range(1, 6)]
    (folder / "test_FD009.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in tested))
    (folder / "RUL_FD009.txt").write_text("42\n")
    return folder


def test_engines_come_with_their_sides_and_lives(tmp_path: Path) -> None:
    dataset = imported("cmapss", engines(tmp_path), tmp_path / "store")
    found = {item.machine: item for item in dataset.items()}
    assert {machine: (item.split, item.count) for machine, item in found.items()} == {
        "FD009-train-1": ("train", 8),
        "FD009-train-2": ("train", 8),
        "FD009-test-1": ("test", 5),
    }
    assert found["FD009-test-1"].label("remaining_cycles") == 42.0
    assert found["FD009-train-1"].labels[0].start == 8.0
    assert dataset.manifest.splitting.by == "source"
    (engine,) = dataset.recordings("test")
    assert (engine.samples.shape, engine.channels[3], engine.t_s.tolist()) == ((5, 1, 24), "T2", [1, 2, 3, 4, 5])


@pytest.mark.parametrize("damage", ["1 9 " + "x " * 24, "1 9 0.5\n", "1 3 " + "0 " * 24 + "\n", "3 1 " + "nan " * 24])
def test_engines_that_make_no_sense_make_no_version(tmp_path: Path, damage: str) -> None:
    with pytest.raises(TrainingError) as refused:
        imported("cmapss", engines(tmp_path, damage), tmp_path / "store")
    assert refused.value.code == "import.malformed"
    assert DatasetStore(tmp_path / "store").names() == []


def test_a_file_that_was_cut_off_is_said_to_be(tmp_path: Path) -> None:
    whole = (engines(tmp_path) / "train_FD009.txt.xz").read_bytes()
    (tmp_path / "train_FD009.txt.xz").write_bytes(whole[:-20])
    with pytest.raises(TrainingError) as refused:
        imported("cmapss", tmp_path, tmp_path / "store")
    assert "cut off" in refused.value.message


def test_series_with_windows_of_anomalies(tmp_path: Path) -> None:
    times = [f"2014-03-30 {hour:02d}:00:00" for hour in (0, 1, 2, 2, 3, 4)]
    (tmp_path / "pump.csv").write_text("timestamp,value\n" + "".join(f"{time},{n}\n" for n, time in enumerate(times)))
    windows = {"real/pump.csv": [["2014-03-30 01:00:00.000000", "2014-03-30 02:00:00.000000"]]}
    (tmp_path / "combined_windows.json").write_text(json.dumps(windows))
    dataset = imported("nab", tmp_path, tmp_path / "store")
    (found,) = dataset.recordings()
    assert found.samples.ravel().tolist() == [0, 1, 2, 4, 5]
    assert found.meta["left_out_rows"] == 1
    (label,) = next(dataset.items()).labels
    assert (label.stop or 0) - (label.start or 0) == 3600
    assert label.start == found.t_s[1]


@given(content=st.binary(max_size=300), name=st.sampled_from(sorted(SETS)), packed=st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_the_error_has_a_code_and_nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, packed: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    endings = {"cmapss": "train_FD001.txt", "nab": "a.csv", "battery": "B1_discharge.csv", "ai4i": "ai4i.csv"}
    ending = endings.get(name, "cwru_de_int16.npz")
    path = folder / (ending + (".xz" if packed and ending.endswith(("txt", "csv")) else ""))
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" and len(content) % 2 else content)
    with pytest.raises((FleetError, ProtocolError)) as refused:
        imported(name, path, folder / "store")
    assert code_of(refused.value).startswith(("import.", "dataset.", "recording."))
    assert DatasetStore(folder / "store").names() == []


@pytest.mark.parametrize("arrays", [
    {"acc_milli_g": np.zeros(3, np.int16)},
    {"acc_milli_g": np.zeros((2, 3, 2))},
    {"xyz_milli_g": np.zeros((9, 3), np.int16), "config": np.zeros(8), "speed_pct": np.zeros(9)},
    {"normal_0_97": np.zeros((5, 5), np.int16), "normal_0_97__lsb": np.zeros(2), "normal_0_97__rpm": np.zeros(0)},
])  # fmt: skip
@pytest.mark.parametrize("name", ["femto", "cwru", "uci-fan"])
def test_arrays_of_other_shapes_are_refused(tmp_path: Path, arrays: dict[str, Any], name: str) -> None:
    np.savez(tmp_path / "cwru_de_int16.npz", **arrays)
    with pytest.raises((FleetError, ProtocolError)) as refused:
        imported(name, tmp_path, tmp_path / "store")
    assert code_of(refused.value).startswith(("import.", "dataset.import", "recording."))


@pytest.mark.parametrize(("kind", "source"), [("mnist", "."), ("femto", "nowhere"), ("cmapss", ".")])
def test_sets_and_sources_that_are_not_there(tmp_path: Path, kind: str, source: str) -> None:
    with pytest.raises((DatasetError, TrainingError)):
        list(of_set(kind, tmp_path / source, lambda text: None))
    with pytest.raises(DatasetError):
        list(files(tmp_path / source / "x", TableForm(), lambda text: None))


@pytest.mark.data
class TestPublicSets:
    """What the shared folder holds, with the traps of each set."""

    def of(self, kind: str, source: Path, tmp_path: Path) -> tuple[DatasetManifest, Dataset]:
        dataset = imported(kind, source, tmp_path / "store")
        return dataset.manifest, dataset

    def test_cwru(self, data_dir: Path) -> None:
        coming: list[Incoming] = list(of_set("cwru", data_dir / "cwru", print))
        assert len(coming) == 74
        assert len({each.machine for each in coming}) == 12  # bearings, not files
        normal = next(each for each in coming if each.machine == "drive-end-normal")
        of_one = next(each for each in coming if each.source == "12k_Drive_End_OR007@6_0_130")
        read = [normal.read(), of_one.read()]
        assert [each.sample_rate_hz for each in read if isinstance(each, Recording)] == [48_000.0, 12_000.0]
        assert (
            len({each.scale[0] for each in read if isinstance(each, Recording)}) == 2
        )  # the step gives the class away
        assert [(label.name, label.value) for label in of_one.labels] == [
            ("fault", "outer"),
            ("fault_mil", 7.0),
            ("fault_clock", 6.0),
        ]
        assert of_one.condition["load_hp"] == 0.0

    def test_nab_and_ai4i_and_battery(self, data_dir: Path, tmp_path: Path) -> None:
        _, ai4i = self.of("ai4i", data_dir / "ai4i2020", tmp_path / "a")
        (table,) = ai4i.tables()
        assert (table.rows, int(table.columns["Machine failure"].sum())) == (10_000, 339)
        assert table.units["Torque [Nm]"] == "Nm"
        _, nab = self.of(
            "nab", data_dir / "nab" / "realKnownCause" / "ambient_temperature_system_failure.csv.xz", tmp_path / "n"
        )
        (series,) = nab.recordings()
        assert (series.snapshots, len(series.meta["labels"])) == (7267, 2)
        _, cells = self.of("battery", data_dir / "battery" / "B0005_discharge.csv.xz", tmp_path / "b")
        (cell,) = cells.tables()
        assert (cell.rows, int(cell.columns["cycle_num"].max())) == (50_285, 168)
        assert cell.meta["labels"][0]["name"] == "end_of_life_cycle"

    def test_femto_and_the_fan(self, data_dir: Path, tmp_path: Path) -> None:
        source = data_dir / "femto" / "Learning_set__Bearing3_1.npz"
        _, femto = self.of("femto", source, tmp_path / "f")
        item = next(femto.items())
        assert (item.machine, item.count, item.condition) == (
            "Bearing3_1",
            515,
            {"load_n": 5000.0, "speed_rpm": 1500.0},
        )
        assert item.labels[0].start == 5140.0
        manifest, _ = self.of("uci-fan", data_dir / "uci_fan", tmp_path / "u")
        assert (manifest.items.count, manifest.machines, manifest.labels["imbalance"]["none"]) == (51, 1, 17)

    @pytest.mark.slow
    def test_cmapss(self, data_dir: Path, tmp_path: Path) -> None:
        manifest, dataset = self.of("cmapss", data_dir / "cmapss", tmp_path)
        assert {side: count.items for side, count in manifest.splitting.sides.items()} == {"test": 200, "train": 200}
        lives = [item.label("remaining_cycles") for item in dataset.items("test")]
        assert sum(1 for life in lives if life == 112.0) >= 1
        assert sum(recording.snapshots for recording in dataset.recordings()) == 20631 + 13096 + 24720 + 16596
