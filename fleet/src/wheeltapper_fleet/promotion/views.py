"""Reads promotions and their log for the API, a page at a time."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.promotion.facts import facts_at
from wheeltapper_fleet.promotion.schemas import PromotionDetail, PromotionLogEntry, PromotionView
from wheeltapper_fleet.promotion.service import approvers_of
from wheeltapper_fleet.registry.promotion import judge_promotion
from wheeltapper_fleet.registry.tables import promotion_log, promotions

__all__ = ["get_promotion", "list_promotion_log", "list_promotions"]

_LOG: Final = 100


def list_promotions(
    engine: Engine,
    model: str | None = None,
    state: str | None = None,
    limit: int = DEFAULT_LIMIT,
    after: str | None = None,
) -> Page[PromotionView]:
    """A page of the promotions, newest first; of one model, or in one state.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(promotions)
    if model is not None:
        query = query.where(promotions.c.model == model)
    if state is not None:
        query = query.where(promotions.c.state == state)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, (promotions.c.id,), limit=limit, after=after, descending=True)
    return Page([PromotionView(**_fields(row)) for row in rows], following)


def get_promotion(engine: Engine, promotion: int, now: float) -> PromotionDetail:
    """One promotion; while it waits with the conditions of its rule as they are met at ``now`` (Unix seconds).

    Raises:
        FleetError: ``promotion.not_found``.
    """
    mine = promotion_log.c.promotion == promotion
    with reading(engine) as connection:
        row = connection.execute(select(promotions).where(promotions.c.id == promotion)).one_or_none()
        if row is None:
            raise FleetError("promotion.not_found", f"there is no promotion {promotion}", 404)
        persons = approvers_of(connection, promotion)
        conditions = []
        if row.state == "waiting":
            conditions = judge_promotion(connection, row.model, row.alias, row.release, facts_at(now), len(persons))
        log = connection.execute(select(promotion_log).where(mine).order_by(promotion_log.c.id).limit(_LOG)).all()
    return PromotionDetail(
        **_fields(row),
        conditions=conditions,
        approved_by=persons,
        log=[PromotionLogEntry(**entry._mapping) for entry in log],
    )


def list_promotion_log(
    engine: Engine, model: str, limit: int = DEFAULT_LIMIT, after: str | None = None
) -> Page[PromotionLogEntry]:
    """What happened to the rules and promotions of a model, newest first.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    query = select(promotion_log).where(promotion_log.c.model == model)
    with reading(engine) as connection:
        rows, following = page_of(connection, query, (promotion_log.c.id,), limit=limit, after=after, descending=True)
    return Page([PromotionLogEntry(**row._mapping) for row in rows], following)


def _fields(row: Any) -> dict[str, Any]:
    return {name: row._mapping[name] for name in PromotionView.model_fields}
