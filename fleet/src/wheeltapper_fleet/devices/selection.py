"""A query as SQL: the condition that selects its devices, on SQLite and PostgreSQL alike.

Invariants:
    * It selects what :meth:`~wheeltapper_fleet.ground.query.Query.matches` matches on the facts of :func:`facts_of`.
    * No condition is NULL, so that ``not`` is its opposite.
    * A comparison of a tag, an attribute or a pipeline's release reads an index of its table, not the devices.

Cost: proportional to the devices that one comparison selects; for ``like``, to those that have the tag or attribute at
all. 100,000 of them take some tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Table,
    and_,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from wheeltapper_fleet.devices.rules import DeviceState
from wheeltapper_fleet.devices.tables import SEEN, device_attributes, device_pipelines, device_tags, devices
from wheeltapper_fleet.ground.query import Ago, And, Compare, Field, Has, Node, Not, Or, Query, Value, natural, parse

__all__ = ["count_selected", "facts_of", "where"]

_COLUMNS: Final = {
    "id": devices.c.id,
    "state": devices.c.state,
    "online": devices.c.online,
    "site": devices.c.site,
    "last_seen": devices.c.last_seen_at,
    "enrolled": devices.c.enrolled_at,
}
_NAMED: Final = {"tag": device_tags, "attr": device_attributes}


def where(query: Query, now: float) -> ColumnElement[bool]:
    """The condition on rows of ``devices`` that holds for the devices which ``query`` means at ``now`` (Unix
    seconds)."""
    return _condition(query.tree, now)


def count_selected(connection: Connection, text: str, now: float, most: int) -> int:
    """How many active devices a query (empty: all) means, counted up to one more than ``most``.

    Raises:
        FleetError: ``query.invalid``, with the place of the fault.
    """
    found = select(devices.c.id).where(devices.c.state == DeviceState.ACTIVE.value)
    if text.strip():
        found = found.where(where(parse(text), now))
    return int(connection.execute(select(func.count()).select_from(found.limit(most + 1).subquery())).scalar_one())


def facts_of(connection: Connection, names: Iterable[str]) -> dict[str, dict[str, object]]:
    """The facts of devices, by id, as :meth:`~wheeltapper_fleet.ground.query.Query.matches` reads them."""
    wanted = list(names)
    columns = [column.label(field) for field, column in _COLUMNS.items()]
    found: dict[str, dict[str, object]] = {
        row.id: dict(row._mapping)  # SQLAlchemy's public name of a row's columns
        for row in connection.execute(select(*columns).where(devices.c.id.in_(wanted)).order_by(devices.c.id))
    }
    for kind, table in _NAMED.items():
        for row in connection.execute(select(table).where(table.c.device.in_(wanted))):
            if row.device in found:
                found[row.device][f"{kind}.{row.name}"] = row.value
    for row in connection.execute(select(device_pipelines).where(device_pipelines.c.device.in_(wanted))):
        if row.device in found:
            found[row.device] |= {f"model.{row.pipeline}": row.model, f"release.{row.pipeline}": row.release}
    return found


def _condition(node: Node, now: float) -> ColumnElement[bool]:
    match node:
        case And(of):
            return and_(true(), *(_condition(each, now) for each in of))
        case Or(of):
            return or_(false(), *(_condition(each, now) for each in of))
        case Not(Compare(Field("online"), "=", (bool() as online,))):
            return devices.c.online.is_(not online)  # as an equality, which an index knows
        case Not(of):
            return not_(_condition(of, now))
        case Has(field):
            return _has(field)
        case Compare(field, operator, values):
            return _compare(field, operator, tuple(_timed(value, now) for value in values))


def _timed(value: Value, now: float) -> str | float | bool:
    return now - value.seconds if isinstance(value, Ago) else value


def _has(field: Field) -> ColumnElement[bool]:
    if field.kind in _COLUMNS:
        return _COLUMNS[field.kind].is_not(None)
    table, mine = _table(field)
    return devices.c.id.in_(select(table.c.device).where(*mine))


def _compare(field: Field, operator: str, values: tuple[str | float | bool, ...]) -> ColumnElement[bool]:
    if field.kind in _COLUMNS:
        column = _COLUMNS[field.kind]
        compared = SEEN if field.kind == "last_seen" else column  # what an index holds
        return and_(column.is_not(None), _column(compared, operator, values))
    table, mine = _table(field)
    if field.kind in _NAMED:
        condition = _text(table, operator, values)
    else:
        column = table.c[field.kind]
        condition = and_(column.is_not(None), _column(column, operator, values))
    return devices.c.id.in_(select(table.c.device).where(*mine, condition))


def _table(field: Field) -> tuple[Table, tuple[ColumnElement[bool], ...]]:
    """The table of a field that has a name, and the condition for its rows."""
    if field.kind in _NAMED:
        table = _NAMED[field.kind]
        return table, (table.c.name == field.name,)
    return device_pipelines, (
        device_pipelines.c.pipeline == field.name,
        device_pipelines.c[field.kind].is_not(None),
    )


def _column(column: ColumnElement[Any], operator: str, values: tuple[str | float | bool, ...]) -> ColumnElement[bool]:
    if operator == "like":
        return _Glob(column, literal(values[0]))
    if operator in ("=", "in"):
        return column == values[0] if len(values) == 1 else column.in_(values)
    return _ordered(column, operator, values[0])


def _text(table: Table, operator: str, values: tuple[str | float | bool, ...]) -> ColumnElement[bool]:
    """The condition on a tag's or an attribute's value: its text, the number that it spells, or its order."""
    if operator == "like":
        return _Glob(table.c.value, literal(values[0]))
    if operator in ("=", "in"):
        texts = [value for value in values if isinstance(value, str)]
        numbers = [value for value in values if not isinstance(value, str)]
        either = [table.c.value.in_(texts)] if texts else []
        return or_(*either, and_(table.c.number.is_not(None), table.c.number.in_(numbers))) if numbers else either[0]
    (value,) = values
    if isinstance(value, str):
        return _ordered(table.c.sort_key, operator, natural(value))
    return and_(table.c.number.is_not(None), _ordered(table.c.number, operator, value))


def _ordered(column: ColumnElement[Any], operator: str, value: str | float) -> ColumnElement[bool]:
    found: ColumnElement[bool] = {
        "<": column < value,
        "<=": column <= value,
        ">": column > value,
        ">=": column >= value,
    }[operator]
    return found


class _Glob(GenericFunction[bool]):
    """``glob(column, pattern)``: ``*`` is any text, ``?`` any character; case matters."""

    type = Boolean()
    inherit_cache = True
    name = "wheeltapper_glob"


@compiles(_Glob, "sqlite")
def _glob_of_sqlite(element: _Glob, compiler: Any, **options: Any) -> str:
    column, pattern = element.clauses
    pattern = func.replace(pattern, "[", "[[]")  # the only other sign that means something to GLOB
    return f"({compiler.process(column, **options)} GLOB {compiler.process(pattern, **options)})"


@compiles(_Glob, "postgresql")
def _glob_of_postgresql(element: _Glob, compiler: Any, **options: Any) -> str:
    column, pattern = element.clauses
    for sign, meaning in (("\\", "\\\\"), ("%", "\\%"), ("_", "\\_"), ("*", "%"), ("?", "_")):
        pattern = func.replace(pattern, sign, meaning)
    return f"({compiler.process(column, **options)} LIKE {compiler.process(pattern, **options)})"
