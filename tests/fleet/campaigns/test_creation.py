"""A campaign is written in slices: nobody sees a part of it, and nothing stays of one that was not written whole."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from tests.fleet.campaigns.world import SPEC, World, create, enrols
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns import creation
from wheeltapper_fleet.campaigns.creation import create_campaign, remove_unfinished
from wheeltapper_fleet.campaigns.service import start_campaign
from wheeltapper_fleet.campaigns.views import count_campaigns
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

WRITTEN = (tables.campaigns, tables.executions, tables.campaign_tallies, tables.tally_changes, tables.campaign_log)


class PowerCut(BaseException):
    """Nothing of the process runs after it."""


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "SLICE", 2)


def rows(world: World) -> list[int]:
    with reading(world.database) as connection:
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in WRITTEN]


def at_slice(monkeypatch: pytest.MonkeyPatch, number: int, do: Any) -> None:
    """Call ``do`` before the slice ``number`` (from 1) is written."""
    write, count = creation._write_slice, iter(range(1, 1000))

    def write_slice(*args: Any) -> None:
        if next(count) == number:
            do()
        write(*args)

    monkeypatch.setattr(creation, "_write_slice", write_slice)


def broken() -> None:
    raise OSError("disk full")


def dies() -> None:
    raise PowerCut


@pytest.mark.usefixtures("small_slices")
def test_nobody_sees_a_part_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def look() -> None:
        seen.append(world.campaign_ids())
        with reading(world.database) as connection:
            seen.append(count_campaigns(connection))
            hidden = connection.execute(select(tables.campaigns.c.id)).scalar_one()
        for ask in (lambda: world.campaign(hidden), lambda: start(world, hidden)):
            with pytest.raises(FleetError) as caught:
                ask()
            seen.append(caught.value.code)

    at_slice(monkeypatch, 3, look)
    campaign = create(world, start=False)
    assert seen == [[], {}, "campaign.not_found", "campaign.not_found"]
    assert world.campaign_ids() == [campaign]
    assert world.campaign(campaign).executions == {"1": {"PENDING": 2}, "2": {"PENDING": 3}}
    assert world.campaign(campaign).version == 1


def start(world: World, campaign: str) -> None:
    start_campaign(world.database, campaign, version=0, who="ann", now=world.now)


@pytest.mark.usefixtures("small_slices")
def test_one_that_cannot_be_written_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at_slice(monkeypatch, 2, broken)
    with pytest.raises(OSError, match="disk full"):
        create(world)
    assert rows(world) == [0] * len(WRITTEN)


@pytest.mark.usefixtures("small_slices")
def test_what_a_service_that_died_left_is_removed_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "_remove", lambda *_: dies())
    at_slice(monkeypatch, 3, dies)
    with pytest.raises(PowerCut):
        create(world)
    monkeypatch.undo()
    kept = create(world)
    assert rows(world)[:2] == [2, 9]
    world.tick()
    turn = creation.unfinished_turn(world.database)
    turn(world.now + 1.0)
    assert rows(world)[0] == 2, "it may still be under way"
    turn(world.now + 3600.0)
    assert rows(world)[:2] == [1, 5]
    assert world.campaign_ids() == [kept]


@pytest.mark.usefixtures("small_slices")
def test_one_that_was_removed_meanwhile_is_not_said_to_be_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at_slice(monkeypatch, 3, lambda: remove_unfinished(world.database, world.now + 1.0))
    with pytest.raises(FleetError, match="create it again"):
        create_campaign(world.database, SPEC, who="ann", now=world.now)
    assert rows(world) == [0] * len(WRITTEN)


@pytest.mark.usefixtures("small_slices")
def test_who_enters_a_continuous_audience_meanwhile_joins_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def comes() -> None:
        enrols(world, "dev-9", "a")
        world.tick(6.0)

    at_slice(monkeypatch, 2, comes)
    campaign = create(world, audience={"continuous": True})
    assert "dev-9" not in world.states(campaign)
    world.tick(6.0)
    assert "dev-9" in world.states(campaign)
