"""Rules of aliases and promotions: each condition, four eyes, time, races, and the whole way over API and commands."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, Float, Integer, insert, select

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.promotion.facts import named_seconds
from wheeltapper_fleet.promotion.service import (
    EXPIRES_SECONDS,
    approve_promotion,
    promotions_turn,
    reject_promotion,
    request_promotion,
    set_alias,
)
from wheeltapper_fleet.promotion.views import get_promotion, list_promotion_log, list_promotions
from wheeltapper_fleet.registry import aliases
from wheeltapper_fleet.registry.promotion import get_rule, remove_rule, set_rule
from wheeltapper_fleet.registry.promotion_rules import Facts, PromotionRule, Quality, QualityNeed, judge

MODEL = "bearing"
HOUR = 3600.0


def publish(engine: Engine, *gates: dict[str, Any]) -> None:
    """Releases 1 to 3, the second with gates."""
    with engine.begin() as connection:
        for number in (1, 2, 3):
            row: dict[str, Any] = {
                "model": MODEL,
                "release": number,
                "path": f"releases/{MODEL}/{number}/manifest.json",
            }
            row |= {"sha256": "1" * 64, "length": 10, "published_at": 0.0, "published_by": "t"}
            row["manifest"] = {"gates": list(gates)} if number == 2 else {}
            connection.execute(insert(tables.releases).values(row))


def rule(engine: Engine, **asks: Any) -> None:
    set_rule(engine, MODEL, "champion", PromotionRule(**asks), who="root", why="policy", now=1.0)


def ask(engine: Engine, release: int = 2, now: float = 10.0, who: str = "ann") -> int:
    return request_promotion(engine, MODEL, "champion", release, who=who, why="better", now=now)


def champion(engine: Engine) -> int | None:
    found = [each.release for each in aliases.list_aliases(engine, MODEL).items if each.alias == "champion"]
    return found[0] if found else None


def missing(engine: Engine, number: int, now: float) -> list[str]:
    return [each.name for each in get_promotion(engine, number, now).conditions if not each.met]


def add_case(engine: Engine, number: int, **values: Any) -> None:
    row: dict[str, Any] = {}
    for column in tables.cases.columns:
        if not column.nullable:
            row[column.name] = 0 if isinstance(column.type, Integer | Float) else ""
    row |= {"id": number, "why": [], "raised": True, "state": "open", "model": MODEL, "release": 2, "worst": "critical"}
    with engine.begin() as connection:
        connection.execute(insert(tables.cases).values({**row, **values}))


def add_campaign(engine: Engine, name: str, state: str, committed: int, release: int = 2) -> None:
    row: dict[str, Any] = {"id": name, "version": 1, "state": state, "spec": {}, "waves": [], "reason": ""}
    with engine.begin() as connection:
        connection.execute(insert(tables.campaigns).values(**row, created_at=1.0, updated_at=1.0))
        connection.execute(insert(tables.campaign_releases).values(model=MODEL, release=release, campaign=name))
        for state_of, count in (("COMMITTED", committed), ("FAILED", 7)):
            tally = {"campaign": name, "wave": 0, "state": state_of, "n": count, "assigned": count}
            connection.execute(insert(tables.campaign_tallies).values(tally))


# --- the rule, pure ---


@given(
    rule=st.builds(
        PromotionRule,
        gates=st.lists(st.sampled_from(["auroc", "size"]), max_size=2),
        was_alias=st.sampled_from([None, "candidate"]),
        approvals=st.integers(0, 3),
        campaign_devices=st.integers(0, 3),
        no_open_critical=st.booleans(),
        quality=st.sampled_from([None, QualityNeed(figure="recall", limit=0.8), QualityNeed(figure="mae", limit=0.8)]),
    ),
    facts=st.builds(
        Facts,
        gates=st.dictionaries(st.sampled_from(["auroc", "size"]), st.booleans()),
        named_seconds=st.one_of(st.none(), st.floats(0, 1e6)),
        campaign_devices=st.one_of(st.none(), st.integers(0, 5)),
        open_critical=st.sampled_from([(), (3,)]),
        quality=st.sampled_from([None, Quality(why="few"), Quality(0.9, 0.85, 0.95), Quality(0.7, 0.6, 0.75)]),
    ),
    approvals=st.integers(0, 4),
)
def test_a_rule_is_met_only_if_every_condition_of_it_is(rule: PromotionRule, facts: Facts, approvals: int) -> None:
    expected = (
        all(facts.gates.get(name) is True for name in rule.gates)
        and (rule.was_alias is None or facts.named_seconds is not None)
        and approvals >= rule.approvals
        and (facts.campaign_devices or 0) >= rule.campaign_devices
        and (not rule.no_open_critical or not facts.open_critical)
        and (
            rule.quality is None
            or (facts.quality or Quality()).value == {"recall": 0.9, "mae": 0.7}[rule.quality.figure]
        )
    )
    conditions = judge(rule, facts, approvals)
    assert all(each.met for each in conditions) == expected
    stated = [rule.was_alias is not None, rule.approvals > 0, rule.campaign_devices > 0, rule.no_open_critical]
    stated.append(rule.quality is not None)
    assert len(conditions) == len(rule.gates) + sum(stated)


# --- its facts, from records ---


def test_each_condition_is_judged_by_the_records(engine: Engine) -> None:
    publish(engine, {"name": "auroc", "passed": True, "value": 0.9, "limit": 0.8})
    rule(
        engine, gates=["auroc", "size"], was_alias="candidate", was_alias_hours=2, approvals=1, campaign_devices=5,
        no_open_critical=True,
    )  # fmt: skip
    add_case(engine, 1)
    add_case(engine, 2, worst="warning")
    add_campaign(engine, "c-1", "RUNNING", 50)
    add_campaign(engine, "c-2", "COMPLETED", 4)
    number = ask(engine)
    expected = {
        "gate auroc": (True, "passed"),
        "gate size": (False, "not in its manifest"),
        "was_alias": (False, "never"),
        "campaign_devices": (False, "on 4"),
        "no_open_critical": (False, "case 1"),
        "approvals": (False, "0"),
    }
    found = get_promotion(engine, number, 10.0)
    assert {each.name: (each.met, each.found) for each in found.conditions} == expected
    assert (found.state, champion(engine)) == ("waiting", None)
    rule(engine, gates=["auroc"], was_alias="candidate", was_alias_hours=2, campaign_devices=5, no_open_critical=True)
    turn = promotions_turn(engine)
    set_alias(engine, MODEL, "candidate", 2, who="ann", why="", now=100.0)
    with engine.begin() as connection:
        connection.execute(tables.cases.update().where(tables.cases.c.id == 1).values(state="resolved"))
    add_campaign(engine, "c-3", "COMPLETED", 5)
    turn(100.0 + 2 * HOUR - 1)
    assert missing(engine, number, 100.0 + 2 * HOUR - 1) == ["was_alias"]
    turn(100.0 + 2 * HOUR)
    done = get_promotion(engine, number, 1e6)
    assert (done.state, done.ended_at, champion(engine)) == ("promoted", 100.0 + 2 * HOUR, 2)
    (change,) = aliases.list_alias_changes(engine, MODEL, "champion").items
    assert (change.after, change.who, change.why) == (2, "ann", f"promotion {number}: better")


def test_hours_under_an_alias_add_up(engine: Engine) -> None:
    publish(engine)
    for at, release in ((0.0, 1), (10.0, 2), (30.0, 1), (35.0, 3), (60.0, 2)):
        set_alias(engine, MODEL, "candidate", release, who="ann", why="", now=at)
    aliases.remove_alias(engine, MODEL, "candidate", who="ann", why="", now=70.0)
    with reading(engine) as connection:
        total = {number: named_seconds(connection, MODEL, "candidate", number, 1000.0) for number in (1, 2, 3, 4)}
        assert total == {1: 15.0, 2: 30.0, 3: 25.0, 4: None}
        assert named_seconds(connection, MODEL, "champion", 1, 1000.0) is None


# --- who may ---


def test_four_eyes(engine: Engine) -> None:
    publish(engine)
    rule(engine, approvals=2)
    number = ask(engine)
    with pytest.raises(FleetError, match=r"\[promotion\.four_eyes\]"):
        approve_promotion(engine, number, who="ann", why="", now=11.0)
    approve_promotion(engine, number, who="bob", why="read the card", now=12.0)
    with pytest.raises(FleetError, match=r"\[promotion\.four_eyes\]"):
        approve_promotion(engine, number, who="bob", why="", now=13.0)
    assert (missing(engine, number, 13.0), champion(engine)) == (["approvals"], None)
    approve_promotion(engine, number, who="eve", why="", now=14.0)
    assert (get_promotion(engine, number, 15.0).approved_by, champion(engine)) == (["bob", "eve"], 2)
    for refused in (approve_promotion, reject_promotion):
        with pytest.raises(FleetError, match=r"\[promotion\.ended\]"):
            refused(engine, number, who="kim", why="late", now=16.0)
    events = [each.event for each in reversed(list_promotion_log(engine, MODEL).items)]
    assert events == ["rule set", "requested", "approved", "approved", "promoted"]


def test_an_alias_with_a_rule_is_not_set_past_it(engine: Engine) -> None:
    publish(engine)
    set_alias(engine, MODEL, "champion", 1, who="ann", why="", now=2.0)
    rule(engine, approvals=1)
    for put in (set_alias, aliases.set_alias):  # with facts, and by somebody who forgets them
        with pytest.raises(FleetError, match=r"\[alias\.rule\]") as caught:
            put(engine, MODEL, "champion", 2, who="ann", why="", now=3.0)
        assert caught.value.status == 409
    assert champion(engine) == 1
    rule(engine, gates=["auroc"])
    with pytest.raises(FleetError, match=r"gate auroc: needs passed, found not in its manifest.*\[alias\.rule\]"):
        set_alias(engine, MODEL, "champion", 2, who="ann", why="", now=3.0)
    rule(engine)  # asks nothing
    assert set_alias(engine, MODEL, "champion", 2, who="ann", why="", now=4.0).release == 2
    rule(engine, approvals=1)
    remove_rule(engine, MODEL, "champion", who="root", why="over", now=5.0)
    assert set_alias(engine, MODEL, "champion", 3, who="ann", why="", now=6.0).release == 3


def test_going_back_needs_nothing_where_the_rule_says_so(engine: Engine) -> None:
    publish(engine)
    for at, release in ((1.0, 1), (2.0, 2)):
        set_alias(engine, MODEL, "champion", release, who="ann", why="", now=at)
    rule(engine, approvals=2, may_return=True)
    number = ask(engine, 1)
    assert (get_promotion(engine, number, 10.0).state, champion(engine)) == ("promoted", 1)
    with pytest.raises(FleetError, match=r"\[alias\.rule\]"):
        set_alias(engine, MODEL, "champion", 3, who="ann", why="", now=11.0)


def test_a_rule_that_cannot_be_read_allows_nothing(engine: Engine) -> None:
    publish(engine)
    rule(engine, approvals=1)
    with engine.begin() as connection:
        connection.execute(tables.promotion_rules.update().values(rule={"from_a_later_version": True}))
    for attempt in (
        lambda: set_alias(engine, MODEL, "champion", 2, who="ann", why="", now=3.0),
        lambda: ask(engine),
        lambda: get_rule(engine, MODEL, "champion"),
    ):
        with pytest.raises(FleetError, match=r"\[promotion_rule\.unreadable\]"):
            attempt()
    assert (champion(engine), list_promotions(engine).items) == (None, [])
    rule(engine)
    assert get_rule(engine, MODEL, "champion").rule == PromotionRule()


# --- how they end ---


def test_promotions_are_superseded_rejected_or_expire(engine: Engine) -> None:
    publish(engine)
    rule(engine, approvals=1)
    first = ask(engine, 2)
    second = ask(engine, 3, 11.0)
    assert get_promotion(engine, first, 12.0).state == "superseded"
    with pytest.raises(FleetError, match=r"\[promotion\.reason\]"):
        reject_promotion(engine, second, who="bob", why=" ", now=12.0)
    reject_promotion(engine, second, who="bob", why="too loud", now=12.0)
    assert get_promotion(engine, second, 13.0).log[-1].detail == "too loud"
    third = ask(engine, 2, 14.0)
    turn = promotions_turn(engine)
    turn(14.0 + EXPIRES_SECONDS)
    assert get_promotion(engine, third, 15.0).state == "waiting"
    turn(15.0 + EXPIRES_SECONDS)
    assert get_promotion(engine, third, 16.0).state == "expired"
    assert champion(engine) is None
    assert [each.state for each in list_promotions(engine).items] == ["expired", "rejected", "superseded"]
    page = list_promotions(engine, MODEL, "rejected", limit=1)
    assert ([each.id for each in page.items], page.next) == ([second], None)
    for release, code in ((9, "release.not_found"),):
        with pytest.raises(FleetError, match=rf"\[{code}\]"):
            ask(engine, release)
    rule(engine)
    ask(engine, 2, 20.0)
    with pytest.raises(FleetError, match=r"\[promotion\.done\]"):
        ask(engine, 2, 21.0)


def test_two_approvers_at_once_promote_once(engine: Engine) -> None:
    publish(engine)
    rule(engine, approvals=2)
    number = ask(engine)
    errors: list[FleetError] = []

    def approve(who: str) -> None:
        try:
            approve_promotion(engine, number, who=who, why="", now=11.0)
        except FleetError as error:
            errors.append(error)

    threads = [threading.Thread(target=approve, args=(who,)) for who in ("bob", "eve", "kim")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [error.code for error in errors] == ["promotion.ended"]
    assert (champion(engine), len(aliases.list_alias_changes(engine, MODEL).items)) == (2, 1)


def test_the_clock_looks_at_a_bounded_number_a_turn_and_at_all_in_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wheeltapper_fleet.promotion import service

    monkeypatch.setattr(service, "_A_TURN", 2)
    publish(engine)
    rules = [f"a-{number}" for number in range(5)]
    for alias in rules:
        set_rule(engine, MODEL, alias, PromotionRule(approvals=1), who="root", why="", now=1.0)
        request_promotion(engine, MODEL, alias, 1, who="ann", why="", now=1.0)
        remove_rule(engine, MODEL, alias, who="root", why="", now=2.0)
    turn, more, looked = promotions_turn(engine), True, []
    while more:
        more = turn(3.0)
        looked.append(len(list_promotions(engine, state="waiting").items))
    assert looked == [3, 1, 0]


# --- over the API and by commands ---


def test_the_whole_way_over_api_and_commands(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(server.engine)
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    tokens = {
        "root": server.token,
        "ann": server.token_of("release-manager", name="ann"),
        "bob": server.token_of("approver", name="bob"),
    }

    def run(who: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setenv("WHEELTAPPER_API_TOKEN", tokens[who])
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "release", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    asks = ("rule", "set", MODEL, "champion", "--approvals", 1, "--was-alias", "candidate", "--hours", 0)
    assert run("ann", *asks)[2].endswith("[api.forbidden]\n")
    code, out, err = run("root", *asks, "--why", "audit", "--if-match", 0)
    assert (code, out) == (0, "champion of bearing asks: candidate for 0 h, 1 approvals\n"), err
    assert run("root", *asks, "--if-match", 0)[2].endswith("[promotion_rule.conflict]\n")
    assert "candidate for 0 h" in run("bob", "rule", "show")[1]
    assert run("ann", "alias", "set", MODEL, "champion", 2)[2].endswith("[alias.rule]\n")
    code, out, err = run("ann", "promote", MODEL, 2, "--to", "champion", "--why", "better")
    assert (code, out.splitlines()) == (0, [
        "promotion 1 waits: bearing 2 is to be champion",
        "  missing: was_alias: needs candidate for 0 h, found never",
        "  missing: approvals: needs 1 by others than who asked, found 0",
    ]), err  # fmt: skip
    assert run("ann", "promotions", "approve", 1)[2].endswith("[api.forbidden]\n")
    assert run("ann", "alias", "set", MODEL, "candidate", 2)[0] == 0
    code, out, err = run("bob", "promotions", "approve", 1, "--why", "read the card")
    assert (code, out.splitlines()[0]) == (0, "bearing 2 is champion (promotion 1)"), err
    shown = run("bob", "promotions", "show", 1)[1]
    assert "approved by bob: read the card" in shown
    (listed,) = json.loads(run("bob", "promotions", "list", "--state", "promoted", "--json")[1])
    assert (listed["release"], listed["requested_by"]) == (2, "ann")
    assert [each["event"] for each in json.loads(run("bob", "promotions", "log", MODEL, "--json")[1])] == [
        "promoted", "approved", "requested", "rule set"
    ]  # fmt: skip
    code, out, err = run("ann", "promote", MODEL, 3, "--to", "champion")
    assert run("bob", "promotions", "reject", 2, "--why", "too loud")[1].splitlines()[0].endswith(": rejected")
    assert run("root", "rule", "remove", MODEL, "champion")[0] == 0
    assert run("root", "rule", "show")[1] == "no alias has a rule\n"
    assert run("ann", "promote", MODEL, 3, "--to", "champion")[1] == "bearing 3 is champion (promotion 3)\n"
    with server.http() as http:
        for body, refusal in (
            ({"rule": {"was_alias_hours": 3}}, "promotion_rule.invalid"),
            ({"rule": {"min_quality": 1}}, "api.invalid"),
            ({"rule": {"approvals": 11}}, "api.invalid"),
        ):
            refused = http.put(f"/api/v1/models/{MODEL}/aliases/champion/rule", json=body)
            assert (refused.status_code, refused.json()["code"]) == (422, refusal)
        assert http.get("/api/v1/promotions/99").json()["code"] == "promotion.not_found"
        routes = [each["route"] for each in http.get("/api/v1/audit").json()["items"]]
        assert {"POST /promotions/{promotion}/approve", "PUT /models/{model}/aliases/{alias}/rule"} <= set(routes)


def test_the_log_is_only_added_to(engine: Engine) -> None:
    publish(engine)
    seen: list[tuple[Any, ...]] = []
    asked: list[int] = []

    def log() -> list[tuple[Any, ...]]:
        with reading(engine) as connection:
            return [tuple(row) for row in connection.execute(select(tables.promotion_log).order_by("id"))]

    steps: list[Callable[[], Any]] = [
        lambda: rule(engine, approvals=1),
        lambda: ask(engine),
        lambda: asked.append(ask(engine, 3, 11.0)),
        lambda: approve_promotion(engine, asked[0], who="bob", why="", now=12.0),
        lambda: remove_rule(engine, MODEL, "champion", who="root", why="", now=13.0),
    ]
    for step in steps:
        step()
        now = log()
        assert now[: len(seen)] == seen
        assert len(now) > len(seen)
        seen = now
