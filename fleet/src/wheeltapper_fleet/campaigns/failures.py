"""What keeps a campaign from committing, for the page: failures by reason, and how its gates came to what they say.

Cost: failures of one campaign are counted up to :data:`COUNTED` in an index; a gate's curve has some hundred points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, func, select

from wheeltapper_fleet.campaigns.gate_tables import gate_points
from wheeltapper_fleet.campaigns.rules.gates import GatePoint, kind_of
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.campaigns.tables import campaigns, executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["COUNTED", "Failures", "GateCurve", "count_failures", "gate_curves"]

COUNTED: Final = 2_000
_SHOWN: Final = 5
_REASONS: Final = 20
_DETAIL_CHARACTERS: Final = 300
_POINTS: Final = 2_000
_FAILED: Final = ("FAILED", "REJECTED", "ROLLED_BACK")


@dataclass(frozen=True)
class Failures:
    """Executions of a campaign that ended in ``state`` for the reason ``code``: how many, some of their devices, and
    what one of them said."""

    state: str
    code: str
    count: int
    devices: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class GateCurve:
    """How a gate came to what it says: its kind, the rate of false stops that it keeps, and its points in order."""

    kind: str
    alpha: float
    points: tuple[GatePoint, ...]


def count_failures(engine: Engine, campaign: str) -> list[Failures]:
    """Failures of a campaign by state and code, the most frequent first; of the first :data:`COUNTED` of each state."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    detail = func.substr(executions.c.detail, 1, _DETAIL_CHARACTERS)
    with reading(engine) as connection:
        for state in _FAILED:
            mine = (executions.c.campaign == campaign, executions.c.state == state)
            some = select(executions.c.code, executions.c.device, detail).where(*mine)
            some = some.order_by(executions.c.wave, executions.c.device).limit(COUNTED)
            for code, device, said in connection.execute(some):
                found.setdefault((state, code), []).append((device, said))
    failures = [
        Failures(state, code, len(rows), tuple(device for device, _ in rows[:_SHOWN]), rows[0][1])
        for (state, code), rows in found.items()
    ]
    return sorted(failures, key=lambda each: (-each.count, each.state, each.code))[:_REASONS]


def gate_curves(engine: Engine, campaign: str) -> list[GateCurve]:
    """The curves of a campaign's gates, in the order of its specification; none of one that cannot be read."""
    query = select(gate_points).where(gate_points.c.campaign == campaign)
    query = query.order_by(gate_points.c.gate, gate_points.c.devices).limit(_POINTS)
    with reading(engine) as connection:
        spec = connection.execute(select(campaigns.c.spec).where(campaigns.c.id == campaign)).scalar()
        rows = connection.execute(query).all()
    try:
        gates = read_spec(spec).gates if isinstance(spec, dict) else ()
    except FleetError:
        return []
    return [
        GateCurve(
            kind_of(gate),
            gate.alpha,
            tuple(
                GatePoint(row.devices, row.evidence, row.mean, row.control_mean) for row in rows if row.gate == number
            ),
        )
        for number, gate in enumerate(gates)
    ]
