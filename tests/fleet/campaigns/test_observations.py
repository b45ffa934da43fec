"""Telemetry gates listen to real roll-ups of a fleet in waves, on both databases."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from tests.fleet.campaigns.world import World, create
from wheeltapper_fleet import service
from wheeltapper_fleet.campaigns.failures import gate_curves
from wheeltapper_fleet.campaigns.observations import HEARD_AT_ONCE, SETTLE_SECONDS, Observer
from wheeltapper_fleet.campaigns.rules.gates import is_worth_a_point
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.tables import campaign_gates, campaign_log, executions, gate_panels, rollups
from wheeltapper_protocols.wire.messages import ExecutionState

DEVICES = 40
OBSERVE = 600
FINE: dict[str, float] = {
    "windows": 300,
    "scored": 300,
    "score_sum": 90.0,
    "latency_sum_ms": 600.0,
    "latency_count": 300,
}
SLOW = {**FINE, "latency_sum_ms": 900.0}
GATE = {"kind": "latency", "max_increase": 0.1, "observe_seconds": OBSERVE, "minimum_devices": 10}


@pytest.fixture
def many(engine: Engine) -> World:
    """Forty devices, each with the pipeline ``main``."""
    world = World(engine)
    world.now = 1_000_000.0
    world.populate(DEVICES)
    for number in range(DEVICES):
        world.online(f"dev-{number}", main=("bearing", 1))
    return world


def gated(world: World, gates: list[dict[str, Any]], **fields: Any) -> str:
    """A started campaign of two halves whose first one is assigned, and soaks for long once it has committed."""
    spec = {"release": 2, "waves": [{"count": DEVICES // 2}, {}], "soak_seconds": 1e6, "gates": gates, **fields}
    campaign = create(world, **{"execution_deadline_seconds": 1e6, **spec})
    world.tick()
    return campaign


def of_wave(world: World, campaign: str, wave: int = 0) -> list[str]:
    query = select(executions.c.device).where(executions.c.campaign == campaign, executions.c.wave == wave)
    with reading(world.database) as connection:
        return list(connection.execute(query.order_by(executions.c.device)).scalars())


def tell(world: World, device: str, seconds: float, **sums: float) -> None:
    """Roll-ups of ``device`` for the last ``seconds``."""
    first = int((world.now - seconds) // 300) * 300
    rows = []
    for bucket in range(first, int(world.now // 300) * 300 + 300, 300):
        row = dict.fromkeys(("windows", "scored", "missing", "score_sum", "score_sq_sum"), 0.0)
        row |= dict.fromkeys(("latency_sum_ms", "latency_count", "warnings", "criticals", "alerts"), 0.0) | sums
        key = {"device": device, "pipeline": "main", "span": 300, "bucket": bucket, "model": "bearing", "release": 1}
        rows.append({**key, **row})
    with world.database.begin() as connection:
        connection.execute(rollups.insert(), rows)


def live(world: World, campaign: str, updated: dict[str, float], others: dict[str, float]) -> None:
    """The first wave commits, and every device tells of the time before and after it."""
    for number in range(DEVICES):
        tell(world, f"dev-{number}", OBSERVE + 600, **FINE)
    first = of_wave(world, campaign)
    for device in first:
        world.end(device, ExecutionState.COMMITTED)
    world.now += OBSERVE + 600
    for number in range(DEVICES):
        device = f"dev-{number}"
        tell(world, device, OBSERVE + 299, **(updated if device in first else others))


def look(world: World, observer: Observer | None = None) -> dict[int, Any]:
    """What each gate says after an observer has heard all that there is."""
    observer = observer or Observer(world.database)
    for _ in range(20):
        if not observer.look(world.now):
            break
    with reading(world.database) as connection:
        return {row.gate: row for row in connection.execute(select(campaign_gates))}


def counted(world: World) -> list[str]:
    """The statements that are executed from now on."""
    statements: list[str] = []
    for engine in (world.database, world.database.get_execution_options()["wheeltapper_readers"]):
        event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    return statements


def test_a_release_that_is_slower_than_before_breaks_its_gate(many: World) -> None:
    campaign = gated(many, [GATE])
    assert look(many)[0].verdict == "HOLD"
    live(many, campaign, SLOW, FINE)
    found = look(many)[0]
    assert found.verdict == "BROKEN"
    assert found.devices == 20
    assert "+50 % (limit +10 %), on 20 updated devices against" in found.sentence
    with reading(many.database) as connection:
        log = connection.execute(select(campaign_log.c.detail).where(campaign_log.c.event == "gate")).scalars().all()
    assert [line.split(":")[1].strip() for line in log] == ["HOLD", "BROKEN"]


def test_how_a_gate_came_to_what_it_says_is_kept(many: World) -> None:
    campaign = gated(many, [GATE, {"kind": "crash_free"}])
    look(many)
    assert [each.points for each in gate_curves(many.database, campaign)] == [(), ()]
    live(many, campaign, SLOW, FINE)
    look(many)
    latency, crash_free = gate_curves(many.database, campaign)
    assert (latency.kind, latency.alpha, crash_free.kind) == ("latency", 0.05, "crash_free")
    assert [point.devices for point in latency.points] == list(range(1, 21))
    assert latency.points[0].evidence < math.log(20) < latency.points[-1].evidence  # it broke
    assert latency.points[-1].mean == pytest.approx(math.log(1.5))
    assert latency.points[-1].control_mean == pytest.approx(0.0)
    assert {point.mean for point in crash_free.points} == {0.0}
    look(many)
    assert [len(each.points) for each in gate_curves(many.database, campaign)] == [20, 20]


def test_a_curve_of_many_devices_has_some_hundred_points() -> None:
    last, points = 0, 0
    for devices in range(1, 50_001):
        if is_worth_a_point(last, devices):
            last, points = devices, points + 1
    assert 300 < points < 450


def test_a_release_that_is_as_fast_passes(many: World) -> None:
    campaign = gated(many, [GATE])
    look(many)
    live(many, campaign, FINE, FINE)
    assert look(many)[0].verdict == "PASS"


def test_what_slows_all_devices_down_is_not_the_release(many: World) -> None:
    campaign = gated(many, [GATE])
    look(many)
    live(many, campaign, SLOW, SLOW)
    found = look(many)[0]
    with reading(many.database) as connection:
        pairs = connection.execute(select(gate_panels.c.control)).scalars().all()
    assert len([each for each in pairs if each is not None]) == 10  # half of those that wait
    assert "against 10 that are not updated" in found.sentence


def test_devices_are_not_heard_before_their_time_is_over(many: World) -> None:
    campaign = gated(many, [GATE])
    look(many)
    for device in of_wave(many, campaign):
        many.end(device, ExecutionState.COMMITTED)
    many.now += OBSERVE - 1
    assert look(many)[0].devices == 0
    assert "no data yet: 0 of 10 devices" in look(many)[0].sentence


def test_devices_that_say_nothing_are_silent_and_never_a_pass(many: World) -> None:
    campaign = gated(many, [GATE, {"kind": "quality", "observe_seconds": OBSERVE}])
    look(many)
    for number in range(DEVICES):
        tell(many, f"dev-{number}", OBSERVE + 600, **FINE)
    for device in of_wave(many, campaign):
        many.end(device, ExecutionState.COMMITTED)
    many.now += OBSERVE + 300 + SETTLE_SECONDS
    found = look(many)
    assert (found[0].verdict, found[0].devices) == ("HOLD", 0)
    assert "20 updated devices are silent" in found[0].sentence
    assert found[1].verdict == "BROKEN"  # windows before, none after: the worst quality


def states(world: World, campaign: str) -> tuple[str, list[str], str]:
    found = world.campaign(campaign)
    return found.state, [wave["state"] for wave in found.waves], found.reason


def test_a_wave_passes_only_when_its_gates_do(many: World) -> None:
    campaign = gated(many, [GATE, {"kind": "crash_free"}], soak_seconds=0.0)
    live(many, campaign, FINE, FINE)
    many.tick()
    assert states(many, campaign)[:2] == ("RUNNING", ["SOAKING", "PENDING"])  # nobody has looked yet
    look(many)
    many.tick()
    many.tick()
    assert states(many, campaign)[:2] == ("RUNNING", ["PASSED", "RUNNING"])
    for device in of_wave(many, campaign, 1):
        many.end(device, ExecutionState.COMMITTED)
    many.tick()
    assert states(many, campaign)[1] == ["PASSED", "SOAKING"]  # what was said of the first wave is not of this one
    look(many)
    many.now += OBSERVE + 600
    for device in of_wave(many, campaign, 1):
        tell(many, device, OBSERVE + 299, **FINE)
    look(many)
    many.tick(10)
    many.tick(10)
    assert states(many, campaign)[0] == "COMPLETED"
    assert "with no device to compare with" not in many.campaign(campaign).gates[0].sentence
    assert "the others against their own past" in many.campaign(campaign).gates[0].sentence


@pytest.mark.parametrize(
    ("on_abort", "state"), [("PAUSE", "PAUSED"), ("CANCEL_PENDING", "ABORTED"), ("ROLLBACK_TO", "ROLLED_BACK")]
)
def test_a_broken_gate_stops_the_campaign_as_it_asks(many: World, on_abort: str, state: str) -> None:
    campaign = gated(many, [GATE], on_abort=on_abort, **({"rollback_to": 1} if on_abort == "ROLLBACK_TO" else {}))
    look(many)
    live(many, campaign, SLOW, FINE)
    look(many)
    many.tick()
    found = states(many, campaign)
    assert found[:2] == (state, ["RUNNING", "PENDING"])
    assert found[2].startswith("a gate is broken: latency: +50 %")
    assert [each.verdict for each in many.campaign(campaign).gates] == ["BROKEN"]


def test_a_gate_that_waits_for_data_too_long_stops_the_campaign(many: World) -> None:
    campaign = gated(many, [GATE], soak_seconds=100.0, gate_wait_seconds=5000.0)
    look(many)
    for device in of_wave(many, campaign):
        many.end(device, ExecutionState.COMMITTED)
    many.tick()
    many.now += 5090
    look(many)
    many.tick()
    assert states(many, campaign)[0] == "RUNNING"
    many.tick(10)
    found = states(many, campaign)
    assert found[0] == "PAUSED"
    assert found[2].startswith("gates have waited 5000 s for data: latency: no data yet")


def test_each_device_is_heard_once(many: World) -> None:
    campaign = gated(many, [GATE])
    look(many)
    live(many, campaign, FINE, FINE)
    first = look(many)[0]
    again = look(many)[0]
    assert (first.devices, again.devices, again.state) == (20, 20, first.state)


def test_a_kill_between_hearing_and_storing_counts_nobody_twice(many: World, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = gated(many, [GATE])
    look(many)
    live(many, campaign, FINE, FINE)

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("wheeltapper_fleet.campaigns.observations.write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            look(many)
    assert look(many)[0].devices == 20


def test_rolled_back_releases_break_the_crash_free_gate(many: World) -> None:
    campaign = gated(many, [{"kind": "crash_free", "min_share": 0.95}], success={"percent": 10})
    look(many)
    for index, device in enumerate(of_wave(many, campaign)):
        many.end(device, ExecutionState.ROLLED_BACK if index % 2 else ExecutionState.COMMITTED, "x")
    found = look(many)[0]
    assert (found.verdict, found.devices) == ("BROKEN", 20)
    assert "10 of 20 kept the release (at least 95 %)" in found.sentence


def test_a_device_that_failed_and_was_tried_again_is_heard(many: World) -> None:
    campaign = gated(many, [GATE, {"kind": "crash_free"}], success={"percent": 10})
    look(many)
    again = of_wave(many, campaign)[0]
    mine = (executions.c.campaign == campaign, executions.c.device == again)
    with many.database.begin() as connection:
        connection.execute(executions.update().where(*mine).values(state="FAILED", updated_at=many.now))
    assert look(many)[1].devices == 0
    with many.database.begin() as connection:
        connection.execute(executions.update().where(*mine).values(state="ASSIGNED", updated_at=many.now))
    live(many, campaign, FINE, FINE)
    assert [each.devices for each in look(many).values()] == [20, 20]


def test_a_campaign_whose_gates_cannot_be_read_is_named_once_and_stops_no_other(
    many: World, caplog: pytest.LogCaptureFixture
) -> None:
    broken = gated(many, [GATE], audience={"devices": [f"dev-{n}" for n in range(20)]}, waves=[{}])
    other = gated(many, [GATE], audience={"devices": [f"dev-{n}" for n in range(20, 40)]}, waves=[{}])
    observer = Observer(many.database)
    look(many, observer)
    with many.database.begin() as connection:
        connection.execute(campaign_gates.update().where(campaign_gates.c.campaign == broken).values(state={"no": 1}))
    many.now += 60
    look(many, observer)
    look(many, observer)
    with reading(many.database) as connection:
        rows = {row.campaign: row for row in connection.execute(select(campaign_gates))}
    assert (rows[broken].judged_at, rows[other].judged_at) == (many.now - 60, many.now)
    assert caplog.text.count("cannot be looked at; its wave is held") == 1


def test_one_look_at_a_campaign_costs_a_bounded_number_of_statements(many: World) -> None:
    campaign = gated(many, [GATE])
    look(many)
    live(many, campaign, FINE, FINE)
    statements = counted(many)
    Observer(many.database).look(many.now)
    read = [each for each in statements if "FROM rollups" in each]
    assert len(read) == 20 + 20 * 2 + 10 * 2  # whether it has told, before and after; the same of its control
    assert len(statements) - len(read) < 5 * 20
    assert HEARD_AT_ONCE <= 100


def test_campaigns_without_gates_cost_nothing(many: World) -> None:
    gated(many, [])
    statements = counted(many)
    assert Observer(many.database).look(many.now) is False
    assert len([each for each in statements if each.startswith("SELECT")]) == 1


def test_the_service_does_it_again_and_again() -> None:
    assert 'Duty("telemetry gates", EVERY_SECONDS, Observer(database).look)' in inspect.getsource(service)
