"""When an update may go on: windows over midnight and over a change of the clocks, power, network, disk."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.update.condition_readings import default_interface, free_bytes, metered, on_mains
from wheeltapper_agent.update.conditions import (
    ConditionReadings,
    Conditions,
    is_open,
    next_opening,
    parse_window,
    unmet,
)
from wheeltapper_agent.update.config import UpdateConfig

BERLIN = ZoneInfo("Europe/Berlin")


def _at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("window", "local", "expected"),
    [
        ("Mon-Fri 22:00-05:00", "2026-03-02T21:59", False),  # a Monday
        ("Mon-Fri 22:00-05:00", "2026-03-02T22:00", True),
        ("Mon-Fri 22:00-05:00", "2026-03-03T04:59", True),
        ("Mon-Fri 22:00-05:00", "2026-03-03T05:00", False),
        ("Mon-Fri 22:00-05:00", "2026-03-02T03:00", False),  # Sunday's night is not in it
        ("Mon-Fri 22:00-05:00", "2026-03-07T03:00", True),  # Friday's night ends on Saturday
        ("Mon-Fri 22:00-05:00", "2026-03-07T22:30", False),
        ("Sun 22:00-05:00", "2026-03-02T03:00", True),
        ("02:00-04:00", "2026-03-04T03:59", True),
        ("Sat,Sun 00:00-24:00", "2026-03-08T23:59", True),
        ("Sat,Sun 00:00-24:00", "2026-03-09T00:00", False),
        ("fri-mon 10:00-11:00", "2026-03-08T10:30", True),
        ("Fri-Mon 10:00-11:00", "2026-03-10T10:30", False),
    ],
)
def test_a_window_is_open_by_the_clock_on_the_wall(window: str, local: str, expected: bool) -> None:
    assert is_open([parse_window(window)], BERLIN, _at(local)) is expected


def test_the_clocks_go_forward() -> None:
    """On 2026-03-29 Berlin has no 02:00 to 03:00."""
    night = [parse_window("Sat 22:00-05:00")]
    assert is_open(night, BERLIN, _at("2026-03-29T01:59"))
    assert is_open(night, BERLIN, _at("2026-03-29T01:59") + 60)  # 03:00 on the wall
    assert is_open(night, BERLIN, _at("2026-03-29T04:59"))
    assert not is_open(night, BERLIN, _at("2026-03-29T05:00"))
    assert _at("2026-03-29T05:00") - _at("2026-03-28T22:00") == 6 * 3600
    left_out = [parse_window("Sun 02:00-03:00")]
    opened = [minute for minute in range(24 * 60) if is_open(left_out, BERLIN, _at("2026-03-29T00:00") + minute * 60)]
    assert opened == []
    assert next_opening(left_out, BERLIN, _at("2026-03-29T00:00")) == _at("2026-04-05T02:00")


def test_a_window_that_begins_in_the_hour_left_out_opens_when_the_clocks_change() -> None:
    assert next_opening([parse_window("02:30-05:00")], BERLIN, _at("2026-03-29T00:00")) == _at("2026-03-29T03:00")
    assert next_opening([parse_window("02:40-05:00")], UTC, 86_400.0) == pytest.approx(86_400 + 160 * 60)


def test_the_clocks_go_back() -> None:
    """On 2026-10-25 Berlin has 02:00 to 03:00 twice."""
    twice = [parse_window("Sun 02:00-03:00")]
    assert is_open(twice, BERLIN, _at("2026-10-25T02:30"))
    assert is_open(twice, BERLIN, _at("2026-10-25T02:30", fold=1))
    opened = [minute for minute in range(25 * 60) if is_open(twice, BERLIN, _at("2026-10-25T00:00") + minute * 60)]
    assert len(opened) == 120
    assert next_opening(twice, BERLIN, _at("2026-10-25T00:00")) == _at("2026-10-25T02:00")


@pytest.mark.parametrize(
    "text",
    [
        *("", "Mon", "22:00", "25:00-26:00", "22:60-23:00", "10:00-10:00", "24:00-05:00", "Moo 10:00-11:00"),
        *("M 10:00-11:00", "Mon- 10:00-11:00", "10:00-11:00 Mon", "-1:00-02:00", "9" * 500, "Mon,,Tue 1:00-2:00"),
    ],
)
def test_a_window_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_window(text)
    with pytest.raises(AgentError) as refused:
        UpdateConfig(maintenance_windows=(text,))
    assert refused.value.code == "config.invalid"


@settings(deadline=None)
@given(st.floats(-1e15, 1e15), st.sampled_from(["Mon-Fri 22:00-05:00", "02:00-04:00"]))
def test_no_clock_is_too_wrong(now_seconds: float, window: str) -> None:
    assert is_open([parse_window(window)], BERLIN, now_seconds) in (True, False)
    next_opening([parse_window(window)], BERLIN, now_seconds)


@given(st.integers(1_577_836_800, 2_208_988_800))
@settings(deadline=None, max_examples=50)
def test_the_next_opening_is_the_first(now_seconds: int) -> None:
    windows = [parse_window("Mon-Fri 22:00-05:00"), parse_window("Sun 12:00-13:30")]
    opening = next_opening(windows, BERLIN, now_seconds)
    assert opening is not None
    assert is_open(windows, BERLIN, opening)
    if not is_open(windows, BERLIN, now_seconds):
        assert not is_open(windows, BERLIN, opening - 60)


def test_every_condition_has_its_code_and_what_is_unknown_holds_nothing_up() -> None:
    conditions = Conditions((parse_window("02:00-03:00"),), UTC, True, True, 1000)
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()
    found = unmet(conditions, ConditionReadings(noon, False, True, 1499), 500)
    assert [each.code for each in found] == [
        "update.waiting_window",
        "update.waiting_mains",
        "update.waiting_network",
        "update.waiting_disk",
    ]
    assert "opens Tue 2026-03-03 02:00" in found[0].detail
    night = datetime(2026, 3, 2, 2, tzinfo=UTC).timestamp()
    assert unmet(conditions, ConditionReadings(night, True, False, 1500), 500) == ()
    assert unmet(conditions, ConditionReadings(night)) == ()
    assert unmet(Conditions(), ConditionReadings(noon, False, True, 0)) == ()


def test_no_window_is_open_while_the_clock_is_wrong() -> None:
    always = Conditions((parse_window("00:00-24:00"),))
    now = datetime(2026, 1, 5, 12, 0, tzinfo=UTC).timestamp()
    assert unmet(always, ConditionReadings(now, verified_seconds=now + 30.0)) == ()
    (found,) = unmet(always, ConditionReadings(60.0, verified_seconds=now))
    assert found.code == "update.waiting_window"
    assert "1970-01-02" in found.detail or "1970-01-01" in found.detail
    assert "2026-01-05 12:00 UTC or later" in found.detail
    assert unmet(Conditions(), ConditionReadings(60.0, verified_seconds=now)) == ()


def _supply(folder: Path, name: str, **files: str) -> None:
    (folder / name).mkdir(parents=True)
    for file, text in files.items():
        (folder / name / file).write_text(text + "\n")


def test_mains_power(tmp_path: Path) -> None:
    assert on_mains(tmp_path / "none") is None
    assert on_mains(tmp_path) is None
    _supply(tmp_path, "hid-mouse", type="Battery", status="Discharging", scope="Device")
    assert on_mains(tmp_path) is None
    _supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    assert on_mains(tmp_path) is False
    _supply(tmp_path, "AC", type="Mains", online="0")
    assert on_mains(tmp_path) is False
    (tmp_path / "BAT0/status").write_text("Full\n")
    assert on_mains(tmp_path) is False
    (tmp_path / "AC/online").write_text("1\n")
    assert on_mains(tmp_path) is True
    (tmp_path / "AC/online").write_bytes(b"\xff\xfe")
    assert on_mains(tmp_path) is False


def test_a_metered_network(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    eth = "eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
    wwan = "wwan0\t00000000\t0102A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0\n"
    local = "wwan0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    assert metered(routes, ["wwan*"]) is None
    routes.write_text(head + local)
    assert (default_interface(routes), metered(routes, ["wwan*"])) == (None, None)
    routes.write_text(head + wwan + local)
    assert (metered(routes, ["wwan*"]), metered(routes, ["ppp*"]), metered(routes, [])) == (True, False, False)
    routes.write_text(head + wwan + eth)
    assert (default_interface(routes), metered(routes, ["wwan*"])) == ("eth0", False)
    routes.write_bytes(b"\xff" * 100)
    assert default_interface(routes) is None


def test_free_room(tmp_path: Path) -> None:
    assert (free_bytes(tmp_path) or 0) > 0
    assert free_bytes(tmp_path / "none") is None


def test_the_configuration_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    head = '[device]\nstate_dir = "state"\n[update]\n'
    path.write_text(head + 'maintenance_windows = ["Mon-Fri 22:00-05:00"]\ntimezone = "Europe/Berlin"\n')
    assert load_config(path).update.conditions().zone == BERLIN
    for line in (
        'timezone = "Moon/Sea"',
        'timezone = "../etc"',
        "deadline_seconds = -1.0",
        "shadow_min_agreement = nan",
    ):
        path.write_text(head + line + "\n")
        with pytest.raises(AgentError) as refused:
            load_config(path)
        assert refused.value.code == "config.invalid"
