"""What a device says of itself: attributes, and what its pipelines run; kept where queries find it.

Invariant: after :func:`store_reported` the rows of a device are those of its newest status message; each attribute has
the time since which it has had its value. Where nothing has changed, nothing is written. What a pipeline ever ran stays
in ``device_releases`` until the device is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, delete, select

from wheeltapper_fleet.db.bulk import delete_keys
from wheeltapper_fleet.db.engine import insert_ignore, reading, upsert_statement
from wheeltapper_fleet.devices.schemas import AttributeView
from wheeltapper_fleet.devices.tables import device_attributes, device_pipelines, device_releases
from wheeltapper_fleet.ground.query import natural, spelled_number

__all__ = ["Said", "attributes_of", "clear_reported", "list_attributes", "pipelines_of", "store_reported"]

_VALUE_CHARACTERS: Final = 200
_NAME_CHARACTERS: Final = 120


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


@dataclass(frozen=True)
class Said:
    """What a device said of itself: its stored status until now (None: there is none) and the newest one, both as
    stored, plain dicts."""

    device: str
    before: Any
    status: Any


def store_reported(connection: Connection, said: Iterable[Said], now: float) -> None:
    """Keep what devices say of themselves. ``now`` is in Unix seconds.

    Cost: at most five statements, for all of them.
    """
    attributes, pipelines = _Changes(device_attributes, "name"), _Changes(device_pipelines, "pipeline")
    ran_rows: list[dict[str, Any]] = []
    for each in said:
        had, has = attributes_of(each.before), attributes_of(each.status)
        if had != has:
            changed = {name: value for name, value in has.items() if had.get(name) != value}
            attributes.gone(each.device, had.keys() - has.keys())
            attributes.rows += [
                {"device": each.device, "name": name, "value": value, "at": now, **_sortable(value)}
                for name, value in changed.items()
            ]
        ran, runs = pipelines_of(each.before), pipelines_of(each.status)
        if ran != runs:
            pipelines.gone(each.device, ran.keys() - runs.keys())
            pipelines.rows += [
                {"device": each.device, "pipeline": name, "model": model, "release": release}
                for name, (model, release) in runs.items()
                if ran.get(name) != (model, release)
            ]
            ran_rows += [
                {"model": model, "release": release, "device": each.device, "pipeline": name, "first_at": now}
                for name, (model, release) in runs.items()
                if model and release is not None and ran.get(name) != (model, release)
            ]
    attributes.write(connection)
    pipelines.write(connection)
    insert_ignore(connection, device_releases, sorted(ran_rows, key=lambda row: tuple(row.values())))


def _sortable(value: str) -> dict[str, Any]:
    return {"number": spelled_number(value), "sort_key": natural(value)}


def clear_reported(connection: Connection, device: str, *, forget: bool = False) -> None:
    """Forget what ``device`` says: it is enrolled anew; with ``forget`` it is removed, and so is what it ever ran."""
    for table in (device_attributes, device_pipelines, *([device_releases] if forget else [])):
        connection.execute(delete(table).where(table.c.device == device))


def list_attributes(engine: Engine, device: str) -> list[AttributeView]:
    """What ``device`` reported of itself, by name: some tens at most, as many as a status message may hold."""
    query = select(device_attributes).where(device_attributes.c.device == device).order_by(device_attributes.c.name)
    with reading(engine) as connection:
        return [AttributeView(name=row.name, value=row.value, at=row.at) for row in connection.execute(query)]


class _Changes:
    """What changes in a table with one row for each device and name.

    Args:
        table: the table.
        key: its column of names.
    """

    def __init__(self, table: Table, key: str) -> None:
        self._table, self._key = table, key
        self._gone: list[tuple[str, str]] = []
        self.rows: list[dict[str, Any]] = []

    def gone(self, device: str, names: Iterable[str]) -> None:
        """Names that ``device`` has no more."""
        self._gone += [(device, name) for name in names]

    def write(self, connection: Connection) -> None:
        """Write all of it."""
        delete_keys(connection, self._table, ("device", self._key), self._gone)
        if self.rows:
            statement = upsert_statement(connection, self._table)
            excluded = statement.excluded
            changed = {name: excluded[name] for name in self.rows[0] if name not in ("device", self._key)}
            statement = statement.on_conflict_do_update(index_elements=["device", self._key], set_=changed)
            connection.execute(statement, sorted(self.rows, key=lambda row: (row["device"], row[self._key])))
