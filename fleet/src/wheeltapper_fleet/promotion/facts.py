"""The facts that the rule of an alias asks for, read in the transaction that changes the alias.

Cost: some look-ups by key for each condition of the rule; the campaigns of one release and the changes of an alias that
concern it are read, and for an estimated quality at most 2,000 reports. Nothing is proportional to the fleet.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, or_, select, text

from wheeltapper_fleet.alerts.tables import cases
from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.tables import campaign_releases, campaigns
from wheeltapper_fleet.campaigns.tallies import read_tallies
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.promotion.quality import quality_on
from wheeltapper_fleet.registry.promotion import FactsOf
from wheeltapper_fleet.registry.promotion_rules import Facts, PromotionRule, Quality, QualityNeed
from wheeltapper_fleet.registry.tables import alias_changes, releases
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["facts_at", "gates_of", "named_seconds"]

_CAMPAIGNS: Final = 200
_CASES: Final = 10
_OPEN: Final = text("state <> 'resolved'")


def facts_at(now: float) -> FactsOf:
    """What :func:`~wheeltapper_fleet.registry.promotion.check_promotion` asks, at ``now`` (Unix seconds)."""

    def facts(connection: Connection, model: str, alias: str, release: int, rule: PromotionRule) -> Facts:
        named = None if rule.was_alias is None else named_seconds(connection, model, rule.was_alias, release, now)
        return Facts(
            gates=gates_of(connection, model, release) if rule.gates else {},
            named_seconds=named,
            campaign_devices=_campaign_devices(connection, model, release) if rule.campaign_devices else None,
            open_critical=_open_critical(connection, model, release) if rule.no_open_critical else (),
            quality=_quality(connection, model, release, rule.quality, now) if rule.quality is not None else None,
            was_named=rule.may_return and named_seconds(connection, model, alias, release, now) is not None,
        )

    return facts


def gates_of(connection: Connection, model: str, release: int) -> dict[str, bool]:
    """The gates of a release's signed manifest, by name, with whether they passed."""
    mine = (releases.c.model == model, releases.c.release == release)
    manifest = connection.execute(select(releases.c.manifest).where(*mine)).scalar_one_or_none()
    gates = manifest.get("gates") if isinstance(manifest, dict) else None
    found: dict[str, bool] = {}
    for gate in gates if isinstance(gates, list) else ():
        if isinstance(gate, dict):
            name = str(gate.get("name"))
            found[name] = found.get(name, True) and gate.get("passed") is True
    return found


def named_seconds(connection: Connection, model: str, alias: str, release: int, now: float) -> float | None:
    """For how long in all an alias named a release, until ``now``; None: it never did."""
    mine = (alias_changes.c.model == model, alias_changes.c.alias == alias)
    about = or_(alias_changes.c.before == release, alias_changes.c.after == release)
    query = select(alias_changes.c.after, alias_changes.c.at).where(*mine, about).order_by(alias_changes.c.id)
    total, since, ever = 0.0, None, False
    for after, at in connection.execute(query):
        if after == release:
            since, ever = at, True
        elif since is not None:
            total, since = total + max(0.0, at - since), None
    if since is not None:
        total += max(0.0, now - since)
    return total if ever else None


def _campaign_devices(connection: Connection, model: str, release: int) -> int | None:
    """The most devices that a completed campaign of a release committed it on; the newest 200 campaigns count."""
    took = (campaign_releases.c.model == model, campaign_releases.c.release == release)
    query = select(campaigns.c.id).join(campaign_releases, campaign_releases.c.campaign == campaigns.c.id)
    query = query.where(*took, campaigns.c.state == CampaignState.COMPLETED.value)
    names = list(connection.execute(query.order_by(campaigns.c.created_at.desc()).limit(_CAMPAIGNS)).scalars())
    if not names:
        return None
    committed = ExecutionState.COMMITTED.value
    found = read_tallies(connection, names).values()
    return max(sum(int(count.n) for (_, state), count in each.cells.items() if state == committed) for each in found)


def _quality(connection: Connection, model: str, release: int, need: QualityNeed, now: float) -> Quality:
    """The figure of a rule, estimated from what devices reported; at most 2,000 reports are read."""
    try:
        found = quality_on(connection, model, release, now - need.hours * 3600.0, now)
    except FleetError as error:
        if error.code not in ("quality.not_measured", "release.unreadable"):
            raise
        return Quality(why=error.message)
    figure = next((each for each in found.figures if each.name == need.figure), None)
    if figure is None:
        return Quality(why=f"{need.figure} is no figure of {found.kind}")
    return Quality(figure.value, figure.low, figure.high, figure.why)


def _open_critical(connection: Connection, model: str, release: int) -> tuple[int, ...]:
    mine = (cases.c.model == model, cases.c.release == release, cases.c.worst == "critical")
    query = select(cases.c.id).where(_OPEN, *mine).order_by(cases.c.id).limit(_CASES)
    return tuple(connection.execute(query).scalars())
