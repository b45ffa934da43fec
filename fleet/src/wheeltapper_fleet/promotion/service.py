"""Asks for promotions, approves, rejects and carries them out, each within one transaction.

Invariants:
    * An alias that has a rule names another release only in a transaction in which each condition of it was judged met.
    * Who asked does not approve, and nobody approves twice: ``promotion.four_eyes``. A person is the name that the
      request was made under, which is that of a user or of an API token.
    * For one alias one promotion waits at a time; a newer request supersedes it.
    * One that waits is looked at again by the clock, since time (hours as candidate, a campaign) may meet what was
      missing; after :data:`EXPIRES_SECONDS` it expires.

Example:
    >>> number = request_promotion(engine, "bearing", "champion", 4, who="ann", why="better in hall 3", now=time.time())
    >>> approve_promotion(engine, number, who="bob", why="seen the card", now=time.time())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select, update
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.db.engine import insert_one, reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.promotion.facts import facts_at
from wheeltapper_fleet.registry import aliases
from wheeltapper_fleet.registry.promotion import judge_promotion, log_promotion
from wheeltapper_fleet.registry.published import published_release
from wheeltapper_fleet.registry.schemas import AliasView
from wheeltapper_fleet.registry.tables import promotion_log, promotions, release_aliases, releases

__all__ = [
    "EXPIRES_SECONDS",
    "approve_promotion",
    "approvers_of",
    "promotions_turn",
    "reject_promotion",
    "request_promotion",
    "set_alias",
]

EXPIRES_SECONDS: Final = 30 * 86_400.0
"""After so long a promotion that waits is out of date: the facts have moved on."""
_A_TURN: Final = 100
_APPROVED: Final = "approved"


def set_alias(
    engine: Engine, model: str, alias: str, release: int, *, who: str, why: str, now: float, version: int | None = None
) -> AliasView:
    """Let ``alias`` name ``release`` at once; an alias that has a rule only if all of it is met without an approval.

    Raises:
        FleetError: ``release.not_found``, ``alias.conflict``, ``alias.rule``.
    """
    return aliases.set_alias(
        engine, model, alias, release, who=who, why=why, now=now, version=version, facts=facts_at(now)
    )


def request_promotion(engine: Engine, model: str, alias: str, release: int, *, who: str, why: str, now: float) -> int:
    """Ask that ``alias`` should name ``release``; it does at once, if nothing is missing. Gives the promotion's number.

    Raises:
        FleetError: ``release.not_found``; ``promotion.done``: the alias names it already; ``promotion.conflict``.
    """
    try:
        with engine.begin() as connection:
            published_release(connection, model, release, releases.c.release)
            mine = (release_aliases.c.model == model, release_aliases.c.alias == alias)
            if connection.execute(select(release_aliases.c.release).where(*mine)).scalar() == release:
                raise FleetError("promotion.done", f"{alias} of {model} is release {release} already", 409)
            key = f"{model} {alias}"
            before = select(promotions).where(promotions.c.open_key == key).with_for_update()
            for row in connection.execute(before).all():
                _end(connection, row, "superseded", f"release {release} was asked for", who, now)
            values = {"model": model, "alias": alias, "release": release, "state": "waiting", "open_key": key}
            values |= {"requested_by": who[:128], "requested_at": now, "why": why[:500]}
            number = insert_one(connection, promotions, values)
            log_promotion(connection, model, alias, "requested", why, who, now, promotion=number, release=release)
            _promote_if_met(connection, _waiting(connection, number), now)
    except IntegrityError as error:  # another request came first, in the same moment
        raise FleetError("promotion.conflict", f"somebody asked for {alias} just now; look at it again", 409) from error
    return number


def approve_promotion(engine: Engine, promotion: int, *, who: str, why: str, now: float) -> None:
    """Approve a promotion that waits; if this was all that is missing, it is carried out at once.

    Raises:
        FleetError: ``promotion.not_found``, ``promotion.ended``, ``promotion.four_eyes``, ``alias.conflict``.
    """
    try:
        with engine.begin() as connection:
            row = _waiting(connection, promotion)
            if who[:128] == row.requested_by:
                raise FleetError("promotion.four_eyes", f"{who} asked for it: another person must approve it", 403)
            if who[:128] in approvers_of(connection, promotion):
                message = f"{who} has approved it already: another person must approve it"
                raise FleetError("promotion.four_eyes", message, 403)
            _log(connection, row, _APPROVED, why, who, now)
            _promote_if_met(connection, row, now)
    except IntegrityError as error:
        raise FleetError("alias.conflict", "the alias was set by somebody else just now; try again", 409) from error


def reject_promotion(engine: Engine, promotion: int, *, who: str, why: str, now: float) -> None:
    """Reject a promotion that waits; nothing changes but that.

    Raises:
        FleetError: ``promotion.not_found``, ``promotion.ended``; ``promotion.reason``: it is not said why.
    """
    if not why.strip():
        raise FleetError("promotion.reason", "say why it is rejected: who asked reads it", 422)
    with engine.begin() as connection:
        _end(connection, _waiting(connection, promotion), "rejected", why, who, now)


def approvers_of(connection: Connection, promotion: int) -> list[str]:
    """Who has approved a promotion, in order."""
    mine = (promotion_log.c.promotion == promotion, promotion_log.c.event == _APPROVED)
    return list(connection.execute(select(promotion_log.c.who).where(*mine).order_by(promotion_log.c.id)).scalars())


def promotions_turn(engine: Engine) -> Callable[[float], bool]:
    """A duty: looks again at the promotions that wait, a hundred a turn, each in a transaction of its own."""
    after = 0

    def turn(now: float) -> bool:
        nonlocal after
        waiting = (promotions.c.state == "waiting", promotions.c.id > after)
        query = select(promotions.c.id).where(*waiting).order_by(promotions.c.id).limit(_A_TURN)
        with reading(engine) as connection:
            numbers = list(connection.execute(query).scalars())
        failures: list[Exception] = []
        for number in numbers:
            try:
                with engine.begin() as connection:
                    row = _waiting(connection, number)
                    if now - row.requested_at > EXPIRES_SECONDS:
                        _end(connection, row, "expired", "its rule was not met in 30 days", "the fleet", now)
                    else:
                        _promote_if_met(connection, row, now)
            except IntegrityError:  # somebody changes the same alias: the next turn looks again
                continue
            except FleetError as error:
                if error.code not in ("promotion.ended", "alias.conflict", "alias.rule"):
                    failures.append(error)
        after = numbers[-1] if len(numbers) == _A_TURN else 0
        if failures:
            raise failures[0]
        return after != 0

    return turn


def _promote_if_met(connection: Connection, row: Row[Any], now: float) -> None:
    """Carry a promotion out, if every condition is met."""
    persons, facts = approvers_of(connection, row.id), facts_at(now)
    conditions = judge_promotion(connection, row.model, row.alias, row.release, facts, len(persons))
    if not all(each.met for each in conditions):
        return
    why = f"promotion {row.id}" + (f": {row.why}" if row.why else "")
    aliases.change_alias(
        connection,
        row.model,
        row.alias,
        row.release,
        who=row.requested_by,
        why=why,
        now=now,
        facts=facts,
        approvals=len(persons),
    )
    told = "; ".join(f"{each.name}: {each.found}" for each in conditions) or "the alias has no rule"
    _end(connection, row, "promoted", told, row.requested_by, now)


def _waiting(connection: Connection, promotion: int) -> Row[Any]:
    row = connection.execute(select(promotions).where(promotions.c.id == promotion).with_for_update()).one_or_none()
    if row is None:
        raise FleetError("promotion.not_found", f"there is no promotion {promotion}", 404)
    if row.state != "waiting":
        raise FleetError("promotion.ended", f"promotion {promotion} was {row.state}; ask for a new one", 409)
    return row


def _end(connection: Connection, row: Row[Any], state: str, detail: str, who: str, now: float) -> None:
    ended = {"state": state, "open_key": None, "ended_at": now}
    connection.execute(update(promotions).where(promotions.c.id == row.id).values(**ended))
    _log(connection, row, state, detail, who, now)


def _log(connection: Connection, row: Row[Any], event: str, detail: str, who: str, now: float) -> None:
    log_promotion(connection, row.model, row.alias, event, detail, who, now, promotion=row.id, release=row.release)
