"""Intervals, the value ledger, machine time and alert budgets."""

from __future__ import annotations

import json

import pytest
from scipy import stats
from sqlalchemy import Engine, insert, select
from typer.testing import CliRunner

from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.alerts.budget import WEEK_SECONDS, Source, realise
from wheeltapper_fleet.alerts.exposure import Exposure
from wheeltapper_fleet.alerts.schemas import BudgetRequest
from wheeltapper_fleet.alerts.service import Feedback
from wheeltapper_fleet.alerts.statistics import count_interval, median, share_interval
from wheeltapper_fleet.alerts.tables import exposure
from wheeltapper_fleet.alerts.value import budget_turn, list_budgets, list_labels, list_value, set_budget
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.tables import device_pipelines, devices
from wheeltapper_protocols.wire.messages import Severity

DAY = 86_400.0


@pytest.mark.parametrize("count", [0, 1, 2, 5, 20, 300])
def test_the_interval_of_a_count_is_near_the_exact_one(count: int) -> None:
    low, high = count_interval(count)
    assert low == pytest.approx(stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0, rel=0.02, abs=0.03)
    assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 2, rel=0.02)


@pytest.mark.parametrize(("successes", "of"), [(0, 5), (1, 10), (9, 10), (10, 10), (70, 100)])
def test_the_interval_of_a_share_is_wilsons(successes: int, of: int) -> None:
    wanted = stats.binomtest(successes, of).proportion_ci(method="wilson")
    assert share_interval(successes, of) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_nothing_seen_says_nothing() -> None:
    assert (share_interval(0, 0), median([]), median([3.0, 1.0]), median([5.0])) == ((0.0, 1.0), None, 2.0, 5.0)


def test_a_budget_is_judged_only_where_the_findings_suffice() -> None:
    weeks = 1000 * WEEK_SECONDS
    assert realise(1.0, 2, weeks, 0, ()).status == "kept"
    over = realise(1.0, 40, weeks, 0, [Source("release", "3 of m", 30), Source("point", "p", 5)])
    assert (over.status, over.rate) == ("exceeded", 4.0)
    assert over.suggestions == (
        "30 of 40 false alarms come from release 3 of m: compare it with the release before, or go back to that",
    )
    assert "spread out" in realise(1.0, 40, weeks, 0, [Source("point", "p", 5)]).suggestions[0]
    unsure = realise(1.0, 1, 50 * WEEK_SECONDS, 9, ())
    assert (unsure.status, "9 cases have no finding" in unsure.suggestions[0]) == ("unsure", True)
    nothing = realise(1.0, 3, 0.0, 0, ())
    assert (nothing.status, nothing.rate) == ("unsure", None)


@pytest.fixture
def works(engine: Engine) -> Works:
    return Works(engine)


def found(works: Works, device: str, at: float, feedback: Feedback, took: float = DAY) -> None:
    """An alert of a device, and what was found ``took`` seconds later."""
    works.alert(at, device, severity=Severity.CRITICAL)
    works.turn(at + 1)
    case = next(each for each in works.open() if each.device == device)
    works.cases.resolve(case.id, case.version, "ann", at + took, feedback)


def test_the_ledger_counts_saves_failures_and_false_alarms(works: Works) -> None:
    found(works, "gw-1", 1000.0, Feedback(verdict="true_fault", part="outer race"), 2 * DAY)
    found(works, "gw-2", 1000.0, Feedback(verdict="true_fault", failed_at=1000.0 + 4 * DAY), 5 * DAY)
    for number in range(3):
        found(works, f"d-{number}", 1000.0, Feedback(verdict="false_alarm"))
    found(works, "d-9", 1000.0, Feedback(verdict="unclear"))
    first = list_value(works.engine, 0.0, 1e9, limit=1)
    [unmapped] = first.items
    assert (unmapped.site, unmapped.true_faults, unmapped.false_alarms, unmapped.unclear) == (None, 0, 3, 1)
    assert (unmapped.precision, unmapped.precision_low) == (0.0, 0.0)
    [mapped] = list_value(works.engine, 0.0, 1e9, after=first.next).items
    assert (mapped.site, mapped.true_faults, mapped.saves, mapped.failures) == ("works", 2, 1, 1)
    assert (mapped.precision, mapped.lead_seconds_median, mapped.lead_count) == (1.0, 3 * DAY, 2)
    assert list_value(works.engine, 9e8, 1e9).items == []
    assert [row.site for row in list_value(works.engine, 0.0, 1e9, site="works").items] == ["works"]
    labels = list_labels(works.engine, device="gw-1").items
    assert [(each.point, each.verdict, each.part) for each in labels] == [("front", "true_fault", "outer race")]


def test_feedback_changes_the_rank_of_what_comes_next(works: Works) -> None:
    works.alert(100.0, "new-1", severity=Severity.CRITICAL)
    works.turn(101.0)
    before = works.open()[0].risk
    for number in range(6):
        found(works, f"d-{number}", 1000.0, Feedback(verdict="false_alarm"))
    works.alert(1e6, "new-2", severity=Severity.CRITICAL)
    works.turn(1e6 + 1)
    after = next(case for case in works.open() if case.device == "new-2")
    assert after.risk < before
    assert "m was right in 0 of 6 cases that were looked into" in after.why


def test_machine_time_counts_machines_and_not_points_nor_what_is_offline(works: Works) -> None:
    rows = [("gw-1", True), ("gw-2", True), ("alone", True), ("gone", False)]
    with works.engine.begin() as connection:
        for name, online in rows:
            connection.execute(insert(devices).values(id=name, tags={}, online=online, site="yard", state="active"))
            connection.execute(insert(device_pipelines).values(device=name, pipeline="main", model="m", release=1))
    watched = Exposure(works.engine)
    for now in (DAY + 100.0, DAY + 700.0, DAY + 1300.0, DAY + 90_000.0):
        assert not watched.turn(now)
    with reading(works.engine) as connection:
        counted = {(row.day, row.site): row.seconds for row in connection.execute(select(exposure))}
    # press (two points of gw-1) and fan at works, one pipeline by itself; a pause of the service counts 20 minutes
    assert counted == {
        (DAY, "works"): 2 * 1200.0,
        (DAY, "yard"): 1200.0,
        (2 * DAY, "works"): 2 * 1200.0,
        (2 * DAY, "yard"): 1200.0,
    }


def test_a_budget_that_is_exceeded_is_told_once_and_shown_with_what_to_do(works: Works) -> None:
    now = 100 * DAY
    with works.engine.begin() as connection:
        values = {"day": int(now - DAY), "model": "m", "site": "", "seconds": 100 * WEEK_SECONDS}
        connection.execute(insert(exposure).values(values))
    set_budget(works.engine, BudgetRequest(model="m", per_100_machine_weeks=1.0), "ann", now)
    set_budget(works.engine, BudgetRequest(per_100_machine_weeks=99.0), "ann", now)
    turn = budget_turn(works.engine, works._announce)
    turn(now)
    assert works.told == []
    for number in range(8):
        found(works, f"d-{number}", now - 2 * DAY, Feedback(verdict="false_alarm"))
    works.told.clear()
    for _ in range(2):
        turn(now)
    assert [(each.kind.value, each.model) for each in works.told] == [("budget.exceeded", "m")]
    strict, lax = list_budgets(works.engine, now).items
    assert (strict.status, strict.false_alarms, strict.rate) == ("exceeded", 8, 8.0)
    assert "8 of 8 false alarms come from release 1 of m" in strict.suggestions[0]
    assert (lax.model, lax.status) == (None, "kept")
    set_budget(works.engine, BudgetRequest(model="m", per_100_machine_weeks=50.0), "ann", now)
    assert [each.status for each in list_budgets(works.engine, now).items] == ["kept", "kept"]


def test_the_command_line_shows_value_labels_and_budgets(server: AdminServer) -> None:
    works = Works(server.engine)
    environment = {"WHEELTAPPER_URL": server.url, "WHEELTAPPER_API_TOKEN": server.token, "COLUMNS": "200"}

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["alerts", *arguments], env=environment)
        assert done.exit_code == code, done.output
        return done.output

    import time

    assert "no case was resolved" in run("value")
    found(works, "gw-2", time.time() - 5 * DAY, Feedback(verdict="true_fault", part="bearing"), 2 * DAY)
    assert "100% (" in run("value")
    assert "2.0 days (1)" in run("value", "--model", "m", "--site", "works")
    assert "no case was resolved" in run("value", "--days", "1")
    assert "bearing" in run("labels", "--device", "gw-2")
    assert "hub" in run("list", "--point", "hub")
    assert "is set" in run("budget", "set", "2", "--model", "m")
    assert "no machine was watched" in run("budget", "list")
    [shown] = json.loads(run("budget", "list", "--json"))
    assert "is removed" in run("budget", "remove", str(shown["id"]))
    assert "budget.not_found" in run("budget", "remove", str(shown["id"]), code=1)
