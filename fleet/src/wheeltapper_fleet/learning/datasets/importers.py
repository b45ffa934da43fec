"""Importers: what a source gives, one content after the other, each with its machine, condition and labels.

=========  ============================================================================================================
``files``  recordings (.npz), and CSV, Parquet and WAV by the reader that devices use
``femto``  FEMTO-ST PRONOSTIA: bearings run to failure. Machine: the bearing. Condition: speed, load
``cwru``   CWRU: bearings with one fault each. Machine: the physical bearing, which was recorded under several loads,
           at two rates and with the sensor at several hours of the clock. The normal recording is at 48 kHz
``cmapss`` NASA C-MAPSS: turbofans, one snapshot a flight cycle. Sides as the set says: train and test
``nab``    Numenta Anomaly Benchmark: one series a file, with the windows of its anomalies
``uci-fan``  UCI: one fan with three states of balance at 17 speeds
``battery``  NASA PCoE: discharges of Li-ion batteries, as tables
``ai4i``   AI4I 2020: one table of a (synthetic) milling process
=========  ============================================================================================================

Invariant: samples are neither resampled nor filled in. What is left out is counted and said.

Raises TrainingError ``import.malformed`` and ``import.unknown``, RecordingError and OSError when a content is read.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from wheeltapper_fleet.learning.datasets.importing import Incoming
from wheeltapper_fleet.learning.datasets.manifest import Label, Value
from wheeltapper_fleet.learning.datasets.public_sets import import_cwru, import_femto, import_uci_fan, names_of_cwru
from wheeltapper_fleet.learning.datasets.table import DataTable
from wheeltapper_fleet.learning.datasets.tables import TableForm, read_any
from wheeltapper_fleet.learning.datasets.text_files import malformed, read_matrix, read_table_text, read_text
from wheeltapper_fleet.learning.errors import DatasetError, TrainingError
from wheeltapper_protocols.signal.recording import Recording
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.signal import FORMATS

__all__ = ["SETS", "files", "of_set"]

Say = Callable[[str], None]

_FEMTO_CONDITIONS: Final[dict[str, dict[str, Value]]] = {
    "1": {"speed_rpm": 1800.0, "load_n": 4000.0},
    "2": {"speed_rpm": 1650.0, "load_n": 4200.0},
    "3": {"speed_rpm": 1500.0, "load_n": 5000.0},
}
_CWRU_FAULTS: Final = {"B": "ball", "IR": "inner", "OR": "outer"}
_CWRU_NAME: Final = re.compile(r"(?:12k|48k)_(?:Drive|Fan)_End_(B|IR|OR)(\d{3})(?:@(\d+))?_(\d)_\d+\Z")
_CWRU_NORMAL: Final = re.compile(r"normal_(\d)_\d+\Z")
_CMAPSS_CHANNELS: Final = (
    "altitude", "mach", "tra", "T2", "T24", "T30", "T50", "P2", "P15", "P30", "Nf", "Nc", "epr", "Ps30", "phi", "NRf",
    "NRc", "BPR", "farB", "htBleed", "Nf_dmd", "PCNfR_dmd", "W31", "W32",
)  # fmt: skip
_CMAPSS_UNITS: Final = (
    "kft", "", "deg", "degR", "degR", "degR", "degR", "psia", "psia", "psia", "rpm", "rpm", "", "psia", "pps/psi",
    "rpm", "rpm", "", "", "", "rpm", "rpm", "lbm/s", "lbm/s",
)  # fmt: skip
_FAN_BALANCE: Final = {1: "worst", 2: "medium", 3: "none"}
"""How far the fan is out of balance, by configuration; measured, as the set's columns do not say it."""
_BATTERY_UNITS: Final = {
    "ambient_temperature": "degC",
    "Capacity": "Ah",
    "Voltage_measured": "V",
    "Current_measured": "A",
    "Temperature_measured": "degC",
    "Current_load": "A",
    "Voltage_load": "V",
    "Time": "s",
}
_BATTERY_END_AH: Final = 1.4
"""Capacity at the end of life, as the set's description says."""


def of_set(kind: str, source: Path, warn: Say) -> Iterator[Incoming]:
    """What a public data set gives.

    Args:
        kind: one of :data:`SETS`.
        source: its folder, or one file of it.
        warn: is told what is left out.

    Raises:
        DatasetError: ``dataset.kind``.
    """
    if kind not in SETS:
        raise DatasetError(
            "dataset.kind", f"{kind[:80]!r} is not known; choose of files, tables, {', '.join(sorted(SETS))}", 400
        )
    if not source.exists():
        raise DatasetError("dataset.source", f"{source} is not there", 400)
    count = 0
    for each in SETS[kind](source, warn):
        count += 1
        yield each
    if not count:
        raise TrainingError("import.unknown", f"{source} holds no file of the set {kind}", 400)


def files(
    source: Path, form: TableForm, warn: Say, labels: Mapping[str, list[Label]] | None = None
) -> Iterator[Incoming]:
    """A file, or all files of a folder and below that are named like recordings, in order.

    The machine is what the recording says, or else the file's name without its ending.

    Args:
        source: a file or a folder.
        form: what files other than ``.npz`` do not say about themselves.
        warn: is told what is left out.
        labels: what is known, by name of the file.

    Raises:
        DatasetError: ``dataset.source``: there is no such file, or no recording in the folder.
    """
    found = [source]
    if source.is_dir():
        found = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in FORMATS and path.is_file()]
    if not found or not found[0].exists():
        raise DatasetError("dataset.source", f"{source} is no file, and no folder with recordings", 400)
    for path in found:
        notes = Notes(functools.partial(_say_of, path.name, warn))
        yield Incoming(
            read=functools.partial(_read_file, path, form, notes, warn),
            machine="",
            source=path.name,
            labels=list((labels or {}).get(path.name, [])),
        )


def _say_of(name: str, warn: Say, text: str) -> None:
    warn(f"{name}: {text}")


def _read_file(path: Path, form: TableForm, notes: Notes, warn: Say) -> Recording:
    recording = read_any(path, form, notes)
    for text in notes.summary():
        warn(f"{path.name}: {text}")
    return (
        recording
        if recording.meta.get("machine")
        else replace(recording, meta={**recording.meta, "machine": path.stem})
    )


def _paths(source: Path, pattern: str) -> list[Path]:
    return sorted(path for path in source.rglob(pattern) if path.is_file()) if source.is_dir() else [source]


def _femto(source: Path, _: Say) -> Iterator[Incoming]:
    for path in _paths(source, "*.npz"):
        match = re.search(r"Bearing(\d)_(\d+)", path.stem)
        bearing = match[0] if match else path.stem
        yield Incoming(
            read=functools.partial(import_femto, path),
            machine=bearing,
            source=path.name,
            condition=dict(_FEMTO_CONDITIONS.get(match[1], {})) if match else {},
            relabel=_fails_at_its_end,
        )


def _fails_at_its_end(content: Recording | DataTable) -> list[Label]:
    assert isinstance(content, Recording)
    return [Label(name="failure", value=True, start=float(content.t_s[-1]))]


def _cwru(source: Path, _: Say) -> Iterator[Incoming]:
    folder = source if source.is_dir() else source.parent
    for name in names_of_cwru(folder):
        match, normal = _CWRU_NAME.match(name), _CWRU_NORMAL.match(name)
        if match is None and normal is None:
            raise TrainingError("import.malformed", f"{name[:80]!r} is no recording of the CWRU set", 400)
        condition: dict[str, Value] = {"load_hp": float(match[4] if match else normal[1] if normal else 0)}
        labels = [Label(name="fault", value=_CWRU_FAULTS[match[1]] if match else "normal")]
        if match:
            labels.append(Label(name="fault_mil", value=float(match[2])))
            labels += [Label(name="fault_clock", value=float(match[3]))] if match[3] else []
        yield Incoming(
            read=functools.partial(_read_cwru, folder, name, condition),
            machine=f"drive-end-{match[1]}{match[2]}" if match else "drive-end-normal",
            source=name,
            labels=labels,
            condition=condition,
        )


def _read_cwru(folder: Path, name: str, condition: dict[str, Value]) -> Recording:
    recording = import_cwru(folder, name)
    if recording.meta["rpm"] > 0:
        condition["speed_rpm"] = float(recording.meta["rpm"])
    return recording


def _cmapss(source: Path, _: Say) -> Iterator[Incoming]:
    for path in _paths(source, "*_FD*.txt*"):
        match = re.match(r"(train|test)_(FD\d{3})\.txt(\.xz|\.gz)?\Z", path.name)
        if not match:
            continue
        rows = read_matrix(path, 2 + len(_CMAPSS_CHANNELS))
        ends = np.flatnonzero(np.diff(rows[:, 0])) + 1
        engines = np.split(rows, ends)
        remaining = np.zeros(len(engines))
        if match[1] == "test":
            remaining = read_matrix(path.with_name(path.name.replace("test_", "RUL_", 1)), 1)[:, 0]
        if len({float(engine[0, 0]) for engine in engines}) != len(engines) or len(remaining) != len(engines):
            raise malformed(
                path, f"has {len(engines)} engines, and there are {len(remaining)} remaining lives for them"
            )
        for engine, cycles in zip(engines, remaining.tolist(), strict=True):
            yield Incoming(
                read=functools.partial(_engine, path, engine),
                machine=f"{match[2]}-{match[1]}-{int(engine[0, 0])}",
                source=path.name,
                labels=[
                    Label(name="remaining_cycles", value=cycles, start=float(engine[-1, 1]), stop=float(engine[-1, 1]))
                ],
                condition={"subset": match[2]},
                split=match[1],
            )


def _engine(path: Path, rows: Any) -> Recording:
    """The recording of an engine: a snapshot is one flight cycle, and times are cycles."""
    if (np.diff(rows[:, 1]) <= 0).any():
        raise malformed(path, f"has cycles of engine {int(rows[0, 0])} that do not rise")
    count = len(_CMAPSS_CHANNELS)
    return Recording(
        samples=rows[:, None, 2:].astype(np.float32),
        scale=np.ones(count),
        sample_rate_hz=1.0,
        t_s=rows[:, 1].astype(np.float64),
        channels=_CMAPSS_CHANNELS,
        units=_CMAPSS_UNITS,
        meta={"source": "cmapss", "time_unit": "cycle"},
    )


def _nab(source: Path, warn: Say) -> Iterator[Incoming]:
    windows = _nab_windows(source)
    for path in _paths(source, "*.csv*"):
        stem = path.name.partition(".")[0]
        yield Incoming(
            read=functools.partial(_read_nab, path, warn),
            machine=stem,
            source=path.name,
            labels=[
                Label(name="anomaly", value=True, start=_unix(path, begin), stop=_unix(path, end))
                for begin, end in windows.get(stem, [])
            ],
        )


def _nab_windows(source: Path) -> dict[str, list[tuple[str, str]]]:
    """The windows of anomalies by name of the series; empty where the file of them is not there."""
    for folder in (source, *source.parents)[:3]:
        path = folder / "combined_windows.json"
        if path.is_file():
            try:
                found = json.loads(read_text(path))
                return {
                    name.rpartition("/")[2].partition(".")[0]: [(str(begin), str(end)) for begin, end in windows]
                    for name, windows in found.items()
                }
            except (ValueError, RecursionError, AttributeError, TypeError) as error:
                raise malformed(path, f"holds no windows: {error}") from error
    return {}


def _unix(path: Path, text: str) -> float:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise malformed(path, f"has a time that is none: {text[:40]!r}") from error


def _read_nab(path: Path, warn: Say) -> Recording:
    """One series. A row whose time is not later than that before is left out."""
    table = read_table_text(path, ",", {})
    if list(table.columns) != ["timestamp", "value"] or table.columns["value"].dtype.kind not in "fi":
        raise malformed(path, "has not the columns timestamp and value")
    times = np.array([_unix(path, str(text)) for text in table.columns["timestamp"]])
    values = table.columns["value"].astype(np.float32)
    kept = np.isfinite(values) & (times > np.concatenate([[-np.inf], np.maximum.accumulate(times)[:-1]]))
    if left_out := int((~kept).sum()):
        warn(f"{path.name}: {left_out} rows without a value, or not later than the row before, are left out")
    times, values = times[kept], values[kept]
    if len(times) < 2:
        raise malformed(path, "has less than two rows")
    return Recording(
        samples=values[:, None, None],
        scale=np.ones(1),
        sample_rate_hz=1.0 / float(np.median(np.diff(times))),
        t_s=times,
        channels=("value",),
        units=("",),
        meta={"source": "nab", "left_out_rows": left_out},
    )


def _uci_fan(source: Path, _: Say) -> Iterator[Incoming]:
    for path in _paths(source, "*.npz"):
        for configuration, balance in _FAN_BALANCE.items():
            for speed in range(20, 101, 5):
                yield Incoming(
                    read=functools.partial(import_uci_fan, path, configuration, speed),
                    machine="fan",
                    source=f"{path.name}: configuration {configuration} at {speed} %",
                    labels=[
                        Label(name="imbalance", value=balance),
                        Label(name="configuration", value=float(configuration)),
                    ],
                    condition={"speed_percent": float(speed)},
                )


def _battery(source: Path, _: Say) -> Iterator[Incoming]:
    for path in _paths(source, "*discharge.csv*"):
        yield Incoming(
            read=functools.partial(_read_battery, path),
            machine=path.name.partition("_")[0],
            source=path.name,
            relabel=_end_of_life,
        )


def _read_battery(path: Path) -> DataTable:
    table = read_table_text(path, ",", _BATTERY_UNITS)
    if missing := sorted({"cycle_num", *_BATTERY_UNITS} - set(table.columns)):
        raise malformed(path, f"lacks the column {missing[0]}")
    return table


def _end_of_life(content: Recording | DataTable) -> list[Label]:
    """The first cycle below the capacity at the end of life, if it came so far."""
    assert isinstance(content, DataTable)
    cycles, capacity = content.columns["cycle_num"], content.columns["Capacity"]
    below = np.flatnonzero(capacity < _BATTERY_END_AH)
    return [Label(name="end_of_life_cycle", value=float(cycles[below[0]]))] if len(below) else []


def _ai4i(source: Path, _: Say) -> Iterator[Incoming]:
    for path in _paths(source, "ai4i*.csv*"):
        yield Incoming(read=functools.partial(_read_ai4i, path), machine="milling", source=path.name)


def _read_ai4i(path: Path) -> DataTable:
    table = read_table_text(path, None, {})
    units = {name: match[1] for name in table.columns if (match := re.search(r"\[(.+)\]\Z", name))}
    if "Machine failure" not in table.columns:
        raise malformed(path, "lacks the column Machine failure")
    return DataTable(table.columns, units, table.meta)


SETS: Final[Mapping[str, Callable[[Path, Say], Iterator[Incoming]]]] = {
    "ai4i": _ai4i,
    "battery": _battery,
    "cmapss": _cmapss,
    "cwru": _cwru,
    "femto": _femto,
    "nab": _nab,
    "uci-fan": _uci_fan,
}
"""Public data sets, by the name that ``wheeltapper dataset import --from`` takes."""
