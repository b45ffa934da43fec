"""What devices ran before a campaign brought its release, as far as the fleet knows. In the caller's transaction.

Known is what campaigns and default releases brought to a device and it committed.

Cost: three short queries for as many devices as one asks for at once; they read what these have committed in their
lives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, select

from wheeltapper_fleet.campaigns.rules.execution import SUCCESS
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES, CampaignSpec
from wheeltapper_fleet.campaigns.tables import campaigns, default_releases, executions

__all__ = ["Origins", "Target", "ran_before"]

Target = tuple[str, int]
"""A model and its release."""
Origins = dict[str, tuple[Target, Sequence[str]] | None]
"""By campaign or default release: what it brings to which pipelines; None where this version cannot tell."""


def ran_before(
    connection: Connection,
    campaign: str,
    spec: CampaignSpec,
    committed: Mapping[str, float],
    origins: Origins,
) -> dict[str, Target | None]:
    """By device, what it ran on the pipelines of a campaign before it committed that.

    Args:
        connection: to the fleet's database.
        campaign: its id.
        spec: its specification.
        committed: when each device committed it (Unix seconds).
        origins: what was learned before; it is added to.

    Returns:
        None for a device of which nothing is known, or whose pipelines ran different releases.
    """
    others = (
        executions.c.device.in_(list(committed)),
        executions.c.state == SUCCESS,
        executions.c.campaign.is_distinct_from(campaign),
    )
    rows = connection.execute(select(executions).where(*others).order_by(executions.c.updated_at)).all()
    _learn(connection, {row.campaign or row.default_release for row in rows} - set(origins), origins)
    found: dict[str, dict[str, Target]] = {device: {} for device in committed}
    for row in rows:
        origin = origins.get(row.campaign or row.default_release)
        if origin is None or row.updated_at > committed[row.device]:
            continue
        target, pipelines = origin
        if target != (spec.model, spec.release):
            found[row.device] |= dict.fromkeys(_shared(row.pipelines or pipelines, spec.pipelines), target)
    return {
        device: next(iter(set(by.values()))) if len(set(by.values())) == 1 else None for device, by in found.items()
    }


def _shared(covered: Sequence[str], asked: Sequence[str]) -> set[str]:
    """The pipelines that both name; ``*`` names all of them."""
    if ALL_PIPELINES in covered:
        return set(asked)
    return set(covered) if ALL_PIPELINES in asked else set(covered) & set(asked)


def _learn(connection: Connection, unknown: set[str], origins: Origins) -> None:
    """Read which release the campaigns and default releases in ``unknown`` bring; None: this version cannot tell."""
    origins |= dict.fromkeys(unknown)
    for row in connection.execute(select(campaigns.c.id, campaigns.c.spec).where(campaigns.c.id.in_(unknown))):
        try:
            asks = msgspec.convert(row.spec, _Asks)
        except msgspec.ValidationError:
            continue
        origins[row.id] = (asks.model, asks.release), asks.pipelines
    for row in connection.execute(select(default_releases).where(default_releases.c.id.in_(unknown))):
        origins[row.id] = (row.model, row.release), (row.pipeline,)


class _Asks(msgspec.Struct, frozen=True):
    """What a campaign's specification says that matters here."""

    model: str
    release: int
    pipelines: tuple[str, ...] = ("main",)
