"""Does what a policy's state wants. Doing it twice has the effect of once, so a process may be killed at any moment.

    * Recordings are commands whose ids follow from policy, cycle and device.
    * A version of a dataset that would be the same as the newest one is not made; the newest one is taken.
    * A run is looked up by its cause before one is queued; a campaign's id follows from policy and cycle.

Each function returns what the machine is to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.campaigns.creation import create_campaign
from wheeltapper_fleet.campaigns.rules.campaign import CampaignState
from wheeltapper_fleet.campaigns.service import start_campaign
from wheeltapper_fleet.campaigns.store import BEING_CREATED
from wheeltapper_fleet.campaigns.tables import campaigns
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.commands import ask_captures
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.service import add_candidate
from wheeltapper_fleet.learning.candidates.tables import candidates
from wheeltapper_fleet.learning.captures import captures_of
from wheeltapper_fleet.learning.datasets.from_captures import coming_captures
from wheeltapper_fleet.learning.datasets.importing import import_version
from wheeltapper_fleet.learning.datasets.manifest import Ref
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.policies.choosing import derived_id
from wheeltapper_fleet.learning.policies.events import (
    CampaignEnded,
    CampaignStarted,
    DatasetMade,
    Decided,
    Failed,
    Input,
    Promoted,
    RunEnded,
    RunQueued,
)
from wheeltapper_fleet.learning.policies.rules import PolicyState
from wheeltapper_fleet.learning.policies.service import cause_of
from wheeltapper_fleet.learning.policies.spec import PolicySpec, campaign_of, recipe_text
from wheeltapper_fleet.learning.runs.rules import State as RunState
from wheeltapper_fleet.learning.runs.service import cancel_run, queue_run
from wheeltapper_fleet.learning.runs.views import get_run, list_runs
from wheeltapper_fleet.promotion.service import request_promotion
from wheeltapper_fleet.registry.tables import promotions, release_aliases, release_datasets
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = ["Acting", "ask", "asked_commands"]

_FAULT: Final = "true_fault"
_ENDED: Final = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK)
Check = Callable[[str, float], None]
"""Refuses a campaign of a model that devices could not verify to its end, which takes so many seconds."""


def asked_commands(spec: PolicySpec, state: PolicyState) -> dict[str, str]:
    """The device of each command of the cycle, by the command's id."""
    return {derived_id("cmd", "policy", spec.name, state.cycle, device): device for device in state.devices}


def ask(connection: Connection, spec: PolicySpec, state: PolicyState, now: float) -> None:
    """Ask the cycle's devices for recordings, in the caller's transaction."""
    plan = spec.captures
    ask_captures(
        connection,
        asked_commands(spec, state),
        pipeline=spec.pipeline,
        snapshots=plan.snapshots,
        now=now,
        expires_seconds=plan.within_seconds,
        who=_by(spec),
    )


@dataclass(frozen=True)
class Acting:
    """What policies act with.

    Args:
        engine: the fleet's database.
        datasets: gives the store of datasets.
        captures_dir: where the recordings are, each as ``<sha256>.npz``.
        check_campaign: refuses a campaign that could not be verified.
    """

    engine: Engine
    datasets: Callable[[], DatasetStore]
    captures_dir: Path
    check_campaign: Check = field(default=lambda model, seconds: None)

    def assemble(self, spec: PolicySpec, state: PolicyState) -> Input:
        """Make a version of the dataset: the newest one, and the recordings that came.

        Raises:
            FleetError: ``policy.captures``: the files are not where this process can read them; ``dataset.*``.
        """
        with reading(self.engine) as connection:
            came = captures_of(connection, sorted(asked_commands(spec, state)))
        faulty = {each.command for each in came if any(label.verdict == _FAULT for label in each.labels)}
        taken = [each for each in came if spec.dataset.with_faults or each.command not in faulty]
        if not taken:
            return Failed(cycle=state.cycle, stage=state.stage, detail="every recording is of a true fault")
        store = self.datasets()
        versions = store.versions(spec.dataset.name)
        base = Ref(spec.dataset.name, versions[-1]) if versions else None
        incoming = coming_captures(store, taken, self._fetch)
        made = import_version(store, spec.dataset.name, incoming, base=base)
        dataset = str(made.manifest.ref)
        return DatasetMade(cycle=state.cycle, dataset=dataset, new=dataset != self._trained_on(spec, state.watched))

    def _trained_on(self, spec: PolicySpec, release: int) -> str:
        """The version that a release was trained on; empty where its lineage names none."""
        of = (release_datasets.c.model == spec.model, release_datasets.c.release == release)
        query = select(release_datasets.c.dataset, release_datasets.c.version).where(*of)
        with reading(self.engine) as connection:
            row = connection.execute(query).first()
        return "" if row is None else f"{row.dataset}@{row.version}"

    def _fetch(self, command: str) -> Recording:
        with reading(self.engine) as connection:
            sha256 = connection.execute(select(captures.c.sha256).where(captures.c.command == command)).scalar_one()
        file = self.captures_dir / f"{sha256}.npz"
        if not file.is_file():
            message = f"{file} is not here: policies need the folder of recordings where the leading process runs"
            raise FleetError("policy.captures", message, 409)
        return read_recording(file)

    def queue(self, spec: PolicySpec, state: PolicyState, now: float) -> Input:
        """Queue the cycle's run, or find it.

        Raises:
            FleetError: ``recipe.*``, ``run.*``, ``dataset.*``.
        """
        cause = cause_of(spec.name, state.cycle)
        there = list_runs(self.engine, cause=cause, limit=1).items
        if there:
            return RunQueued(cycle=state.cycle, run=there[0].id)
        text = recipe_text(spec, state.dataset, spec.run.seed)
        run = queue_run(self.engine, text, who=_by(spec), cause=cause, now=now, datasets=self.datasets())
        return RunQueued(cycle=state.cycle, run=run)

    def run(self, spec: PolicySpec, state: PolicyState, now: float, *, cancel: bool) -> Input | None:
        """How the run ended; None while it goes on. With ``cancel`` it is cancelled."""
        found = get_run(self.engine, state.run)
        if cancel and found.state in (RunState.QUEUED, RunState.RUNNING):
            found = cancel_run(self.engine, state.run, who=_by(spec), now=now)
        if found.state == RunState.SUCCEEDED:
            if cancel:
                return RunEnded(run=found.id)
            with self.engine.begin() as connection:
                made = add_candidate(connection, found, policy=spec.name, cycle=state.cycle, now=now)
            passed = f"{len(found.gates)} gates passed"
            return RunEnded(run=found.id, candidate=made, detail=passed)
        if found.state == RunState.FAILED:
            return RunEnded(run=found.id, detail=f"{found.error_detail} [{found.error_code}]")
        if found.state == RunState.CANCELLED:
            return RunEnded(run=found.id, detail=f"cancelled by {found.ended_by}")
        return None

    def decision(self, state: PolicyState) -> Input | None:
        """What a person decided of the candidate; None while nobody has."""
        with reading(self.engine) as connection:
            row = connection.execute(select(candidates).where(candidates.c.id == state.candidate)).one_or_none()
        if row is None or row.state == "WAITING":
            return None
        return Decided(candidate=row.id, who=row.decided_by or "nobody", release=row.release or 0, why=row.why)

    def roll_out(self, spec: PolicySpec, state: PolicyState, now: float) -> Input | None:
        """Create and start the cycle's campaign, or find it; None while what a process that died left of it is there.

        Raises:
            FleetError: ``campaign.*``, ``trust.expired``.
        """
        wanted = campaign_of(spec, state.release)
        campaign = derived_id("c", "policy", spec.name, state.cycle)[:14]
        row = self._campaign(campaign)
        if row is None:
            self.check_campaign(wanted.model, wanted.longest_seconds)
            create_campaign(self.engine, wanted, who=_by(spec), now=now, campaign_id=campaign)
            row = self._campaign(campaign)
        if row is None or row.version == BEING_CREATED:
            return None
        if row.state == CampaignState.DRAFT:
            start_campaign(self.engine, campaign, version=row.version, who=_by(spec), now=now)
        return CampaignStarted(cycle=state.cycle, campaign=campaign)

    def campaign(self, state: PolicyState) -> Input | None:
        """How the campaign ended; None while it has not."""
        row = self._campaign(state.campaign)
        if row is None:
            return CampaignEnded(campaign=state.campaign, completed=False, detail="the campaign is not there any more")
        if row.state not in _ENDED:
            return None
        return CampaignEnded(
            campaign=state.campaign, completed=row.state == CampaignState.COMPLETED, detail=row.reason or row.state
        )

    def promote(self, spec: PolicySpec, state: PolicyState, now: float) -> Input | None:
        """Have the policy's alias name the release; None while a rule of the alias is not met yet.

        Raises:
            FleetError: ``release.not_found``, ``promotion.conflict``.
        """
        if self._alias(spec) != state.release:
            asked = self._promotion(spec, state)
            if asked is not None and asked.state == "waiting":
                return None
            if asked is not None:
                detail = f"the promotion {asked.id} to {spec.alias} was {asked.state}"
                return Failed(cycle=state.cycle, stage=state.stage, detail=detail)
            why = f"campaign {state.campaign} completed"
            request_promotion(self.engine, spec.model, spec.alias, state.release, who=_by(spec), why=why, now=now)
            if self._alias(spec) != state.release:
                return None
        return Promoted(release=state.release)

    def _alias(self, spec: PolicySpec) -> int | None:
        """The release that the policy's alias names."""
        named = (release_aliases.c.model == spec.model, release_aliases.c.alias == spec.alias)
        with reading(self.engine) as connection:
            return connection.execute(select(release_aliases.c.release).where(*named)).scalar_one_or_none()

    def _promotion(self, spec: PolicySpec, state: PolicyState) -> Any:
        """The newest promotion of the release that was asked for since the stage began."""
        mine = (promotions.c.model == spec.model, promotions.c.alias == spec.alias)
        since = (promotions.c.release == state.release, promotions.c.requested_at >= state.since)
        query = select(promotions.c.id, promotions.c.state).where(*mine, *since).order_by(promotions.c.id.desc())
        with reading(self.engine) as connection:
            return connection.execute(query.limit(1)).first()

    def _campaign(self, campaign: str) -> Any:
        query = select(campaigns.c.state, campaigns.c.version, campaigns.c.reason).where(campaigns.c.id == campaign)
        with reading(self.engine) as connection:
            return connection.execute(query).one_or_none()


def _by(spec: PolicySpec) -> str:
    return f"policy {spec.name}"
