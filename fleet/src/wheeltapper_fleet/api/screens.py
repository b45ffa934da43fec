"""Reads what screens show, for the live events: a text for each thing on each screen.

Invariants:
    * What several screens show is read and written as text once.
    * A device on a screen costs its share of three statements; which devices are on it is asked again every
      :data:`MEMBERS_SECONDS`, and the totals every :data:`TOTALS_SECONDS`.

What this module does not do: compare with what was read before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, TypeAlias

from sqlalchemy import Engine

from wheeltapper_fleet.alerts.views import case_version, list_alerts, list_shown
from wheeltapper_fleet.api.totals import FleetNumbers
from wheeltapper_fleet.api.view import View
from wheeltapper_fleet.campaigns.views import get_campaign, list_campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.rows import device_ids, device_rows
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["ALERTS_SHOWN", "CAMPAIGNS_SHOWN", "Key", "Screens"]

MEMBERS_SECONDS: Final = 5.0
TOTALS_SECONDS: Final = 2.0
_FORGET_SECONDS: Final = 60.0
CAMPAIGNS_SHOWN: Final = 20
ALERTS_SHOWN: Final = 30

Key: TypeAlias = tuple[str, str]
"""The kind of a thing, and its id."""


@dataclass
class _Members:
    """Which devices are on a screen, as of when."""

    ids: list[str] = field(default_factory=list)
    at: float = float("-inf")


class Screens:
    """Reads screens; one thread at a time may call it.

    Args:
        engine: the fleet's database.
        numbers: of the same fleet.
    """

    def __init__(self, engine: Engine, numbers: FleetNumbers) -> None:
        self._engine = engine
        self._numbers = numbers
        self._totals = ("", float("-inf"))
        self._members: dict[tuple[str, str | None, int], _Members] = {}

    def read(self, views: Sequence[View]) -> dict[View, dict[Key, str]]:
        """The text of each thing on each of ``views``.

        Raises:
            FleetError: ``query.invalid``, ``cursor.invalid``.
        """
        now = time.time()
        rows, members = self._devices(views, now)
        campaigns = self._campaigns(views)
        alerts = self._alerts() if any("alerts" in view.subjects for view in views) else {}
        found: dict[View, dict[Key, str]] = {}
        for view in views:
            things: dict[Key, str] = {}
            if "devices" in view.subjects:
                ids = members[_selection(view)].ids
                things["reset", ""] = json.dumps({"devices": ids})
                things |= {("device", name): rows[name] for name in ids if name in rows}
            if view.device is not None and view.device in rows:
                things["device", view.device] = rows[view.device]
            if "totals" in view.subjects:
                things["totals", ""] = self._read_totals()
            if "campaigns" in view.subjects:
                things |= {key: text for key, text in campaigns.items() if key[0] == "campaign"}
            if view.campaign is not None and ("alone", view.campaign) in campaigns:
                things["campaign", view.campaign] = campaigns["alone", view.campaign]
            if "alerts" in view.subjects:
                things |= alerts
            things |= self._cases(view)
            found[view] = things
        return found

    def _devices(
        self, views: Sequence[View], now: float
    ) -> tuple[dict[str, str], dict[tuple[str, str | None, int], _Members]]:
        """The text of every device on a screen, and who is on which."""
        wanted = {_selection(view) for view in views if "devices" in view.subjects}
        kept = {selection: self._members.get(selection, _Members()) for selection in wanted}
        alone = {view.device for view in views if view.device is not None}
        moment = time.monotonic()
        with reading(self._engine) as connection:
            for (q, after, limit), members in kept.items():
                if moment - members.at >= MEMBERS_SECONDS:
                    members.ids = device_ids(connection, q, limit, after, now).items
                    members.at = moment
            names = sorted(alone.union(*(members.ids for members in kept.values())))
            rows = device_rows(connection, names, now)
        self._members |= kept
        for selection in [each for each, members in self._members.items() if moment - members.at > _FORGET_SECONDS]:
            del self._members[selection]
        return {name: row.model_dump_json() for name, row in rows.items()}, kept

    def _campaigns(self, views: Sequence[View]) -> dict[Key, str]:
        """The newest campaigns, if a screen shows them, and those that are shown by themselves (``alone``)."""
        found: dict[Key, str] = {}
        if any("campaigns" in view.subjects for view in views):
            for campaign in reversed(list_campaigns(self._engine, CAMPAIGNS_SHOWN).items):
                found["campaign", campaign.id] = campaign.model_dump_json(exclude={"spec"})
        for name in {view.campaign for view in views if view.campaign is not None}:
            try:
                found["alone", name] = get_campaign(self._engine, name).model_dump_json(exclude={"spec"})
            except FleetError:  # it is not there (any more); the page says so
                continue
        return found

    def _cases(self, view: View) -> dict[Key, str]:
        """The cases of a screen by number and version: the page asks for what it shows of them."""
        found: dict[Key, str] = {}
        if view.cases is not None:
            try:
                shown = list_shown(self._engine, **asdict(view.cases)).items
            except FleetError as error:
                if error.code != "asset.not_found":
                    raise
                shown = []  # the asset was removed meanwhile
            found["cases", ""] = json.dumps({"cases": [[each.id, each.version] for each in shown]})
        if view.case is not None:
            with reading(self._engine) as connection:
                version = case_version(connection, view.case)
            found["case", str(view.case)] = json.dumps({"id": view.case, "version": version})
        return found

    def _alerts(self) -> dict[Key, str]:
        newest = list_alerts(self._engine, ALERTS_SHOWN).items
        return {("alert", str(alert.id)): alert.model_dump_json() for alert in reversed(newest)}

    def _read_totals(self) -> str:
        text, at = self._totals
        moment = time.monotonic()
        if moment - at >= TOTALS_SECONDS:
            text = self._numbers.totals().model_dump_json()
            self._totals = (text, moment)
        return text


def _selection(view: View) -> tuple[str, str | None, int]:
    return view.q, view.after, view.limit
