"""Rows of cases and their log, in the caller's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, text, update

from wheeltapper_fleet.alerts.case import Case
from wheeltapper_fleet.alerts.tables import case_log, cases
from wheeltapper_fleet.ground.errors import FleetError

__all__ = [
    "Changes",
    "add_log",
    "case_of",
    "due_cases",
    "find_case",
    "find_cases",
    "insert_cases",
    "lock_cases",
    "newest_by_key",
    "opened_since",
    "update_case",
]

_FIELDS: Final = tuple(each.name for each in dataclasses.fields(Case))
_STORED: Final = tuple(name for name in _FIELDS if name not in ("id", "version"))
_LOCK: Final = 7_742_011
_IN_A_QUERY: Final = 500


def lock_cases(connection: Connection) -> None:
    """Let one transaction at a time decide on cases: triage of two processes, or triage and a person."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyhow
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def case_of(row: RowMapping) -> Case:
    """The case of a row."""
    values: dict[str, Any] = {name: row[name] for name in _FIELDS}
    why = values["why"]
    values["why"] = tuple(str(each) for each in why) if isinstance(why, list) else ()
    return Case(**values)


def find_case(connection: Connection, number: int) -> Case:
    """The case with this number.

    Raises:
        FleetError: ``case.not_found``.
    """
    row = connection.execute(select(cases).where(cases.c.id == number)).mappings().first()
    if row is None:
        raise FleetError("case.not_found", f"there is no case {number}", 404)
    return case_of(row)


def find_cases(connection: Connection, numbers: Sequence[int]) -> list[Case]:
    """The cases with these numbers (at most a slice), in the order in which triage is to look at them."""
    query = select(cases).where(cases.c.id.in_(numbers)).order_by(cases.c.look_at, cases.c.id)
    return [case_of(row) for row in connection.execute(query).mappings()]


def newest_by_key(connection: Connection, keys: Collection[str]) -> dict[str, Case]:
    """The newest case of each key that has one."""
    wanted = sorted(set(keys))
    found: dict[str, Case] = {}
    for start in range(0, len(wanted), _IN_A_QUERY):
        some = wanted[start : start + _IN_A_QUERY]
        newest = select(func.max(cases.c.id)).where(cases.c.key.in_(some)).group_by(cases.c.key)
        for row in connection.execute(select(cases).where(cases.c.id.in_(newest))).mappings():
            found[row["key"]] = case_of(row)
    return found


def due_cases(connection: Connection, now: float, limit: int) -> list[Case]:
    """The cases that triage must look at, those that wait longest first."""
    query = select(cases).where(cases.c.look_at <= now).order_by(cases.c.look_at, cases.c.id).limit(limit)
    return [case_of(row) for row in connection.execute(query).mappings()]


def insert_cases(connection: Connection, made: Sequence[Case]) -> list[Case]:
    """Add cases, in one statement; returns them with their numbers, in the same order."""
    if not made:
        return []
    statement = insert(cases).returning(cases.c.id, sort_by_parameter_order=True)
    numbers = connection.execute(statement, [{**_values(case), "version": 1} for case in made]).scalars().all()
    return [replace(case, id=int(number), version=1) for case, number in zip(made, numbers, strict=True)]


def update_case(connection: Connection, case: Case) -> Case:
    """Store a case that was read at ``case.version``; returns it at the next version.

    Raises:
        FleetError: ``case.conflict``.
    """
    same = (cases.c.id == case.id, cases.c.version == case.version)
    values = {**_values(case), "version": case.version + 1}
    if connection.execute(update(cases).where(*same).values(values)).rowcount != 1:
        raise FleetError(
            "case.conflict", f"case {case.id} has changed since version {case.version}: read it again", 409
        )
    return replace(case, version=case.version + 1)


class Changes:
    """Changes of cases that were read under :func:`lock_cases` in this transaction, written together at its end."""

    def __init__(self) -> None:
        self._cases: dict[int, Case] = {}
        self._log: list[dict[str, Any]] = []

    def put(self, case: Case) -> Case:
        """Have a case stored; returns it at the version that it will have."""
        self._cases[case.id] = case
        return replace(case, version=case.version + 1)

    def find(self, number: int) -> Case | None:
        """The case as it will be stored, if it is changed."""
        return self._cases.get(number)

    def log(self, number: int, at: float, who: str, event: str, detail: str = "") -> None:
        """Have it written down what happened to a case."""
        self._log.append({"case_id": number, "at": at, "who": who, "event": event, "detail": detail[:2000]})

    def write(self, connection: Connection) -> None:
        """Write all of it: two statements, however many cases."""
        if self._cases:
            values = {name: bindparam(f"to_{name}", type_=cases.c[name].type) for name in (*_STORED, "version")}
            rows = [
                {f"to_{name}": value for name, value in {**_values(case), "version": case.version + 1}.items()}
                | {"of_id": number}
                for number, case in self._cases.items()
            ]
            connection.execute(update(cases).where(cases.c.id == bindparam("of_id")).values(values), rows)
        if self._log:
            connection.execute(insert(case_log), self._log)


def add_log(connection: Connection, number: int, at: float, who: str, event: str, detail: str = "") -> None:
    """Write down what happened to a case."""
    row = {"case_id": number, "at": at, "who": who, "event": event, "detail": detail[:2000]}
    connection.execute(insert(case_log).values(row))


def opened_since(connection: Connection, model: str, release: int | None, since: float, limit: int) -> Sequence[Case]:
    """The newest cases of a model (and a release of it) that are about machines and were opened since; at most
    ``limit``."""
    query = select(cases).where(cases.c.model == model, cases.c.opened_at >= since, cases.c.kind == "machine")
    if release is not None:
        query = query.where(cases.c.release == release)
    rows = connection.execute(query.order_by(cases.c.opened_at.desc(), cases.c.id.desc()).limit(limit)).mappings()
    return [case_of(row) for row in rows]


def _values(case: Case) -> dict[str, Any]:
    values = {name: getattr(case, name) for name in _STORED}
    return {**values, "why": list(case.why)}
