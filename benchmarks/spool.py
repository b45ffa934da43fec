"""How fast the spool takes records, and how many bytes it writes to the disk.

The baseline is plain ``sqlite3`` with the same journal mode and fsync: it inserts the same encoded payloads by
``executemany``, in transactions of the same size. Bytes are those that the kernel sends to the block layer for this
process (``write_bytes`` in /proc/self/io), with the database's log, its checkpoints and whole blocks of the file
system. The kernel counts none on a tmpfs, so use a folder on a disk. Commits stand for fsyncs.

    python benchmarks/spool.py [--json]
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rig import Row, main, median_ratio, row

from wheeltapper_agent.records.rows import encode_item
from wheeltapper_agent.records.spool import Spool
from wheeltapper_protocols.wire.messages import TelemetryRecord

_BATCH = 1000
_RECORDS = 40_000
_PACED = 400


def _records(count: int) -> list[TelemetryRecord]:
    """Telemetry records of scored windows, as a pipeline makes them."""
    return [
        TelemetryRecord(
            seq=1,
            pipeline="main",
            window=index,
            t_s=60.0 * index,
            model="bearing-anomaly",
            release=3,
            score=0.5 + index * 1e-7,
            latency_ms=1.25,
        )
        for index in range(count)
    ]


def _written() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(fields["write_bytes"])


def _rate(append: Callable[[list[TelemetryRecord]], None], records: list[TelemetryRecord]) -> float:
    began = time.perf_counter()
    for first in range(0, len(records), _BATCH):
        append(records[first : first + _BATCH])
    return len(records) / (time.perf_counter() - began)


def _ours(folder: Path, records: list[TelemetryRecord]) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        spool = Spool(Path(name) / "spool.sqlite")
        rate = _rate(lambda batch: spool.append(*batch), records)
        spool.close()
    return rate


def _plain(folder: Path, records: list[TelemetryRecord]) -> float:
    rows = [(index, "telemetry", encode_item(record)) for index, record in enumerate(records, start=1)]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        connection = sqlite3.connect(Path(name) / "plain.sqlite", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE records(seq INTEGER PRIMARY KEY, kind TEXT, payload BLOB)")
        began = time.perf_counter()
        for first in range(0, len(rows), _BATCH):
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO records VALUES (?, ?, ?)", rows[first : first + _BATCH])
            connection.execute("COMMIT")
        rate = len(rows) / (time.perf_counter() - began)
        connection.close()
    return rate


def _bytes_a_record(folder: Path, records: list[TelemetryRecord], together: int, acked: bool) -> tuple[float, float]:
    """Bytes and commits for one record when ``together`` records share a commit; ``acked``: each commit is acked."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        spool = Spool(Path(name) / "spool.sqlite")
        spool.append(*records[:together])
        os.sync()
        before = _written()
        for first in range(0, len(records), together):
            if acked:
                spool.ack(spool.epoch, spool.figures().seq)
            spool.append(*records[first : first + together])
        spool.close()
        written = _written() - before
    return written / len(records), 1 / together


def rows() -> list[Row]:
    """The spool's figures."""
    build = Path(__file__).resolve().parents[1] / "build"
    build.mkdir(exist_ok=True)
    many, paced = _records(_RECORDS), _records(_PACED)
    ratio, rate = median_ratio(lambda: _ours(build, many), lambda: _plain(build, many), rounds=5)
    batched, _ = _bytes_a_record(build, many, _BATCH, acked=False)
    found = [
        row(f"spool: records/s in, {_BATCH} a commit", rate, at_least=20_000),
        row("spool: the same, against plain sqlite3 executemany", ratio, at_least=0.33),
        row(f"spool: bytes written a record, {_BATCH} a commit", batched, at_most=1024),
    ]
    for together, cap in ((1, 16 * 1024), (5, 4 * 1024)):
        for acked in (False, True):
            written, commits = _bytes_a_record(build, paced, together, acked)
            what = "acked" if acked else "offline"
            name = f"spool: bytes written a record, {together} a commit ({commits:g} fsync a record), {what}"
            found.append(row(name, written, at_most=cap))
    return found


if __name__ == "__main__":
    main(rows, "The spool")
