"""The campaign engine: a thread that moves campaigns on, signs assignments and publishes them.

Invariants:
    * One campaign's step is one transaction: its new state and the assignments that follow from it are stored together,
      and published only afterwards. A campaign that cannot be read or stepped is named in the log once and stops no
      other. What was stored but not published is published at the next start, or when the
      device reports an older counter (:mod:`wheeltapper_fleet.campaigns.dispatch`).
    * A tick without an active campaign only reads.

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
from sqlalchemy.exc import OperationalError

from wheeltapper_fleet.campaigns.assignments import Sign, assign
from wheeltapper_fleet.campaigns.dispatch import assignment_publication, unfinished_assignments
from wheeltapper_fleet.campaigns.rules.campaign import Assign, Campaign, Effect, Tick, step
from wheeltapper_fleet.campaigns.store import (
    active_campaigns,
    end_overdue,
    load_campaign,
    record_effects,
    save_campaign,
)
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.commands import CommandRepeater
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["CampaignEngine"]

_LOG: Final = logging.getLogger(__name__)
_WHO: Final = "engine"
_MAX_STEPS: Final = 250
"""Steps of one campaign in one tick, more than any campaign has waves."""


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
        self._failing: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tick(self, now: float) -> list[Publication]:
        """Move every active campaign as far as it goes at ``now`` (Unix seconds); returns what to publish."""
        publications: list[Publication] = []
        with reading(self._database) as connection:
            names = active_campaigns(connection)
        for campaign in names:
            publications += self._tick_alone(campaign, now)
        with reading(self._database) as connection:
            return publications + self._commands.due(connection, now)

    def republish(self) -> list[Publication]:
        """Every assignment whose execution has not ended: to be published at the start, and when the broker is back."""
        with reading(self._database) as connection:
            return unfinished_assignments(connection)

    def start(self, publish: Callable[[str, bytes, bool], None], *, interval_seconds: float = 0.5) -> None:
        """Tick every ``interval_seconds`` on a thread of its own, and publish what follows."""

        def run() -> None:
            starting = True
            while not self._stopping.is_set():
                try:
                    publications = self.republish() if starting else []
                    for each in publications + self.tick(time.time()):
                        publish(each.topic, each.payload, each.retain)
                    starting = False
                except Exception:  # noqa: BLE001  # the service goes on, whatever came
                    _LOG.exception("campaigns could not be moved on; trying again")
                self._stopping.wait(interval_seconds)

        self._thread = threading.Thread(target=run, name="campaign-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; returns when the thread has ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tick_alone(self, campaign: str, now: float) -> list[Publication]:
        """Move one campaign on in a transaction of its own; what goes wrong with it is its trouble alone.

        Raises:
            OperationalError: the database does not answer.
        """
        try:
            with self._database.begin() as connection:
                publications = self._tick_campaign(connection, campaign, now)
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001  # the other campaigns go on, whatever came
            self._name_once(campaign, error)
            if isinstance(error, FleetError) and error.code == "campaign.unreadable":
                with self._database.begin() as connection:
                    end_overdue(connection, campaign, now)
            return []
        self._failing.pop(campaign, None)
        return publications

    def _name_once(self, campaign: str, error: Exception) -> None:
        """Log why a campaign is not moved on, once for each reason."""
        reason = str(error) or type(error).__name__
        if self._failing.get(campaign) != reason:
            self._failing[campaign] = reason
            trace = None if isinstance(error, FleetError) else error
            _LOG.error("campaign %s is not moved on, the others are: %s", campaign, reason, exc_info=trace)

    def _tick_campaign(self, connection: Connection, campaign: str, now: float) -> list[Publication]:
        publications: list[Publication] = []
        before, version = load_campaign(connection, campaign)
        current = before
        for _ in range(_MAX_STEPS):
            after, effects = step(current, Tick(now))
            if after == current:
                break
            after = self._assign(connection, after, effects, now, publications)
            record_effects(connection, campaign, effects, _WHO, now)
            current = after
        if current != before:
            save_campaign(connection, before, current, version, now)
        return publications

    def _assign(
        self,
        connection: Connection,
        campaign: Campaign,
        effects: tuple[Effect, ...],
        now: float,
        publications: list[Publication],
    ) -> Campaign:
        """Assign what ``effects`` ask for, and add it to ``publications``; what cannot be assigned fails at once."""
        wanted = [effect for effect in effects if isinstance(effect, Assign)]
        if not wanted:
            return campaign
        assigned = assign(connection, campaign, wanted, self._sign, _WHO, now)
        publications += [assignment_publication(device, envelope) for device, envelope in assigned.envelopes]
        failed, executions = assigned.failed, campaign.executions
        return replace(
            campaign,
            executions=tuple(
                replace(each, state=ExecutionState.FAILED.value, code=failed[each.id]) if each.id in failed else each
                for each in executions
            ),
        )
