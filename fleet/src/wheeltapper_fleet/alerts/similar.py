"""Earlier cases that looked alike, and what they turned out to be.

Alike are cases whose reasons agree: the features that made up the score, by what they measure (``x.bpfo`` and
``drive.bpfo`` alike), weighted by their share. Only cases of the same model with a verdict are compared, since the
others teach nothing.

Cost: four statements. The newest :data:`RESOLVED_READ` resolved cases are looked through, and of at most
:data:`COMPARED` of them the alert that raised them is read, each by an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select

from wheeltapper_fleet.alerts import case_store
from wheeltapper_fleet.alerts.schemas import SimilarCase, SimilarCases
from wheeltapper_fleet.alerts.tables import alerts, cases
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.scope import within_scope

__all__ = ["agreement", "signature", "similar_cases"]

RESOLVED_READ: Final = 1000
COMPARED: Final = 100
SHOWN: Final = 5
LEAST: Final = 0.3
"""Agreement from which on a case is said to be alike."""
_EXPLAINS: Final = 0.5
"""The weight of a reason without a share: it names the bearing's fault."""


def signature(reasons: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What made up a score: by what each feature measures, its share; the shares sum to 1. Empty for no reason."""
    found: dict[str, float] = {}
    for reason in reasons:
        share = reason.get("share")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1e6:
            continue
        name = str(reason.get("feature", ""))
        kind = name.partition(" (")[0] if share == 0 else name.rpartition(".")[2]
        found[kind] = found.get(kind, 0.0) + (float(share) or _EXPLAINS)
    total = sum(found.values())
    return {kind: share / total for kind, share in found.items()} if total > 0 else {}


def agreement(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """How far two signatures agree: the share that they have in common, 0 to 1."""
    return sum(min(share, other.get(kind, 0.0)) for kind, share in one.items())


def similar_cases(engine: Engine, number: int, scope: str = "", now: float = 0.0) -> SimilarCases:
    """Earlier cases that looked like the case ``number``, the most alike first.

    Args:
        engine: the fleet's database.
        number: of the case.
        scope, now: only those of devices that the query ``scope`` means at ``now`` (Unix seconds); empty: of all.

    Raises:
        FleetError: ``case.not_found``.
    """
    with reading(engine) as connection:
        case = case_store.find_case(connection, number)
        newest = select(cases).where(cases.c.state == "resolved").order_by(cases.c.id.desc()).limit(RESOLVED_READ)
        read = newest.subquery()
        known = select(read).where(read.c.model == case.model, read.c.verdict.is_not(None), read.c.id != number)
        rows = connection.execute(known.order_by(read.c.id.desc()).limit(COMPARED)).all()
        mine = within_scope(connection, [row.device for row in rows], scope, now)
        candidates = {row.id: row for row in rows if row.device in mine}
        reasons = _reasons(connection, [number, *candidates])
    own = signature(reasons.get(number, ()))
    alike = [
        (share, row)
        for each, row in candidates.items()
        if (share := agreement(own, signature(reasons.get(each, ())))) >= LEAST
    ]
    alike.sort(key=lambda each: (-each[0], -each[1].id))
    fields = [name for name in SimilarCase.model_fields if name != "agreement"]
    shown = [
        SimilarCase(**{name: row._mapping[name] for name in fields}, agreement=round(share, 3))
        for share, row in alike[:SHOWN]
    ]
    return SimilarCases(case=number, compared=len(candidates), similar=shown)


def _reasons(connection: Connection, numbers: list[int]) -> dict[int, list[Mapping[str, Any]]]:
    """The reasons of the alert that raised each case last."""
    last = (
        select(func.max(alerts.c.id))
        .where(alerts.c.case_id.in_(numbers), alerts.c.raised.is_(True))
        .group_by(alerts.c.case_id)
    )
    rows = connection.execute(select(alerts.c.case_id, alerts.c.reasons).where(alerts.c.id.in_(last)))
    return {row.case_id: [each for each in row.reasons or () if isinstance(each, dict)] for row in rows}
