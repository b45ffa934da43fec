"""Policies over real tables: a whole cycle, what goes wrong, a process that is killed at any step, costs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, event, select, update

from tests.fleet.learning.policies.circle import MODEL, POLICY, Circle
from wheeltapper_fleet import tables
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.service import approve_candidate
from wheeltapper_fleet.learning.candidates.views import get_candidate, list_candidates
from wheeltapper_fleet.learning.datasets.manifest import Ref
from wheeltapper_fleet.learning.policies import acting as acting_module
from wheeltapper_fleet.learning.policies.events import Input
from wheeltapper_fleet.learning.policies.rules import PolicyState, step
from wheeltapper_fleet.learning.policies.service import apply_policy, pause_policy, remove_policy, resume_policy
from wheeltapper_fleet.learning.policies.spec import read_policy
from wheeltapper_fleet.learning.policies.views import explain_event, get_policy, list_events, list_policies
from wheeltapper_fleet.learning.runs.views import get_run, list_runs
from wheeltapper_fleet.promotion.service import approve_promotion, reject_promotion
from wheeltapper_fleet.registry.aliases import get_alias
from wheeltapper_fleet.registry.promotion import set_rule
from wheeltapper_fleet.registry.promotion_rules import PromotionRule


@pytest.fixture
def circle(engine: Engine, tmp_path: Path) -> Circle:
    made = Circle(engine, tmp_path)
    made.begin()
    return made


def test_a_whole_cycle_and_why_it_went_so(circle: Circle) -> None:
    assert circle.turn(1).stage == "WATCHING"
    circle.report("fan-3", 0.0)
    assert circle.turn(11).found == "0 of 1 devices drift (limit 50%)"
    circle.to_approval()
    found = get_policy(circle.engine, "fan-speed")
    assert found.stage == "APPROVAL", found
    assert sorted(circle.asked().values()) == ["fan-1", "fan-2"], "those that drift record"
    manifest, _ = circle.datasets.manifest(Ref("fans", 2))
    assert (manifest.base, manifest.items.count) == ("fans@1", 3)
    run = get_run(circle.engine, found.state["run"])
    assert (run.dataset, run.cause_kind, run.cause_id) == ("fans@2", "policy", "fan-speed/1")
    assert tomllib.loads(run.recipe_toml)["parameters"] == {"healthy_fraction": 1.0}
    assert [each.kind for each in circle.told] == ["candidate.waiting"]
    circle.approve(2)
    assert get_alias(circle.engine, MODEL, "candidate").release == 2
    rolling = circle.turn(1)
    assert rolling.stage == "ROLLING_OUT"
    assert circle.turn(5).stage == "ROLLING_OUT"
    circle.end_campaign(rolling.state["campaign"])
    done = circle.turn(60)
    assert (done.stage, done.state["release"]) == ("COOLING", 2)
    assert get_alias(circle.engine, MODEL, "champion").release == 2
    events = circle.events()
    assert [each.kind for each in events] == [
        "applied", "crossed", "captures_arrived", "dataset_made", "run_queued", "candidate_made", "approved",
        "campaign_started", "campaign_completed", "promoted",
    ]  # fmt: skip
    causes = explain_event(circle.engine, "fan-speed", events[-1].id)
    assert [each.kind for each in causes] == [each.kind for each in events[:0:-1]]
    assert "2 of 3 devices drift" in causes[-1].detail
    assert circle.turn(1000).stage == "WATCHING"
    assert circle.events()[-1].kind == "watching"


def test_the_records_give_the_state_again(circle: Circle) -> None:
    circle.to_approval()
    circle.reject()
    stored = circle.turn(5)
    state = PolicyState(since=1.7e9)
    for each in circle.events():
        if each.input is not None:
            told = msgspec.convert(each.input, Input)
            state = step(read_policy(tomllib.loads(POLICY)), state, told, each.at).state
    assert msgspec.to_builtins(state) == stored.state | {
        name: tuple(stored.state[name]) for name in ("devices", "runs_at", "campaigns_at")
    }
    assert stored.why == "rejected: by bob: not on my watch"


def test_a_policy_cools_down_and_keeps_its_budget(circle: Circle) -> None:
    for device in ("fan-1", "fan-2"):
        circle.report(device, 2.0)
    assert circle.turn(1).cycle == 1
    for cycle in (1, 2):
        known = {row.command for row in circle.rows(select(tables.captures.c.command))}
        for command, device in circle.asked().items():
            if command not in known:
                circle.record(command, device, 1000 * cycle + int(device[-1]))
        circle.turn(5)
        circle.train(2, "training.gate_failed")
        failed = circle.turn(5)
        assert (failed.stage, failed.why) == ("COOLING", "run_failed: the gate auroc is 0.5 [training.gate_failed]")
        assert circle.turn(900).stage == "COOLING"
        assert circle.turn(101).cycle == 2, "the devices drift as before, so the next cycle begins at once"
    held = get_policy(circle.engine, "fan-speed")
    assert (held.stage, held.why) == ("WATCHING", "the budget of 2 runs in 30 days is used up")
    circle.turn(11)
    assert [each.kind for each in circle.events()].count("held") == 1


def test_a_campaign_that_fails_stops_the_policy(circle: Circle) -> None:
    circle.to_approval()
    circle.approve(2)
    circle.end_campaign(circle.turn(1).state["campaign"], good=False)
    stopped = circle.turn(60)
    assert (stopped.stage, stopped.why) == ("STOPPED", "campaign_failed: it burns")
    assert circle.told[-1].kind == "policy.stopped"
    with pytest.raises(FleetError, match=r"\[alias\.not_found\]"):
        get_alias(circle.engine, MODEL, "challenger")
    assert get_alias(circle.engine, MODEL, "champion").release == 1
    assert circle.turn(1e7).stage == "STOPPED"
    resume_policy(circle.engine, "fan-speed", who="ann", why="", now=circle.now)
    assert circle.turn().stage == "WATCHING"


def test_too_few_recordings_stall_it(circle: Circle) -> None:
    circle.report("fan-1", 2.0)
    circle.report("fan-2", 2.0)
    circle.turn(1)
    [(command, device), _] = sorted(circle.asked().items())
    circle.record(command, device, 5)
    assert circle.turn(100).stage == "CAPTURING"
    stalled = circle.turn(600)
    assert (stalled.stage, stalled.why) == ("COOLING", "stalled: 1 of 2 recordings came, 2 are needed")


def test_a_run_that_takes_too_long_is_cancelled(circle: Circle) -> None:
    text = POLICY.replace('recipe = "anomaly"', 'recipe = "anomaly"\nwithin_seconds = 100')
    apply_policy(circle.engine, text, who="ann", now=circle.now)
    circle.report("fan-1", 2.0)
    circle.report("fan-2", 2.0)
    circle.turn(1)
    circle.record_all()
    run = circle.turn(5).state["run"]
    assert circle.turn(101).stage == "COOLING"
    assert (get_run(circle.engine, run).state, get_run(circle.engine, run).ended_by) == (
        "CANCELLED",
        "policy fan-speed",
    )
    assert [each.kind for each in circle.events()][-2:] == ["cancelling", "stalled"]


def test_nobody_can_approve_what_nobody_approved_in_time(circle: Circle) -> None:
    circle.to_approval()
    candidate = circle.candidate()
    assert circle.turn(15 * 86_400).stage == "COOLING"
    assert get_candidate(circle.engine, candidate).state == "EXPIRED"
    with pytest.raises(FleetError, match=r"\[candidate\.decided\]"):
        approve_candidate(circle.engine, circle.blobs, candidate, 2, who="bob", why="", now=circle.now)


def test_a_release_of_something_else_approves_nothing(circle: Circle) -> None:
    circle.to_approval()
    circle.publish(2, circle.bundle(9))
    with pytest.raises(FleetError, match=r"\[candidate\.other_release\]"):
        approve_candidate(circle.engine, circle.blobs, circle.candidate(), 2, who="bob", why="", now=circle.now)
    with pytest.raises(FleetError, match=r"\[release\.not_found\]"):
        approve_candidate(circle.engine, circle.blobs, circle.candidate(), 3, who="bob", why="", now=circle.now)
    with pytest.raises(FleetError, match=r"\[alias\.not_found\]"):
        get_alias(circle.engine, MODEL, "candidate")
    assert circle.turn(5).stage == "APPROVAL"


def test_an_approval_that_was_broken_off_is_found(circle: Circle) -> None:
    circle.to_approval()
    candidate = circle.candidate()
    assert get_candidate(circle.engine, candidate).published is None
    circle.publish(2, get_candidate(circle.engine, candidate).sha256, candidate=candidate)
    assert get_candidate(circle.engine, candidate).published == 2


def test_recordings_of_true_faults_are_left_out(circle: Circle) -> None:
    circle.report("fan-1", 2.0)
    circle.report("fan-2", 2.0)
    circle.turn(1)
    circle.record_all()
    label = {"case_id": 1, "episode": 1, "pipeline": "main", "model": MODEL, "release": 1, "verdict": "true_fault"}
    label |= {"from_at": 1.0, "to_at": 2.0, "from_t_s": 0.0, "to_t_s": 1e10, "resolved_at": 3.0, "who": "ann"}
    with circle.engine.begin() as connection:
        connection.execute(tables.labels.insert().values(device="fan-1", **label))
    circle.turn(5)
    manifest, _ = circle.datasets.manifest(Ref("fans", 2))
    assert sum("of fan-1/main" in source for source in manifest.sources) == 0
    assert sum("of fan-2/main" in source for source in manifest.sources) == 1


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """The process dies when it has done the effect ``name``, before it wrote down that it has."""
    real = getattr(acting_module, name)

    def done(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(acting_module, name, done)
        with pytest.raises(Killed):
            yield


def test_a_process_that_dies_at_any_effect_does_it_once(circle: Circle, monkeypatch: pytest.MonkeyPatch) -> None:
    circle.report("fan-1", 2.0)
    circle.report("fan-2", 2.0)
    with dying(monkeypatch, "ask_captures"):
        circle.turn(1)
    assert not circle.asked(), "recordings are asked for in the transaction of the step"
    circle.again()
    circle.turn()
    assert len(circle.asked()) == 2
    circle.record_all()
    for effect in ("import_version", "queue_run"):
        with dying(monkeypatch, effect):
            circle.turn(5)
        circle.again()
    assert circle.turn(5).stage == "TRAINING"
    assert circle.datasets.versions("fans") == [1, 2]
    assert len(list_runs(circle.engine).items) == 1
    circle.train(2)
    with dying(monkeypatch, "add_candidate"):
        circle.turn(5)
    circle.again()
    circle.turn(5)
    circle.approve(2)
    for effect in ("create_campaign", "start_campaign"):
        with dying(monkeypatch, effect):
            circle.turn(5)
        circle.again()
    rolling = circle.turn(5)
    assert [row.id for row in circle.rows(select(tables.campaigns.c.id))] == [rolling.state["campaign"]]
    circle.end_campaign(rolling.state["campaign"])
    with dying(monkeypatch, "request_promotion"):
        circle.turn(60)
    circle.again()
    assert circle.turn(60).stage == "COOLING"
    assert len(list_candidates(circle.engine).items) == 1
    kinds = [each.kind for each in circle.events()]
    assert len(kinds) == len(set(kinds)) == 10


def test_what_breaks_is_named_and_tried_again_and_holds_up_no_other(circle: Circle) -> None:
    other = POLICY.replace('"fan-speed"', '"other"').replace("fan-anomaly", "pump-anomaly")
    apply_policy(circle.engine, other, who="ann", now=circle.now - 1)
    assert circle.turn(1).looked_at is not None
    found = get_policy(circle.engine, "other")
    assert "[policy.no_release]" in found.problem
    assert "alias set pump-anomaly champion 1" in found.problem
    with circle.engine.begin() as connection:
        connection.execute(update(tables.policies).values(text="nonsense").where(tables.policies.c.name == "other"))
    circle.turn(100)
    assert "apply its file again" in get_policy(circle.engine, "other").problem
    apply_policy(circle.engine, other, who="ann", now=circle.now)
    assert get_policy(circle.engine, "other").problem == ""


def test_missing_files_are_a_problem_until_the_stage_is_over(circle: Circle) -> None:
    circle.report("fan-1", 2.0)
    circle.report("fan-2", 2.0)
    circle.turn(1)
    circle.record_all()
    for file in circle.recordings.iterdir():
        file.rename(circle.folder / file.name)
    held = circle.turn(5)
    assert held.stage == "ASSEMBLING"
    assert "[policy.captures]" in held.problem
    for file in circle.folder.glob("*.npz"):
        file.rename(circle.recordings / file.name)
    assert circle.turn(61).stage == "TRAINING"


def test_what_stays_missing_stalls_it(circle: Circle) -> None:
    circle.report("fan-1", 2.0)
    circle.report("fan-2", 2.0)
    circle.turn(1)
    circle.record_all()
    for file in circle.recordings.iterdir():
        file.unlink()
    circle.turn(5)
    assert circle.turn(3700).stage == "COOLING"


def test_people_pause_resume_and_remove(circle: Circle) -> None:
    circle.to_approval()
    pause_policy(circle.engine, "fan-speed", who="ann", why="holidays", now=circle.now)
    with pytest.raises(FleetError, match=r"\[policy\.state\]"):
        pause_policy(circle.engine, "fan-speed", who="ann", why="", now=circle.now)
    circle.approve(2)
    assert circle.turn(1e6).stage == "APPROVAL"
    resume_policy(circle.engine, "fan-speed", who="ann", why="", now=circle.now)
    assert circle.turn().stage == "ROLLING_OUT"
    remove_policy(circle.engine, "fan-speed", who="ann", why="done", now=circle.now)
    assert list_policies(circle.engine).items == []
    with pytest.raises(FleetError, match=r"\[policy\.not_found\]"):
        get_policy(circle.engine, "fan-speed")
    assert circle.events()[-1].detail == "by ann: done"
    apply_policy(circle.engine, POLICY, who="ann", now=circle.now)
    assert get_policy(circle.engine, "fan-speed").cycle == 1, "cycles of the same name go on counting"


def test_a_policy_that_is_removed_leaves_no_run_and_no_candidate(circle: Circle) -> None:
    circle.report("fan-1", 2.0)
    circle.report("fan-2", 2.0)
    circle.turn(1)
    circle.record_all()
    run = circle.turn(5).state["run"]
    remove_policy(circle.engine, "fan-speed", who="ann", why="", now=circle.now)
    assert get_run(circle.engine, run).state == "CANCELLED"


def test_precision_and_age_begin_a_cycle_too(engine: Engine, tmp_path: Path) -> None:
    text = POLICY.replace("[when.drift]\ndevices = 0.5\nwindows = 50", "[when.precision]\nbelow = 0.5\nverdicts = 10")
    circle = Circle(engine, tmp_path)
    circle.begin(text=text)
    label = {"episode": 1, "device": "fan-1", "pipeline": "main", "model": MODEL, "from_at": 1.0, "to_at": 2.0}
    label |= {"from_t_s": 0.0, "to_t_s": 1.0, "resolved_at": circle.now - 1, "who": "ann"}
    with engine.begin() as connection:
        for number in range(9):
            row = {"case_id": number, "verdict": "false_alarm", "release": 1}
            connection.execute(tables.labels.insert().values(**label, **row))
        row = {"case_id": 100, "verdict": "false_alarm", "release": 7}
        connection.execute(tables.labels.insert().values(**label, **row))
    assert circle.turn(1).found == "0 of 9 alerts were true faults (10 verdicts are needed)"
    with engine.begin() as connection:
        connection.execute(tables.labels.insert().values(**label, case_id=50, verdict="true_fault", release=1))
    found = circle.turn(11)
    assert (found.stage, len(circle.asked())) == ("CAPTURING", 2)
    assert found.found == "1 of 10 alerts were true faults, 40% at most (limit 50%)"
    old = POLICY.replace("[when.drift]\ndevices = 0.5\nwindows = 50", "[when.age]\ndays = 30").replace(
        "fan-speed", "fan-age"
    )
    apply_policy(engine, old, who="ann", now=circle.now)
    circle.turn()
    assert get_policy(engine, "fan-age").stage == "WATCHING"
    circle.turn(31 * 86_400)
    assert get_policy(engine, "fan-age").stage == "CAPTURING"


def test_a_turn_costs_what_is_due(circle: Circle) -> None:
    for number in range(30):
        apply_policy(circle.engine, POLICY.replace("fan-speed", f"p-{number:02d}"), who="ann", now=circle.now)
    while circle.policies.turn(circle.now):
        pass
    statements: list[str] = []
    readers = circle.engine.get_execution_options()
    engines = [circle.engine, *(each for each in readers.values() if isinstance(each, Engine))]

    def count(*args: Any) -> None:
        statements.append(args[2])

    for each in engines:
        event.listen(each, "before_cursor_execute", count)
    try:
        circle.policies.turn(circle.now + 1)
    finally:
        for each in engines:
            event.remove(each, "before_cursor_execute", count)
    assert len([each for each in statements if "policies" in each]) == 1


def test_lists_have_pages(circle: Circle) -> None:
    apply_policy(circle.engine, POLICY.replace("fan-speed", "a-first"), who="ann", now=circle.now)
    circle.to_approval()
    page = list_policies(circle.engine, limit=1)
    assert [each.name for each in page.items] == ["a-first"]
    assert [each.name for each in list_policies(circle.engine, limit=1, after=page.next).items] == ["fan-speed"]
    newest = list_events(circle.engine, "fan-speed", limit=2)
    older = list_events(circle.engine, "fan-speed", limit=100, after=newest.next)
    assert [each.id for each in (*newest.items, *older.items)] == [each.id for each in circle.events()[::-1]]
    assert {each.kind for each in list_events(circle.engine, "fan-speed", cycle=0).items} == {"applied"}
    assert len(list_candidates(circle.engine, state="WAITING", model=MODEL).items) == 1
    assert list_candidates(circle.engine, model="pump").items == []
    with pytest.raises(FleetError, match=r"\[policy\.event_not_found\]"):
        explain_event(circle.engine, "a-first", circle.events()[0].id)


def test_an_alias_with_a_rule_is_waited_for(circle: Circle) -> None:
    set_rule(circle.engine, MODEL, "champion", PromotionRule(approvals=1), who="ann", why="", now=circle.now)
    circle.to_approval()
    circle.approve(2)
    circle.end_campaign(circle.turn(1).state["campaign"])
    assert circle.turn(60).stage == "PROMOTING"
    assert circle.turn(60).stage == "PROMOTING"
    [asked] = circle.rows(select(tables.promotions))
    assert (asked.state, asked.requested_by, asked.release) == ("waiting", "policy fan-speed", 2)
    assert get_alias(circle.engine, MODEL, "champion").release == 1
    approve_promotion(circle.engine, asked.id, who="bob", why="", now=circle.now)
    assert circle.turn(60).stage == "COOLING"
    assert get_alias(circle.engine, MODEL, "champion").release == 2


def test_a_promotion_that_is_rejected_stops_the_policy(circle: Circle) -> None:
    set_rule(circle.engine, MODEL, "champion", PromotionRule(approvals=1), who="ann", why="", now=circle.now)
    circle.to_approval()
    circle.approve(2)
    circle.end_campaign(circle.turn(1).state["campaign"])
    circle.turn(60)
    [asked] = circle.rows(select(tables.promotions))
    reject_promotion(circle.engine, asked.id, who="bob", why="too loud", now=circle.now)
    stopped = circle.turn(60)
    assert stopped.stage == "STOPPED"
    assert f"the promotion {asked.id} to champion was rejected" in stopped.why
