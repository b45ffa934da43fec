"""The campaign engine: a thread that moves campaigns on, composes and signs assignments and publishes them.

Invariants:
    * One campaign's step is one transaction. A campaign that cannot be read or stepped is named in the log once and
      stops no other.
    * What a step changes for devices is marked in the same transaction (:mod:`wheeltapper_fleet.campaigns.due`), and
      composed and signed in slices of at most :data:`SLICE` devices, each a transaction of its own.
    * What was stored but not published is published at the next start, or when the device reports an older counter
      (:mod:`wheeltapper_fleet.campaigns.dispatch`).
    * A tick without anything to do only reads: its work follows from what happened, not from the size of the fleet.

What this module does not do: decide (:mod:`wheeltapper_fleet.campaigns.rules`), sign (the director is handed in), send.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine

from wheeltapper_fleet.campaigns.assignments import Composer, Sign
from wheeltapper_fleet.campaigns.default_releases import mark_next_devices, set_default_releases, set_default_within
from wheeltapper_fleet.campaigns.dispatch import (
    assignment_publication,
    mark_published,
    stored_assignments,
    unpublished_assignments,
)
from wheeltapper_fleet.campaigns.due import any_due, take_due
from wheeltapper_fleet.campaigns.rules.campaign import Campaign, MakeDefault, Tick, step
from wheeltapper_fleet.campaigns.store import (
    active_campaigns,
    end_overdue,
    load_campaign,
    record_effects,
    save_campaign,
)
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.devices.commands import CommandRepeater
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.publication import Publication

__all__ = ["SLICE", "CampaignEngine"]

_LOG: Final = logging.getLogger(__name__)
_WHO: Final = "engine"
_MAX_STEPS: Final = 250
"""Steps of one campaign in one tick, more than any campaign has waves."""
_STEP_SECONDS: Final = 0.5
"""While slices follow each other, campaigns are stepped no more often: a step reads all executions of a campaign."""
SLICE: Final = 250
"""Devices whose assignments one transaction composes: some 0.15 s of the database's write lock."""


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
        """Whether the last slice was full, so that the next one follows at once."""
        self._stepped_at = -math.inf
        self._republishing = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tick(self, now: float) -> list[Publication]:
        """Move every active campaign as far as it goes at ``now`` (Unix seconds); returns what to publish.

        The caller publishes before it calls again: what was returned counts as published then.
        """
        if self._handed:
            with self._database.begin() as connection:
                mark_published(connection, self._handed)
            self._handed = []
        if not self._busy or abs(now - self._stepped_at) >= _STEP_SECONDS:
            self._stepped_at = now
            with reading(self._database) as connection:
                names = active_campaigns(connection)
            for campaign in names:
                self._tick_alone(campaign, now)
        publications = self._repeat(now) + self._compose(now)
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
                self._stopping.wait(0.01 if self._busy else interval_seconds)

        self._thread = threading.Thread(target=run, name="campaign-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; returns when the thread has ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tick_alone(self, campaign: str, now: float) -> None:
        """Move one campaign on in a transaction of its own; what goes wrong with it is its trouble alone.

        A fault of the database itself is raised: it says nothing of the campaign.
        """
        try:
            with self._database.begin() as connection:
                self._tick_campaign(connection, campaign, now)
        except Exception as error:
            if database_fault(error) is not None:
                raise
            self._name_once(campaign, error)
            if isinstance(error, FleetError) and error.code == "campaign.unreadable":
                with self._database.begin() as connection:
                    end_overdue(connection, campaign, now)
            return
        self._failing_campaigns.pop(campaign, None)

    def _name_once(self, campaign: str, error: Exception) -> None:
        """Log why a campaign is not moved on, once for each reason."""
        reason = str(error) or type(error).__name__
        if self._failing_campaigns.get(campaign) != reason:
            self._failing_campaigns[campaign] = reason
            trace = None if isinstance(error, FleetError) else error
            _LOG.error("campaign %s is not moved on, the others are: %s", campaign, reason, exc_info=trace)

    def _tick_campaign(self, connection: Connection, campaign: str, now: float) -> None:
        before, version = load_campaign(connection, campaign)
        current = before
        for _ in range(_MAX_STEPS):
            after, effects = step(current, Tick(now))
            if after == current:
                break
            record_effects(connection, campaign, effects, _WHO, now)
            if any(isinstance(effect, MakeDefault) for effect in effects):
                _make_default(connection, after, now)
            current = after
        if current != before:
            save_campaign(connection, before, current, version, now)

    def _compose(self, now: float) -> list[Publication]:
        """Compose the assignments that are due, one slice of them."""
        with reading(self._database) as connection:
            work = any_due(connection, now)
        self._busy = False
        if not work:
            return []
        with self._database.begin() as connection:
            looked = mark_next_devices(connection, SLICE, now)
            devices = take_due(connection, now, SLICE)
            defaults = set_default_releases(connection)
            composer = Composer(connection, defaults, self._sign, now, self._failing_devices)
            signed = composer.compose(devices)
        self._busy = looked or len(devices) == SLICE
        self._handed += [(each.device, each.counter) for each in signed]
        return [assignment_publication(each.device, each.envelope) for each in signed]

    def _repeat(self, now: float) -> list[Publication]:
        """The next slice of what is published again."""
        if self._repeat_after is None:
            return []
        with reading(self._database) as connection:
            found = stored_assignments(connection, self._repeat_after, now, SLICE)
        self._repeat_after = found[-1][0] if len(found) == SLICE else None
        return [publication for _, publication in found]


def _make_default(connection: Connection, campaign: Campaign, now: float) -> None:
    for pipeline in campaign.spec.pipelines:
        set_default_within(
            connection,
            campaign.spec.model,
            campaign.spec.release,
            pipeline=pipeline,
            audience=campaign.spec.audience,
            who=_WHO,
            why=f"campaign {campaign.id} completed",
            now=now,
        )
