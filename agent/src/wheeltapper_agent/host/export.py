"""The device's portable export: one SQLite file with what is in the state folder, for people and their tools.

``wheeltapper-agent export OUT.sqlite`` makes it: the spool's records, recordings that wait for their upload, the update
journal, the slots and the status. The tables are those of :mod:`~wheeltapper_agent.host.export_schema`; any SQLite
tool opens the file, e.g. Datasette.

Invariants:
    * Nothing in the state folder is changed, and a running agent is not disturbed.
    * The file appears whole, by one rename, with mode 0600. A file that exists is replaced only if that is asked for.
    * It holds no secret: neither the identity (keys, certificates) nor the configuration is read, except for the
      device's id.
    * What cannot be read is named in the table ``problems``, and the rest is exported.
    * Memory is bounded: records are read and written in batches.

Not done here: what a row of the spool means (:mod:`wheeltapper_agent.records.export`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import sqlite_utils

from wheeltapper_agent import __version__
from wheeltapper_agent.captures.pending import PendingRecording
from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import fsync_file, fsync_folder
from wheeltapper_agent.host.export_schema import FORMAT, TABLES, VIEWS
from wheeltapper_agent.host.local_socket import SOCKET_FILE, ask
from wheeltapper_agent.host.status import STATUS_FILE
from wheeltapper_agent.link.identity import load_identity
from wheeltapper_agent.records.export import open_snapshot
from wheeltapper_agent.records.spool import SPOOL_FILE
from wheeltapper_agent.update.journal import JournalEntry
from wheeltapper_agent.update.slots import ACTIVE, PREVIOUS
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["ExportSummary", "export_state"]

_BATCH: Final = 500
"""Records that are in memory together."""
_MAX_META_BYTES: Final = 1024 * 1024
_NO_HARD_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What ``link(2)`` says on file systems without hard links, e.g. that of a USB stick."""
_SQLITE_FULL: Final = sqlite3.SQLITE_FULL


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was exported."""

    path: Path
    bytes: int
    """Size of the file."""
    rows: dict[str, int]
    """Rows by table."""
    problems: tuple[str, ...]
    """What could not be read."""


def export_state(state_dir: Path, out: Path, now_seconds: float, replace: bool = False) -> ExportSummary:
    """Export the state folder ``state_dir`` into the new SQLite file ``out``.

    Args:
        state_dir: the agent's state folder; the agent may be running.
        out: the file to make.
        now_seconds: Unix time, for the table ``export``.
        replace: replace ``out`` if it exists.

    Raises:
        AgentError: ``export.exists`` (``out`` exists and ``replace`` is not set), ``export.denied`` (the state folder
            is closed to this user), ``export.missing`` (there is no such state folder, or no folder for ``out``),
            ``storage.*`` (the disk of ``out`` refuses; nothing is left of the file).
    """
    if not state_dir.is_dir():
        raise AgentError("export.missing", f"there is no state folder {state_dir}; is it the right configuration?")
    if not os.access(state_dir, os.R_OK | os.X_OK):
        raise AgentError("export.denied", f"{state_dir} is closed to this user; run it as root or the service's user")
    if not out.absolute().parent.is_dir():
        raise AgentError("export.missing", f"there is no folder {out.absolute().parent}; make it first")
    if not replace and os.path.lexists(out):
        raise _exists(out)
    try:
        with _temporary_file(out) as temporary:
            rows, problems = _fill(temporary, state_dir, now_seconds)
            fsync_file(temporary)
            size_bytes = temporary.stat().st_size
            _publish(temporary, out, replace)
        fsync_folder(out.absolute().parent)
    except OSError as error:
        raise storage_error(error, f"{out} cannot be written") from error
    except sqlite3.Error as error:
        number = errno.ENOSPC if getattr(error, "sqlite_errorcode", 0) & 0xFF == _SQLITE_FULL else errno.EIO
        raise storage_error(OSError(number, str(error)), f"{out} cannot be written") from error
    return ExportSummary(out, size_bytes, rows, tuple(problems))


def _exists(out: Path) -> AgentError:
    return AgentError("export.exists", f"{out} exists; choose another name, or replace it with --force")


@contextlib.contextmanager
def _temporary_file(out: Path) -> Iterator[Path]:
    """An empty file beside ``out`` with mode 0600; it is removed if it is still there at the end."""
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, out: Path, replace: bool) -> None:
    """Give the finished file its name.

    Raises:
        AgentError: ``export.exists``: somebody made a file of that name meanwhile.
    """
    if not replace:
        try:
            os.link(temporary, out, follow_symlinks=False)  # unlike a rename, it never replaces
        except FileExistsError as error:
            raise _exists(out) from error
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(out):
                raise _exists(out) from error
        else:
            return
    temporary.replace(out)


class _Writer:
    """Writes rows into the tables of the export, and counts them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._database = sqlite_utils.Database(connection)
        self.rows = dict.fromkeys(TABLES, 0)
        self.problems: list[str] = []
        self.pipelines: set[str] = set()
        """Every pipeline that a row names."""

    def create_tables(self) -> None:
        for name, table in TABLES.items():
            self._database.table(name).create(
                {column: kind for column, (kind, _) in table.columns.items()},
                pk=table.key[0] if len(table.key) == 1 else table.key,
                foreign_keys=table.references,
            )

    def create_indexes_and_views(self) -> None:
        for name, table in TABLES.items():
            for column in table.indexed:
                self._database.table(name).create_index([column])
        for name, (_, query) in VIEWS.items():
            self._database.create_view(name, query)

    def insert(self, table: str, *rows: dict[str, Any]) -> None:
        """Insert rows; columns that a row does not have are NULL. A row whose key is there already is left out: a
        damaged database may give a record twice."""
        if not rows:
            return
        columns = TABLES[table].columns
        places = ",".join("?" * len(columns))
        # Not insert_all of sqlite-utils: with 27 columns the whole export takes twice as long.
        done = self._connection.executemany(
            f"INSERT OR IGNORE INTO {table} VALUES ({places})",  # noqa: S608  # a name of ours
            ([row.get(name) for name in columns] for row in rows),
        )
        self.rows[table] += done.rowcount
        if "pipeline" in columns:
            self.pipelines.update(row["pipeline"] for row in rows if row.get("pipeline") is not None)

    def problem(self, part: str, detail: str) -> None:
        """Note what could not be read."""
        self.problems.append(f"{part}: {detail}")
        self.insert("problems", {"id": len(self.problems), "part": part, "detail": detail})


def _fill(path: Path, state_dir: Path, now_seconds: float) -> tuple[dict[str, int], list[str]]:
    """Make the tables in the empty file ``path`` and fill them; returns rows by table, and problems."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=OFF")  # a file that is not finished is thrown away
        connection.execute("PRAGMA synchronous=OFF")
        writer = _Writer(connection)
        writer.create_tables()
        device = _device(state_dir)
        writer.insert(
            "export",
            {"format": FORMAT, "exported_at": now_seconds, "device": device, "agent_version": __version__},
        )
        _export_spool(writer, state_dir / SPOOL_FILE)
        _export_recordings(writer, state_dir / "captures")
        _export_journal(writer, state_dir / "journal.json")
        _export_slots(writer, state_dir / "slots" / "pipelines")
        status = _export_status(writer, state_dir)
        _export_pipelines(writer, status)
        _export_documentation(writer)
        writer.create_indexes_and_views()
        connection.commit()
        return writer.rows, writer.problems


def _device(state_dir: Path) -> str:
    try:
        return load_identity(state_dir).fleet.device
    except AgentError:
        return ""


def _export_spool(writer: _Writer, path: Path) -> None:
    with open_snapshot(path) as snapshot:
        batch: list[dict[str, Any]] = []
        for row in snapshot.records():
            batch.append(row)
            if len(batch) == _BATCH:
                _insert_records(writer, batch)
                batch = []
        _insert_records(writer, batch)
        if snapshot.state is not None:
            state = snapshot.state
            writer.insert(
                "spool",
                {
                    "epoch": state.epoch,
                    "seq": state.seq,
                    "acked": state.acked,
                    "age_seconds": state.age_seconds,
                    "why_dropped": ",".join(state.why),
                },
            )
            for kind in sorted(state.held.keys() | state.dropped.keys()):
                held, dropped = state.held.get(kind, 0), state.dropped.get(kind, 0)
                writer.insert("spool_counts", {"kind": kind, "held": held, "dropped": dropped})
        for detail in snapshot.problems:
            writer.problem("spool", detail)


def _insert_records(writer: _Writer, batch: list[dict[str, Any]]) -> None:
    writer.insert("records", *batch)
    writer.insert(
        "alert_reasons",
        *(
            {"seq": row["seq"], "position": position} | reason
            for row in batch
            if row["kind"] == "alert" and row["intact"]
            for position, reason in enumerate(json.loads(row["message"]).get("reasons", ()), start=1)
        ),
    )


def _export_recordings(writer: _Writer, folder: Path) -> None:
    """The recordings that wait for their upload. The folder is only read: one that is half written is left out."""
    for path in sorted(folder.glob("*.json")):
        try:
            entry = msgspec.json.decode(path.read_bytes(), type=PendingRecording)
            row = {name: getattr(entry, name) for name in TABLES["recordings"].columns if hasattr(entry, name)}
            row["bytes"] = entry.length
        except FileNotFoundError:  # uploaded just now
            continue
        except (OSError, ValueError) as error:
            writer.problem("recordings", f"{path.name} cannot be read: {error}")
            continue
        try:
            row["meta"] = _meta(path.with_suffix(".npz"))
        except Exception as error:  # noqa: BLE001  # zipfile, zlib and numpy raise many kinds on damaged bytes
            writer.problem("recordings", f"{entry.name}.npz cannot be read: {error}")
        writer.insert("recordings", row)


def _meta(path: Path) -> str:
    """The JSON text ``meta`` of a recording; its samples are not read."""
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("meta.npy").file_size > _MAX_META_BYTES:
            raise ValueError("its meta is too large")
        with archive.open("meta.npy") as file:
            return str(np.lib.format.read_array(file, allow_pickle=False))


def _export_journal(writer: _Writer, path: Path) -> None:
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=JournalEntry)
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError, ProtocolError) as error:
        writer.problem("journal", f"{path.name} cannot be read: {error}")
        return
    execution = entry.execution
    if execution is None:
        return
    names = TABLES["executions"].columns
    row = {name: getattr(execution, name) for name in names if hasattr(execution, name)}
    row |= {"reported": int(all(one.reported for one in entry.ended if one.id == execution.id))}
    writer.insert("executions", row | {"counter": entry.counter, "journalled_at": execution.at})
    for pipeline, target in execution.targets.items():
        writer.insert(
            "execution_targets",
            {"execution": execution.id, "pipeline": pipeline, "slot_before": execution.before.get(pipeline)}
            | {name: getattr(target, name) for name in ("model", "release", "path", "length", "sha256")},
        )


def _export_slots(writer: _Writer, folder: Path) -> None:
    """Where the links of each pipeline point."""
    try:
        for pipeline in sorted(folder.iterdir()):
            for role in (ACTIVE, PREVIOUS):
                with contextlib.suppress(FileNotFoundError):
                    slot = Path(os.readlink(pipeline / role)).name
                    writer.insert("slots", {"pipeline": pipeline.name, "role": role, "slot": slot})
    except FileNotFoundError:
        return
    except OSError as error:
        writer.problem("slots", f"{folder} cannot be read: {error.strerror}")


def _export_status(writer: _Writer, state_dir: Path) -> dict[str, Any]:
    """What the agent answers, or what it wrote last; empty where it never ran."""
    try:
        body = {"running": True} | ask(state_dir / SOCKET_FILE, {"ask": "status"})
    except AgentError:
        try:
            body = {"running": False} | json.loads((state_dir / STATUS_FILE).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            writer.problem("status", f"{STATUS_FILE} cannot be read: {error}")
            return {}
    row = {name: _scalar(body.get(name)) for name in TABLES["status"].columns}
    writer.insert("status", row | {"body": json.dumps(body)})
    return body


def _export_pipelines(writer: _Writer, status: dict[str, Any]) -> None:
    """Every pipeline that was named so far, with what the status says of it."""
    told = status.get("pipelines")
    told = told if isinstance(told, dict) else {}
    names = TABLES["pipelines"].columns
    for pipeline in sorted(writer.pipelines | told.keys()):
        found = told.get(pipeline)
        found = found if isinstance(found, dict) else {}
        writer.insert("pipelines", {name: _scalar(found.get(name)) for name in names} | {"name": pipeline})


def _export_documentation(writer: _Writer) -> None:
    for name, table in TABLES.items():
        writer.insert("documentation", {"table_name": name, "column_name": "", "description": table.description})
        for column, (_, description) in table.columns.items():
            writer.insert("documentation", {"table_name": name, "column_name": column, "description": description})
    for name, (description, _) in VIEWS.items():
        writer.insert("documentation", {"table_name": name, "column_name": "", "description": description})


def _scalar(value: object) -> object:
    """A value of a JSON file for one column: lists and objects as JSON text."""
    return json.dumps(value) if isinstance(value, list | dict) else value
