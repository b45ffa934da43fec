"""One command takes back what a campaign has brought: a new campaign over the devices that committed its release.

The new campaign takes all of them at once. The other one is aborted first, if it has not ended, so that it brings its
release to nobody else. Each step is stored alone: a service that dies in between leaves a draft that says what it is.

Cost of finding out what the devices ran before: two short queries for each :data:`SLICE` of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.campaigns.before import Origins, Target, ran_before
from wheeltapper_fleet.campaigns.creation import create_campaign
from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.rules.execution import SUCCESS
from wheeltapper_fleet.campaigns.rules.spec import CampaignSpec, read_spec
from wheeltapper_fleet.campaigns.service import abort_campaign, start_campaign
from wheeltapper_fleet.campaigns.store import campaign_version, log_campaign
from wheeltapper_fleet.campaigns.tables import campaigns, executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["SLICE", "roll_back", "rollback_spec"]

SLICE: Final = 500
_TRIES: Final = 5
_DAY_SECONDS: Final = 86_400.0
_ENDED: Final = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK)
_WHY_CHARACTERS: Final = 300


def rollback_spec(engine: Engine, campaign: str, release: int | None = None) -> dict[str, Any]:
    """The specification of a campaign that takes back what ``campaign`` brought.

    Args:
        engine: the fleet's database.
        campaign: its id.
        release: of the same model, to go back to; None: the one that all of the devices ran before.

    Raises:
        FleetError: ``campaign.not_found``, ``campaign.unreadable``, ``campaign.nothing_committed``,
            ``campaign.rollback_unclear``: the devices did not all run one release before, as far as is known.
    """
    with reading(engine) as connection:
        row = connection.execute(select(campaigns.c.spec).where(campaigns.c.id == campaign)).one_or_none()
        if row is None:
            raise FleetError("campaign.not_found", f"there is no campaign {campaign[:64]!r}", 404)
        try:
            spec = read_spec(row.spec)
        except (FleetError, TypeError, ValueError) as error:
            why = error.message if isinstance(error, FleetError) else error
            raise FleetError(
                "campaign.unreadable", f"this version cannot read campaign {campaign}: {why}", 409
            ) from error
        committed = (executions.c.campaign == campaign, executions.c.state == SUCCESS)
        if connection.execute(select(executions.c.id).where(*committed).limit(1)).first() is None:
            raise FleetError("campaign.nothing_committed", "no device has committed it; abort it instead", 409)
        model, number = (spec.model, release) if release is not None else _before(connection, campaign, spec)
    return {
        "model": model,
        "release": number,
        "pipelines": list(spec.pipelines),
        "audience": {"committed_in": campaign},
        "waves": [{}],
        "success": {"count": 1},  # one that fails does not hold the others
        "priority": spec.priority,
        "execution_deadline_seconds": max(spec.execution_deadline_seconds, _DAY_SECONDS),
    }


def roll_back(engine: Engine, campaign: str, spec: Mapping[str, Any], *, who: str, why: str, now: float) -> str:
    """Abort ``campaign`` if it has not ended, and start a campaign of ``spec`` (:func:`rollback_spec`); returns its id.

    Raises:
        FleetError: as ``create_campaign``, ``abort_campaign`` and ``start_campaign``.
    """
    made = create_campaign(engine, spec, who=who, now=now)
    reason = f"rolled back by campaign {made}" + (f": {why[:_WHY_CHARACTERS]}" if why else "")
    with engine.begin() as connection:
        log_campaign(connection, made, who, "rollback", f"of campaign {campaign}", now)
        log_campaign(connection, campaign, who, "rollback", reason, now)
    for attempt in range(_TRIES):
        with reading(engine) as connection:
            state, version = campaign_version(connection, campaign)
        if state in _ENDED:
            break
        try:
            abort_campaign(engine, campaign, version=version, who=who, now=now, reason=reason)
        except FleetError as error:
            if error.code != "campaign.conflict" or attempt == _TRIES - 1:
                raise
    start_campaign(engine, made, version=1, who=who, now=now)
    return made


def _before(connection: Connection, campaign: str, spec: CampaignSpec) -> Target:
    """The release that all devices which committed ``campaign`` ran before."""
    found: Counter[Target | None] = Counter()
    origins: Origins = {}
    after = ""
    while True:
        mine = (executions.c.campaign == campaign, executions.c.device > after)
        query = select(executions.c.device, executions.c.state, executions.c.updated_at).where(*mine)
        rows = connection.execute(query.order_by(executions.c.device).limit(SLICE)).all()
        committed = {row.device: row.updated_at for row in rows if row.state == SUCCESS}
        found.update(ran_before(connection, campaign, spec, committed, origins).values())
        if len(rows) < SLICE:
            break
        after = rows[-1].device
    if len(found) == 1 and (target := next(iter(found))) is not None:
        return target
    told = ", ".join(
        f"{'unknown' if each is None else f'{each[0]} release {each[1]}'} on {n}" for each, n in found.most_common(5)
    )
    raise FleetError(
        "campaign.rollback_unclear", f"what the devices ran before is not one release ({told}): name the release", 409
    )
