"""What a device says of itself: attributes, and what its pipelines run; kept where queries find it.

Invariant: after :func:`store_reported` the rows of a device are those of its newest status message; each attribute has
the time since which it has had its value. Where nothing has changed, nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Table, delete

from wheeltapper_fleet.db.engine import upsert_statement
from wheeltapper_fleet.devices.tables import device_attributes, device_pipelines
from wheeltapper_fleet.ground.query import natural, spelled_number

__all__ = ["attributes_of", "clear_reported", "pipelines_of", "store_reported"]

_VALUE_CHARACTERS: Final = 200
_NAME_CHARACTERS: Final = 120
_Stored = Mapping[str, Any]


def attributes_of(status: Any) -> dict[str, str]:
    """The attributes in a stored status message, by name; empty where there is none that can be read.

    ``agent_version``, ``profile``, ``runtime.PIPELINE``, and what the device itself lists.
    """
    if not isinstance(status, dict):
        return {}
    found = dict(status["attributes"]) if isinstance(status.get("attributes"), dict) else {}
    found |= {name: status.get(name) for name in ("agent_version", "profile")}
    pipelines = status.get("pipelines")
    for name, value in pipelines.items() if isinstance(pipelines, dict) else ():
        found[f"runtime.{name}"] = value.get("runtime") if isinstance(value, dict) else None
    return {
        name[:_NAME_CHARACTERS]: storable_text(value)[:_VALUE_CHARACTERS]
        for name, value in found.items()
        if isinstance(value, str) and value
    }


def pipelines_of(status: Any) -> dict[str, tuple[str | None, int | None]]:
    """What each pipeline runs by a stored status message: model and release, None for none."""
    pipelines = status.get("pipelines") if isinstance(status, dict) else None
    return {
        name: (value.get("model"), value.get("release")) if isinstance(value, dict) else (None, None)
        for name, value in (pipelines.items() if isinstance(pipelines, dict) else ())
    }


def storable_text(text: str) -> str:
    """``text`` without what no database takes: NUL and halves of a pair become ``?``."""
    return text.replace("\x00", "?").encode("utf-8", "replace").decode("utf-8")


def store_reported(connection: Connection, device: str, before: Any, status: Any, now: float) -> None:
    """Keep what ``device`` says in ``status``; ``before`` is its stored status until now. Both as stored: plain dicts.

    Args:
        connection: within the caller's transaction.
        device: the device that sent it.
        before: the status message that the rows are of; None if there are none.
        status: the newest one.
        now: Unix seconds.
    """
    had, has = attributes_of(before), attributes_of(status)
    if had != has:
        _write(
            connection,
            device_attributes,
            device,
            "name",
            had.keys() - has.keys(),
            [
                {"name": name, "value": value, "number": spelled_number(value), "sort_key": natural(value), "at": now}
                for name, value in has.items()
                if had.get(name) != value
            ],
        )
    ran, runs = pipelines_of(before), pipelines_of(status)
    if ran != runs:
        _write(
            connection,
            device_pipelines,
            device,
            "pipeline",
            ran.keys() - runs.keys(),
            [
                {"pipeline": name, "model": model, "release": release}
                for name, (model, release) in runs.items()
                if ran.get(name) != (model, release)
            ],
        )


def clear_reported(connection: Connection, device: str) -> None:
    """Forget what ``device`` said: it is enrolled anew, or removed."""
    for table in (device_attributes, device_pipelines):
        connection.execute(delete(table).where(table.c.device == device))


def _write(
    connection: Connection, table: Table, device: str, key: str, gone: Iterable[str], rows: list[dict[str, Any]]
) -> None:
    if names := list(gone):
        connection.execute(delete(table).where(table.c.device == device, table.c[key].in_(names)))
    if rows:
        statement = upsert_statement(connection, table)
        changed = {name: statement.excluded[name] for name in rows[0] if name != key}
        statement = statement.on_conflict_do_update(index_elements=["device", key], set_=changed)
        connection.execute(statement, [{"device": device, **row} for row in rows])
