"""What is asked of devices and what they answer: commands, settings, and when they came and went."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from sqlalchemy import Engine, select

from tests.fleet.devices.test_selection import keep
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices import commands as commands_module
from wheeltapper_fleet.devices.commands import (
    CommandRepeater,
    apply_command_report,
    create_command,
    get_command,
    list_commands,
    read_bundle,
)
from wheeltapper_fleet.devices.connections import KEPT, list_connections
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.presence import store_statuses
from wheeltapper_fleet.devices.settings import change_settings, get_settings, settings_for
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_fleet.tables import device_attributes, device_connections
from wheeltapper_protocols.wire.codec import decode_down
from wheeltapper_protocols.wire.commands import Command, CommandReport, Settings, SettingsCommand
from wheeltapper_protocols.wire.messages import Status
from wheeltapper_protocols.wire.topics import Down

NOW = 1000.0
DIAGNOSTICS: dict[str, Any] = {"type": "diagnostics", "log_lines": 10}


def due(engine: Engine, repeater: CommandRepeater, now: float) -> list[str]:
    """The devices that a command is published to."""
    with reading(engine) as connection:
        return [each.topic.split("/")[2] for each in repeater.due(connection, now)]


def test_a_command_has_a_state_until_it_is_answered_or_over(engine: Engine) -> None:
    keep(engine, {"dev-1": {"online": True}, "dev-2": {"online": False}, "dev-3": {"state": "revoked"}})
    first = create_command(engine, "dev-1", DIAGNOSTICS, now=NOW, expires_seconds=60.0, who="ann")
    second = create_command(
        engine, "dev-2", {"type": "restart-pipeline", "pipeline": "main"}, now=NOW + 1, expires_seconds=60.0
    )
    repeater = CommandRepeater(5.0)
    assert due(engine, repeater, NOW) == ["dev-1"]
    assert due(engine, repeater, NOW + 4.0) == []
    assert due(engine, repeater, NOW + 6.0) == ["dev-1"]
    assert get_command(engine, first, NOW).state == "waiting"
    bundle = zlib.compress(json.dumps({"log": ["a line"]}).encode())
    with engine.begin() as connection:
        apply_command_report(connection, "dev-2", CommandReport(command=first, bundle=bundle), NOW + 7)
    assert get_command(engine, first, NOW).state == "waiting", "another device cannot answer it"
    with engine.begin() as connection:
        for _ in range(2):
            apply_command_report(connection, "dev-1", CommandReport(command=first, bundle=bundle), NOW + 8)
        failed = CommandReport(command=second, code="pipeline.unknown", detail="none")
        apply_command_report(connection, "dev-2", failed, NOW + 9)
    assert due(engine, repeater, NOW + 20.0) == []
    found = list_commands(engine, None, NOW + 20.0).items
    assert [(each.type, each.state, each.code, each.who, each.bundle) for each in found] == [
        ("restart-pipeline", "failed", "pipeline.unknown", "", False),
        ("diagnostics", "done", "", "ann", True),
    ]
    assert read_bundle(engine, first) == {"log": ["a line"]}
    third = create_command(engine, "dev-1", DIAGNOSTICS, now=NOW + 30, expires_seconds=60.0)
    assert get_command(engine, third, NOW + 91).state == "expired"
    assert due(engine, repeater, NOW + 91) == []
    assert [each.command for each in list_commands(engine, "dev-2", NOW).items] == [second]
    for device, body, code in (
        ("dev-3", DIAGNOSTICS, "device.revoked"),
        ("nobody", DIAGNOSTICS, "device.not_found"),
        ("dev-1", {"type": "restart-pipeline"}, "command.invalid"),
        ("dev-1", {"type": "reboot"}, "command.invalid"),
    ):
        with pytest.raises(FleetError) as caught:
            create_command(engine, device, body, now=NOW)
        assert caught.value.code == code
    for command, code in ((second, "command.no_bundle"), ("cmd-none", "command.no_bundle")):
        with pytest.raises(FleetError, match=code):
            read_bundle(engine, command)


def test_a_bundle_that_is_none_or_too_large_is_refused_when_it_is_read(engine: Engine) -> None:
    keep(engine, {"dev-1": {}})
    for bundle in (b"no zlib", zlib.compress(b"[1]"), zlib.compress(b" " * 50_000_000)):
        command = create_command(engine, "dev-1", DIAGNOSTICS, now=NOW)
        with engine.begin() as connection:
            apply_command_report(connection, "dev-1", CommandReport(command=command, bundle=bundle), NOW)
        with pytest.raises(FleetError, match=r"\[command\.bundle_unreadable\]"):
            read_bundle(engine, command)


def test_many_commands_are_published_in_turns(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "_MOST_AT_ONCE", 4)
    keep(engine, {f"dev-{number}": {"online": True} for number in range(10)})
    for number in range(10):
        create_command(engine, f"dev-{number}", DIAGNOSTICS, now=NOW + number)
    repeater = CommandRepeater(1000.0)
    turns = [due(engine, repeater, NOW + 20) for _ in range(4)]
    assert [len(turn) for turn in turns] == [4, 4, 2, 0]
    assert sorted(device for turn in turns for device in turn) == [f"dev-{number}" for number in range(10)]


def tell(engine: Engine, status: Status, now: float) -> Publication | None:
    """The device sends its status; gives the settings that it is told."""
    with engine.begin() as connection:
        store_statuses(connection, {"dev-1": (status, "")}, now)
        told = settings_for(connection, {"dev-1": status.settings_version}, now)
        assert len(told) < 2
        return told[0] if told else None


def said(publication: Publication | None) -> SettingsCommand:
    assert publication is not None
    command = decode_down(Down.COMMAND, publication.payload)
    assert isinstance(command, Command)
    assert isinstance(command.body, SettingsCommand)
    return command.body


def test_settings_are_told_until_the_device_has_them(engine: Engine) -> None:
    keep(engine, {"dev-1": {}})
    assert tell(engine, Status(online=True), NOW) is None
    first = change_settings(engine, "dev-1", {"log_level": "DEBUG"}, who="ann", why="", now=NOW)
    second = change_settings(engine, "dev-1", {"batch_seconds": 30.0}, who="ann", why="slow", now=NOW + 5)
    assert (first.version, second.version, second.delta) == (1, 2, ["log_level", "batch_seconds"])
    assert (second.desired["log_level"].version, second.desired["log_level"].at) == (1, NOW)
    assert (second.desired["batch_seconds"].version, second.desired["batch_seconds"].at) == (2, NOW + 5)
    told = said(tell(engine, Status(online=True), NOW + 6))
    assert (told.version, told.settings) == (2, Settings(log_level="DEBUG", batch_seconds=30.0))
    assert said(tell(engine, Status(online=True, settings_version=1), NOW + 7)).version == 2
    in_force = Status(online=True, settings_version=2, settings=told.settings)
    assert tell(engine, in_force, NOW + 8) is None
    found = get_settings(engine, "dev-1")
    assert (found.reported_version, found.reported_at, found.delta) == (2, NOW + 8, [])
    assert found.reported == {"log_level": "DEBUG", "batch_seconds": 30.0, "status_seconds": None}
    lost = said(tell(engine, Status(online=True), NOW + 9))
    assert lost.version == 2, "a device that lost its file is told again"
    tell(engine, Status(online=True, settings_version=70), NOW + 10)
    assert change_settings(engine, "dev-1", {"log_level": None}, who="ann", why="", now=NOW + 11).version == 71
    assert said(tell(engine, Status(online=True), NOW + 12)).settings == Settings(batch_seconds=30.0)
    for change in ({"log_level": "LOUD"}, {"batch_seconds": -1.0}, {"colour": "red"}, {"status_seconds": "x"}):
        with pytest.raises(FleetError, match=r"\[setting\.invalid\]"):
            change_settings(engine, "dev-1", change, who="ann", why="", now=NOW)
    forget_device(engine, "dev-1", who="ann", now=NOW)
    keep(engine, {"dev-1": {}})
    assert get_settings(engine, "dev-1").version == 0, "a device that is forgotten begins anew"
    with pytest.raises(FleetError, match=r"\[device\.not_found\]"):
        change_settings(engine, "nobody", {"log_level": "INFO"}, who="ann", why="", now=NOW)


def test_attributes_keep_the_time_since_which_they_hold(engine: Engine) -> None:
    keep(engine, {"dev-1": {}})
    for at, version in ((NOW, "6.1"), (NOW + 1, "6.1"), (NOW + 2, "6.2")):
        status = Status(online=True, agent_version="0.2", attributes={"os": f"Linux {version}", "arch": "arm64"})
        tell(engine, status, at)
    with reading(engine) as connection:
        table = device_attributes
        rows = connection.execute(select(table.c.name, table.c.value, table.c.at).order_by(table.c.name)).all()
    assert rows == [("agent_version", "0.2", NOW), ("arch", "arm64", NOW), ("os", "Linux 6.2", NOW + 2)]


def test_coming_and_going_is_remembered_with_its_reason_and_bounded(engine: Engine) -> None:
    keep(engine, {"dev-1": {}})
    for at, status in enumerate(
        (
            Status(online=True, at=1.0), Status(online=True, at=2.0), Status(online=False), Status(online=True, at=3.0),
            Status(online=False, at=4.0),
        )
    ):  # fmt: skip
        with engine.begin() as connection:
            store_statuses(connection, {"dev-1": (status, "10.0.0.7")}, NOW + at)
    found = list_connections(engine, "dev-1").items
    assert [(each.at - NOW, each.online, each.reason) for each in found] == [
        (4.0, False, "ended"), (3.0, True, "connected"), (2.0, False, "lost"), (0.0, True, "connected")
    ]  # fmt: skip
    assert found[0].address == "10.0.0.7"
    with engine.begin() as connection:
        for turn in range(KEPT + 30):
            store_statuses(connection, {"dev-1": (Status(online=turn % 2 == 0, at=1.0), "")}, NOW + 10 + turn)
    with reading(engine) as connection:
        assert len(connection.execute(select(device_connections.c.id)).all()) == KEPT
    newest = list_connections(engine, "dev-1", 10)
    assert len(newest.items) == 10
    assert list_connections(engine, "dev-1", 10, newest.next).items[0].at < newest.items[-1].at
