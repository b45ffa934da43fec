"""What was kept of devices long enough ends, in slices; what may still be answered stays."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, func, insert, select

from wheeltapper_fleet.devices import retention
from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.retention import devices_turn
from wheeltapper_fleet.devices.tables import command_bundles, commands, device_log

NOW = 1.79e9
DAY = 86_400.0


def count(engine: Engine, table: object) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]  # a table


def test_the_log_and_old_commands_end_in_slices(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_SLICE", 10)
    with engine.begin() as connection:
        for days, number in ((40, 25), (10, 5)):
            at = NOW - days * DAY
            write_log(connection, [Entry(f"press-{n}", "tags") for n in range(number)], "ann", at)
            names = [f"cmd-{days}-{n}" for n in range(number)]
            rows = [{"id": name, "device": "press-1", "body": {}, "created_at": at} for name in names]
            connection.execute(insert(commands), [row | {"expires_at": at + 60} for row in rows])
            connection.execute(insert(command_bundles), [{"command": name, "body": b"x"} for name in names])
        waits = {"id": "cmd-waits", "device": "press-1", "body": {}, "created_at": NOW - 40 * DAY}
        connection.execute(insert(commands).values(**waits, expires_at=NOW + 60))
    turn = devices_turn(engine, 30, 20)
    assert [turn(NOW) for _ in range(4)] == [True, True, False, False]
    assert (count(engine, device_log), count(engine, command_bundles), count(engine, commands)) == (5, 5, 6)
    assert devices_turn(engine, 30, 20)(NOW + 61) is False
    assert (count(engine, device_log), count(engine, command_bundles), count(engine, commands)) == (5, 5, 5)
