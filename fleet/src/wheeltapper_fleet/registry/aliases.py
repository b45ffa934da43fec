"""Aliases: names such as ``champion`` and ``candidate`` for a release of a model, which may name another one tomorrow.

Invariants:
    * An alias names a release that is published.
    * Every change is kept with the release before and after, who made it, when and why; nothing of it is ever deleted.
    * A change that was decided on another version of the alias than the present one changes nothing.
    * An alias that has a rule names another release only where the rule is met
      (:mod:`wheeltapper_fleet.registry.promotion`).

An alias changes nothing on a device: campaigns and default releases do.

Example:
    >>> set_alias(engine, "bearing", "champion", 4, who="ann", why="passed in hall 3", now=time.time())
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, insert, select
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.db.engine import insert_one, reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.registry.promotion import FactsOf, check_promotion
from wheeltapper_fleet.registry.published import published_release
from wheeltapper_fleet.registry.schemas import AliasChange, AliasView
from wheeltapper_fleet.registry.tables import alias_changes, release_aliases, releases

__all__ = [
    "change_alias",
    "get_alias",
    "list_alias_changes",
    "list_aliases",
    "named_release",
    "remove_alias",
    "set_alias",
]

_WHY_CHARACTERS: Final = 500
_WHO_CHARACTERS: Final = 128
_NUMBER_DIGITS: Final = 9


def set_alias(
    engine: Engine,
    model: str,
    alias: str,
    release: int,
    *,
    who: str,
    why: str,
    now: float,
    version: int | None = None,
    facts: FactsOf | None = None,
) -> AliasView:
    """Let ``alias`` name ``release``. If it does already, nothing changes.

    Args:
        engine: the fleet's database.
        model: the model's name.
        alias: the alias's name.
        release: a published release of the model.
        who: makes the change.
        why: the reason, for the record.
        now: Unix seconds.
        version: of the alias, on which this was decided (0: it named none); None: whatever it is.
        facts: gives what a rule of the alias asks for; without it, an alias that has a rule is refused.

    Raises:
        FleetError: ``release.not_found``, ``alias.conflict``, ``alias.rule``.
    """
    try:
        with engine.begin() as connection:
            change_alias(connection, model, alias, release, who=who, why=why, now=now, version=version, facts=facts)
    except IntegrityError as error:  # another request set it first, in the same moment
        raise FleetError(
            "alias.conflict", f"{alias} was set by somebody else just now; look at it again", 409
        ) from error
    return get_alias(engine, model, alias)


def change_alias(
    connection: Connection,
    model: str,
    alias: str,
    release: int,
    *,
    who: str,
    why: str,
    now: float,
    version: int | None = None,
    facts: FactsOf | None = None,
    approvals: int = 0,
) -> None:
    """As :func:`set_alias`, in the caller's transaction; ``approvals`` persons have approved it.

    Raises:
        FleetError: ``release.not_found``, ``alias.conflict``, ``alias.rule``.
        IntegrityError: another transaction set the alias first, in the same moment.
    """
    published_release(connection, model, release, releases.c.release)
    row = _locked(connection, model, alias)
    _check_version(row, alias, version)
    if row is not None and row.release == release:
        return
    check_promotion(connection, model, alias, release, facts, approvals)
    before = None if row is None else row.release
    number = _write_change(connection, model, alias, before, release, who, why, now)
    values = {"release": release, "version": number, "set_at": now, "set_by": who[:_WHO_CHARACTERS]}
    values["why"] = why[:_WHY_CHARACTERS]
    if row is None:
        connection.execute(insert(release_aliases).values(model=model, alias=alias, **values))
    else:
        connection.execute(release_aliases.update().where(*_is(model, alias)).values(**values))


def remove_alias(
    engine: Engine, model: str, alias: str, *, who: str, why: str, now: float, version: int | None = None
) -> None:
    """Let ``alias`` name nothing; what it named is kept among its changes.

    Raises:
        FleetError: ``alias.not_found``, ``alias.conflict``.
    """
    with engine.begin() as connection:
        row = _locked(connection, model, alias)
        if row is None:
            raise _not_found(model, alias)
        _check_version(row, alias, version)
        _write_change(connection, model, alias, row.release, None, who, why, now)
        connection.execute(release_aliases.delete().where(*_is(model, alias)))


def get_alias(engine: Engine, model: str, alias: str) -> AliasView:
    """What an alias names.

    Raises:
        FleetError: ``alias.not_found``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(release_aliases).where(*_is(model, alias))).one_or_none()
    if row is None:
        raise _not_found(model, alias)
    return AliasView(**row._mapping)


def named_release(connection: Connection, model: str, name: str) -> int:
    """The published release of a model that ``name`` means: an alias, else a number.

    Raises:
        FleetError: ``alias.not_found``, ``release.not_found``.
    """
    query = select(release_aliases.c.release).where(*_is(model, name))
    found = connection.execute(query).scalar_one_or_none()
    if found is not None:
        return int(found)
    if not (name.isascii() and name.isdigit() and len(name) <= _NUMBER_DIGITS):
        raise _not_found(model, name)
    return int(published_release(connection, model, int(name), releases.c.release).release)


def list_aliases(
    engine: Engine, model: str | None = None, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[AliasView]:
    """A page of the aliases, by model and name; of one model, or of all.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(release_aliases)
    if model is not None:
        query = query.where(release_aliases.c.model == model)
    with reading(engine) as connection:
        key = (release_aliases.c.model, release_aliases.c.alias)
        rows, following = page_of(connection, query, key, limit=limit, after=after)
    return Page([AliasView(**row._mapping) for row in rows], following)


def list_alias_changes(
    engine: Engine, model: str, alias: str | None = None, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[AliasChange]:
    """A page of the changes of a model's aliases, or of one of them, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(alias_changes).where(alias_changes.c.model == model)
    if alias is not None:
        query = query.where(alias_changes.c.alias == alias)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, (alias_changes.c.id,), limit=limit, after=after, descending=True)
    return Page([AliasChange(**row._mapping) for row in rows], following)


def _is(model: str, alias: str) -> tuple[Any, Any]:
    return release_aliases.c.model == model, release_aliases.c.alias == alias


def _locked(connection: Connection, model: str, alias: str) -> Row[Any] | None:
    return connection.execute(select(release_aliases).where(*_is(model, alias)).with_for_update()).one_or_none()


def _check_version(row: Row[Any] | None, alias: str, version: int | None) -> None:
    present = 0 if row is None else row.version
    if version is not None and version != present:
        named = "names nothing" if row is None else f"names release {row.release}"
        message = f"{alias} was changed after you looked at it: it {named} (version {present}); decide anew"
        raise FleetError("alias.conflict", message, 409)


def _write_change(
    connection: Connection,
    model: str,
    alias: str,
    before: int | None,
    after: int | None,
    who: str,
    why: str,
    now: float,
) -> int:
    values = {"model": model, "alias": alias, "before": before, "after": after, "at": now}
    values |= {"who": who[:_WHO_CHARACTERS], "why": why[:_WHY_CHARACTERS]}
    return insert_one(connection, alias_changes, values)


def _not_found(model: str, alias: str) -> FleetError:
    return FleetError("alias.not_found", f"{model[:80]!r} has no alias {alias[:80]!r}", 404)
