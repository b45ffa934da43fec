"""The rules of aliases: kept by model and alias, each change of one in the log; and the check that holds them.

Invariants:
    * :func:`check_promotion` is asked in the transaction that changes an alias: what it judged still holds then.
    * Without facts an alias that has a rule is refused: whoever forgets to gather them changes nothing.
    * The log is only ever added to.

Example:
    >>> set_rule(engine, "bearing", "champion", PromotionRule(approvals=2), who="ann", why="audit", now=time.time())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, Row, insert, select
from sqlalchemy.exc import IntegrityError

from wheeltapper_fleet.db.engine import insert_one, reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.registry.promotion_rules import Condition, Facts, PromotionRule, judge
from wheeltapper_fleet.registry.schemas import RuleView
from wheeltapper_fleet.registry.tables import promotion_log, promotion_rules

__all__ = [
    "FactsOf",
    "check_promotion",
    "get_rule",
    "judge_promotion",
    "list_rules",
    "log_promotion",
    "read_rule",
    "remove_rule",
    "set_rule",
]

FactsOf: TypeAlias = Callable[[Connection, str, str, int, PromotionRule], Facts]
"""Gives the facts of a release: of a model, for an alias, as far as a rule asks for them."""
_DETAIL_CHARACTERS: Final = 2000


def check_promotion(
    connection: Connection, model: str, alias: str, release: int, facts: FactsOf | None, approvals: int = 0
) -> None:
    """Refuse what the rule of an alias does not allow; where there is none, everything is allowed.

    Raises:
        FleetError: ``alias.rule``: it names each condition that is not met.
    """
    unmet = [each for each in judge_promotion(connection, model, alias, release, facts, approvals) if not each.met]
    if unmet:
        named = "; ".join(f"{each.name}: needs {each.needed}, found {each.found}" for each in unmet)
        message = f"{alias} of {model[:80]} has a rule that release {release} does not meet: {named}"
        raise FleetError("alias.rule", f"{message}. Ask for it by `release promote`, or meet the rule first", 409)


def judge_promotion(
    connection: Connection, model: str, alias: str, release: int, facts: FactsOf | None, approvals: int
) -> list[Condition]:
    """Every condition of the rule of an alias, judged for a release; empty where there is no rule."""
    rule = read_rule(connection, model, alias)
    if rule is None:
        return []
    if facts is None:
        return [Condition(name="facts", met=False, needed="what the rule asks for", found="nobody gathered it")]
    return judge(rule, facts(connection, model, alias, release, rule), approvals)


def read_rule(connection: Connection, model: str, alias: str) -> PromotionRule | None:
    """The rule of an alias, in the caller's transaction; None: it has none.

    Raises:
        FleetError: ``promotion_rule.unreadable``: this version cannot read it, so it allows nothing.
    """
    row = connection.execute(select(promotion_rules).where(*_is(model, alias))).one_or_none()
    return None if row is None else _rule(row)


def set_rule(
    engine: Engine,
    model: str,
    alias: str,
    rule: PromotionRule,
    *,
    who: str,
    why: str,
    now: float,
    version: int | None = None,
) -> RuleView:
    """Let an alias have a rule, in place of the one that it has.

    Args:
        engine: the fleet's database.
        model, alias: whose rule; the alias need not name anything yet.
        rule: what it asks of a release.
        who, why: for the log.
        now: Unix seconds.
        version: of the rule, on which this was decided (0: there was none); None: whatever it is.

    Raises:
        FleetError: ``promotion_rule.conflict``.
    """
    try:
        with engine.begin() as connection:
            row = _locked(connection, model, alias, version)
            written = rule.model_dump(exclude_defaults=True)
            number = log_promotion(connection, model, alias, "rule set", rule.model_dump_json(), who, now)
            values = {"rule": written, "version": number, "set_at": now, "set_by": who[:128], "why": why[:500]}
            if row is None:
                connection.execute(insert(promotion_rules).values(model=model, alias=alias, **values))
            else:
                connection.execute(promotion_rules.update().where(*_is(model, alias)).values(**values))
    except IntegrityError as error:  # another request set it first, in the same moment
        raise _conflict(alias) from error
    return get_rule(engine, model, alias)


def remove_rule(
    engine: Engine, model: str, alias: str, *, who: str, why: str, now: float, version: int | None = None
) -> None:
    """Let an alias ask nothing of a release.

    Raises:
        FleetError: ``promotion_rule.not_found``, ``promotion_rule.conflict``.
    """
    with engine.begin() as connection:
        if _locked(connection, model, alias, version) is None:
            raise _no_rule(model, alias)
        log_promotion(connection, model, alias, "rule removed", why, who, now)
        connection.execute(promotion_rules.delete().where(*_is(model, alias)))


def get_rule(engine: Engine, model: str, alias: str) -> RuleView:
    """The rule of an alias.

    Raises:
        FleetError: ``promotion_rule.not_found``, ``promotion_rule.unreadable``.
    """
    with reading(engine) as connection:
        row = connection.execute(select(promotion_rules).where(*_is(model, alias))).one_or_none()
    if row is None:
        raise _no_rule(model, alias)
    return _view(row)


def list_rules(
    engine: Engine, model: str | None = None, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[RuleView]:
    """A page of the rules, by model and alias; of one model, or of all.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(promotion_rules)
    if model is not None:
        query = query.where(promotion_rules.c.model == model)
    key = (promotion_rules.c.model, promotion_rules.c.alias)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, key, limit=limit, after=after)
    return Page([_view(row) for row in rows], following)


def log_promotion(
    connection: Connection,
    model: str,
    alias: str,
    event: str,
    detail: str,
    who: str,
    now: float,
    *,
    promotion: int | None = None,
    release: int | None = None,
) -> int:
    """Add a line to the log, in the caller's transaction; gives its number."""
    values: dict[str, Any] = {"model": model, "alias": alias, "promotion": promotion, "release": release, "at": now}
    values |= {"who": who[:128], "event": event, "detail": detail[:_DETAIL_CHARACTERS]}
    return insert_one(connection, promotion_log, values)


def _rule(row: Row[Any]) -> PromotionRule:
    try:
        return PromotionRule.model_validate(row.rule)
    except ValidationError as error:
        message = f"this version cannot read the rule of {row.alias} of {row.model}: set it anew, or remove it"
        raise FleetError("promotion_rule.unreadable", message, 409) from error


def _view(row: Row[Any]) -> RuleView:
    return RuleView(**{**row._mapping, "rule": _rule(row)})


def _is(model: str, alias: str) -> tuple[Any, Any]:
    return promotion_rules.c.model == model, promotion_rules.c.alias == alias


def _locked(connection: Connection, model: str, alias: str, version: int | None) -> Row[Any] | None:
    row = connection.execute(select(promotion_rules).where(*_is(model, alias)).with_for_update()).one_or_none()
    if version is not None and version != (0 if row is None else row.version):
        raise _conflict(alias)
    return row


def _conflict(alias: str) -> FleetError:
    return FleetError(
        "promotion_rule.conflict", f"the rule of {alias} was changed after you looked at it: decide anew", 409
    )


def _no_rule(model: str, alias: str) -> FleetError:
    return FleetError(
        "promotion_rule.not_found", f"{alias[:80]!r} of {model[:80]!r} has no rule: it may name any release", 404
    )
