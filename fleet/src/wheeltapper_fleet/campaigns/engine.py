"""The campaign engine: a thread that moves campaigns on, composes and signs assignments and publishes them.

Invariants:
    * No transaction grows with the fleet: a campaign's step moves at most
      :data:`~wheeltapper_fleet.campaigns.effects.SLICE` executions, and the next one goes on where it stopped.
    * A campaign that cannot be read or stepped is named in the log once and stops no other.
    * What a step changes for devices is marked in the same transaction (:mod:`wheeltapper_fleet.campaigns.due`).
      Assignments are composed and signed in slices outside of every write transaction; a short one then stores them.
    * What was stored but not published is published at the next start, or when the device reports an older counter
      (:mod:`wheeltapper_fleet.campaigns.dispatch`).
    * A tick looks at the campaigns to which something has happened or whose time has come, never at all of them; one
      without anything to do only reads.

What this module does not do: decide (:mod:`wheeltapper_fleet.campaigns.rules`), sign (the director is handed in), send.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sqlalchemy import Connection, Engine

from wheeltapper_fleet.campaigns.assignments import Composer, Sign
from wheeltapper_fleet.campaigns.default_releases import (
    any_to_look_at,
    mark_next_devices,
    set_default_releases,
)
from wheeltapper_fleet.campaigns.dispatch import (
    assignment_publication,
    mark_published,
    stored_assignments,
    unpublished_assignments,
)
from wheeltapper_fleet.campaigns.due import any_due, any_tellings, mark_next_told, next_due, settle
from wheeltapper_fleet.campaigns.effects import SLICE, carry_out, wind_down
from wheeltapper_fleet.campaigns.joining import join, next_changes, who_joins
from wheeltapper_fleet.campaigns.moves import any_overdue, end_overdue
from wheeltapper_fleet.campaigns.observations import gated_tick
from wheeltapper_fleet.campaigns.rules.campaign import CampaignState, next_look, step
from wheeltapper_fleet.campaigns.store import (
    campaign_version,
    campaigns_to_step,
    load_campaign,
    look_at,
    save_campaign,
)
from wheeltapper_fleet.campaigns.tallies import fold_changes, tallies_of
from wheeltapper_fleet.campaigns.windows import closed_until
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.devices.commands import CommandRepeater
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.publication import Publication

__all__ = ["CampaignEngine"]

_LOG: Final = logging.getLogger(__name__)
_WHO: Final = "engine"
_MAX_STEPS: Final = 250
"""Steps of one campaign in one transaction, more than any campaign has waves."""
_LOOK_AGAIN_SECONDS: Final = 5.0
"""After this a campaign is looked at again whose time has come but which something holds."""
_UNREADABLE_SECONDS: Final = 60.0
"""After this it is tried again to read a campaign that could not be read."""
_REST: Final = 1.0
"""With much to do, the engine rests as long as it has worked, so that the ingest gets its share of the
interpreter."""
_COMPOSED_AT_ONCE: Final = 64
"""Devices whose assignments one transaction stores: some 5 ms of the write lock, so that the ingest hardly waits."""


class CampaignEngine:
    """Moves every campaign on: :meth:`tick` does it once, :meth:`start` again and again on a thread.

    Args:
        database: the fleet's database.
        sign: signs an assignment (the director).
        repeat_seconds: pause between two repetitions of an unanswered command.
    """

    def __init__(self, database: Engine, sign: Sign, *, repeat_seconds: float = 5.0) -> None:
        self._database = database
        self._sign = sign
        self._commands = CommandRepeater(repeat_seconds)
        self._failing_campaigns: dict[str, str] = {}
        self._failing_devices: dict[str, set[str]] = {}
        self._handed: list[tuple[str, int]] = []
        """Device and counter of what the last tick gave out to be published."""
        self._repeat_after: str | None = None
        """Devices after this one are to be published again; None: no more."""
        self._busy = False
        """Whether the last tick left work, so that the next one follows at once."""
        self._republishing = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tick(self, now: float) -> list[Publication]:
        """Move campaigns on at ``now`` (Unix seconds), each by a slice at most; returns what to publish.

        The caller publishes before it calls again: what was returned counts as published then.
        """
        if self._handed:
            with self._database.begin() as connection:
                mark_published(connection, self._handed)
            self._handed = []
        more = self._end_overdue(now) | self._join(now)
        with reading(self._database) as connection:
            names = campaigns_to_step(connection, now)
        for campaign in names:
            more |= self._step_alone(campaign, now)
        more |= self._mark(now)
        publications = self._repeat(now)
        with reading(self._database) as connection:
            work = any_due(connection, now)
        if work:
            composed, full = self._compose(now)
            publications += composed
            more |= full
        self._busy = more
        with reading(self._database) as connection:
            return publications + self._commands.due(connection, now)

    def republish(self, now: float) -> list[Publication]:
        """Begin to publish every assignment again, after a start or when the broker is back.

        Returns the first ones, those that were never published before the others; the ticks go on with the rest.
        """
        with reading(self._database) as connection:
            fresh = unpublished_assignments(connection, SLICE)
        self._handed += [(device, counter) for device, counter, _ in fresh]
        self._repeat_after = ""
        told = {publication.topic for _, _, publication in fresh}
        return [each for _, _, each in fresh] + [each for each in self._repeat(now) if each.topic not in told]

    def broker_is_back(self) -> None:
        """Publish every assignment again, from the next tick on. May be called from any thread."""
        self._republishing.set()

    def start(self, publish: Callable[[str, bytes, bool], None], *, interval_seconds: float = 0.5) -> None:
        """Tick every ``interval_seconds`` on a thread of its own, and publish what follows."""

        def run() -> None:
            self._republishing.set()
            while not self._stopping.is_set():
                began = time.monotonic()
                try:
                    publications = self.tick(time.time())
                    if self._republishing.is_set():
                        self._republishing.clear()
                        publications = self.republish(time.time()) + publications
                    for each in publications:
                        publish(each.topic, each.payload, each.retain)
                except Exception:  # noqa: BLE001  # the service goes on, whatever came
                    self._handed = []
                    self._republishing.set()  # what this tick had composed is stored, and published then
                    _LOG.exception("campaigns could not be moved on; trying again")
                rest = _REST * min(time.monotonic() - began, 1.0)
                self._stopping.wait(max(rest, 0.001) if self._busy else interval_seconds)

        self._thread = threading.Thread(target=run, name="campaign-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; returns when the thread has ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _end_overdue(self, now: float) -> bool:
        """End what is overdue, one slice of it; returns whether there may be more."""
        with reading(self._database) as connection:
            if not any_overdue(connection, now):
                return False
        with self._database.begin() as connection:
            return end_overdue(connection, SLICE, now) == SLICE

    def _join(self, now: float) -> bool:
        """Let devices join the continuous campaigns whose audience they have entered; returns whether to go on."""
        with reading(self._database) as connection:
            devices, last_line = next_changes(connection, now, SLICE)
            joining = who_joins(connection, devices, now)
        if last_line:
            with self._database.begin() as connection:
                join(connection, joining, last_line, now)
        return bool(last_line)

    def _mark(self, now: float) -> bool:
        """Mark who is to be told anew, and who lacks a default release that was set; returns whether to go on."""
        with reading(self._database) as connection:
            told, defaults = any_tellings(connection), any_to_look_at(connection)
        if told:
            with self._database.begin() as connection:
                mark_next_told(connection, SLICE, now)
        if defaults:
            with self._database.begin() as connection:
                mark_next_devices(connection, SLICE, now)
        return told or defaults

    def _step_alone(self, campaign: str, now: float) -> bool:
        """Step one campaign in a transaction of its own; what goes wrong with it is its trouble alone.

        A fault of the database itself is raised: it says nothing of the campaign. Returns whether there is more to do.
        """
        try:
            with self._database.begin() as connection:
                more = _step(connection, campaign, now)
        except Exception as error:
            if database_fault(error) is not None:
                raise
            self._name_once(campaign, error)
            if isinstance(error, FleetError) and error.code == "campaign.unreadable":
                with self._database.begin() as connection:
                    return _pass_by(connection, campaign, now)
            return False
        self._failing_campaigns.pop(campaign, None)
        return more

    def _name_once(self, campaign: str, error: Exception) -> None:
        """Log why a campaign is not moved on, once for each reason."""
        reason = str(error) or type(error).__name__
        if self._failing_campaigns.get(campaign) != reason:
            self._failing_campaigns[campaign] = reason
            trace = None if isinstance(error, FleetError) else error
            _LOG.error(
                "campaign %s is not moved on, the others are: %s",
                campaign,
                reason,
                exc_info=trace,
                extra={"campaign": campaign},
            )

    def _compose(self, now: float) -> tuple[list[Publication], bool]:
        """Compose and store the assignments that are due, one slice of them; and whether there may be more.

        What they are made of is read, and they are signed, while nobody holds the database's write lock.
        """
        with reading(self._database) as connection:
            due = next_due(connection, now, _COMPOSED_AT_ONCE)
            defaults = set_default_releases(connection)
            composer = Composer(connection, defaults, self._sign, now, self._failing_devices)
            composed = composer.compose(list(due))
        with self._database.begin() as connection:
            signed = composed.store(connection, settle(connection, due), now)
        self._handed += [(each.device, each.counter) for each in signed]
        return [assignment_publication(each.device, each.envelope) for each in signed], len(due) == _COMPOSED_AT_ONCE

    def _repeat(self, now: float) -> list[Publication]:
        """The next slice of what is published again."""
        if self._repeat_after is None:
            return []
        with reading(self._database) as connection:
            found = stored_assignments(connection, self._repeat_after, now, SLICE)
        self._repeat_after = found[-1][0] if len(found) == SLICE else None
        return [publication for _, publication in found]


def _step(connection: Connection, campaign: str, now: float) -> bool:
    """Step a campaign until it rests, or until this transaction has moved a slice; returns whether there is more."""
    if fold_changes(connection, campaign):
        return True
    tallies = tallies_of(connection, campaign)
    before, version = load_campaign(connection, campaign, tallies)
    current, moved, rests = before, 0, False
    shut = closed_until(before.spec, now)
    for _ in range(_MAX_STEPS):
        tick = replace(gated_tick(connection, current, now), closed_until=shut)
        after, effects = step(current, tallies, tick)
        if after == current and not effects:
            rests = True
            break
        done = carry_out(connection, after, tallies, effects, who=_WHO, most=SLICE - moved, now=now)
        stuck = after == current and not done  # what it wants to move is in the hands of another transaction
        current, moved = after, moved + done
        if done:
            fold_changes(connection, campaign)
            tallies = tallies_of(connection, campaign)
        if moved >= SLICE or stuck:
            break
    due_at = next_look(current, tallies, shut) if rests else now
    if rests and due_at is not None and due_at <= now:
        due_at = now + _LOOK_AGAIN_SECONDS
    save_campaign(connection, before, current, version, due_at, now)
    return not rests


def _pass_by(connection: Connection, campaign: str, now: float) -> bool:
    """Do what can be done for a campaign that cannot be read; returns whether there is more."""
    more = fold_changes(connection, campaign)
    state, _ = campaign_version(connection, campaign)
    if state in (CampaignState.ABORTED, CampaignState.ROLLED_BACK):
        more |= wind_down(connection, campaign, tallies_of(connection, campaign), SLICE, now) > 0
    look_at(connection, campaign, now if more else now + _UNREADABLE_SECONDS)
    return more
