"""``wheeltapper release rule|promote|promotions``: what an alias asks of a release, and who asks, approves, rejects."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
    printable,
)

__all__ = ["promotions_app", "release_promote", "rule_app"]

rule_app = typer.Typer(help="Rules: what an alias asks of a release before it may name it.", no_args_is_help=True)
promotions_app = typer.Typer(
    help="Promotions: who asked that an alias should name a release, and what became of it.", no_args_is_help=True
)

Why = Annotated[str, typer.Option(help="The reason, for the record.")]
IfMatch = Annotated[
    str | None,
    typer.Option("--if-match", help="Refuse if the version that `rule show --json` gives is another one; 0: none yet."),
]
Number = Annotated[int, typer.Argument(min=1, help="Of the promotion.")]
Most = Annotated[int, typer.Option(min=1, max=100_000, help="How many are listed.")]


@rule_app.command("set")
def rule_set(
    model: str,
    alias: str,
    gate: Annotated[
        list[str] | None, typer.Option(help="A gate that its manifest must have, and have passed; repeatable.")
    ] = None,
    was_alias: Annotated[str | None, typer.Option(help="It was this alias of the model before.")] = None,
    hours: Annotated[float, typer.Option(min=0, max=8760, help="For so many hours in all.")] = 0.0,
    approvals: Annotated[
        int, typer.Option(min=0, max=10, help="Persons who approve: approvers or admins, none of whom asked.")
    ] = 0,
    campaign_devices: Annotated[
        int, typer.Option(min=0, max=10_000_000, help="A completed campaign committed it on so many devices.")
    ] = 0,
    no_open_critical: Annotated[
        bool, typer.Option("--no-open-critical", help="No case about it that was critical is open.")
    ] = False,
    quality: Annotated[
        str | None,
        typer.Option(help="Estimated without labels, with 95 % confidence, e.g. recall=0.8; of mae and rmse at most."),
    ] = None,
    quality_hours: Annotated[
        float, typer.Option(min=0.01, max=8760, help="With --quality: reports of so many hours count.")
    ] = 168.0,
    may_return: Annotated[
        bool, typer.Option("--may-return", help="The alias may go back at once to what it named before.")
    ] = False,
    why: Why = "",
    if_match: IfMatch = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias have a rule, in place of the one that it has. Needs the role admin."""
    rule: dict[str, Any] = {"gates": gate or [], "approvals": approvals, "campaign_devices": campaign_devices}
    rule |= {"no_open_critical": no_open_critical, "may_return": may_return, "was_alias": was_alias}
    rule["was_alias_hours"] = hours
    if quality is not None:
        figure, _, limit = quality.partition("=")
        try:
            rule["quality"] = {"figure": figure, "limit": float(limit), "hours": quality_hours}
        except ValueError:
            fail("cli.quality", f"{quality!r} says no limit; write it as recall=0.8", BAD_INPUT)
    with open_client(url, token_file, data_dir) as client:
        made = client.set_promotion_rule(model, alias, rule, why, if_match)
    print_result(made, f"{alias} of {model} asks: {_spelled(made['rule'])}", as_json)


@rule_app.command("show")
def rule_show(
    model: Annotated[str | None, typer.Argument(help="Of this model [default: of all].")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what aliases ask of a release."""
    with open_client(url, token_file, data_dir) as client:
        found = client.promotion_rules(model)
    if as_json:
        print_json(found)
        return
    rows = [
        (each["model"], each["alias"], _spelled(each["rule"]), format_time(each["set_at"]), each["set_by"])
        for each in found
    ]
    print_table(("MODEL", "ALIAS", "ASKS", "SET", "BY"), rows, "no alias has a rule")


@rule_app.command("remove")
def rule_remove(
    model: str,
    alias: str,
    why: Why = "",
    if_match: IfMatch = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias ask nothing of a release. Needs the role admin."""
    with open_client(url, token_file, data_dir) as client:
        client.remove_promotion_rule(model, alias, why, if_match)
    print_result({"model": model, "alias": alias, "rule": None}, f"{alias} of {model} asks nothing now", as_json)


def release_promote(
    model: str,
    release: int,
    to: Annotated[str, typer.Option(help="The alias that is to name it, e.g. champion.")],
    why: Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask that an alias should name a release; it does as soon as the alias's rule is met, at once if it is."""
    with open_client(url, token_file, data_dir) as client:
        made = client.request_promotion(model, to, release, why)
    if as_json:
        print_json(made)
        return
    _print_promotion(made)


@promotions_app.command("list")
def promotions_list(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only waiting, promoted, rejected, superseded or expired ones.")
    ] = None,
    limit: Most = 100,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List promotions, newest first."""
    with open_client(url, token_file, data_dir) as client:
        found = client.promotions(limit, model=model, state=state)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            each["model"],
            each["release"],
            each["alias"],
            each["state"],
            format_time(each["requested_at"]),
            each["requested_by"],
            each["why"] or None,
        )
        for each in found
    ]
    print_table(("ID", "MODEL", "RELEASE", "TO", "STATE", "ASKED", "BY", "WHY"), rows, "no promotion was asked for")


@promotions_app.command("show")
def promotions_show(
    promotion: Number,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a promotion: each condition of its rule with what was found, who approved, what happened."""
    with open_client(url, token_file, data_dir) as client:
        found = client.promotion(promotion)
    if as_json:
        print_json(found)
        return
    _print_promotion(found)
    for each in found["log"]:
        detail = f": {each['detail']}" if each["detail"] else ""
        typer.echo(printable(f"{format_time(each['at'])} {each['event']} by {each['who']}{detail}"))


@promotions_app.command("approve")
def promotions_approve(
    promotion: Number,
    why: Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Approve a promotion that another person asked for. Needs the role approver or admin."""
    _answer(promotion, "approve", why, url, token_file, data_dir, as_json)


@promotions_app.command("reject")
def promotions_reject(
    promotion: Number,
    why: Annotated[str, typer.Option(help="The reason; who asked reads it.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Reject a promotion. Needs the role approver or admin."""
    _answer(promotion, "reject", why, url, token_file, data_dir, as_json)


@promotions_app.command("log")
def promotions_log(
    model: str,
    limit: Most = 100,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List everything that happened to the rules and promotions of a model, newest first."""
    with open_client(url, token_file, data_dir) as client:
        found = client.promotion_log(model, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            format_time(each["at"]),
            each["alias"],
            each["promotion"],
            each["release"],
            each["event"],
            each["who"],
            each["detail"] or None,
        )
        for each in found
    ]
    print_table(("AT", "ALIAS", "PROMOTION", "RELEASE", "EVENT", "BY", "DETAIL"), rows, f"nothing of {model} yet")


def _answer(promotion: int, answer: str, why: str, url: Any, token_file: Any, data_dir: Any, as_json: bool) -> None:
    with open_client(url, token_file, data_dir) as client:
        made = client.answer_promotion(promotion, answer, why)
    if as_json:
        print_json(made)
        return
    _print_promotion(made)


def _print_promotion(found: dict[str, Any]) -> None:
    release = f"{found['model']} {found['release']}"
    told = {
        "waiting": f"promotion {found['id']} waits: {release} is to be {found['alias']}",
        "promoted": f"{release} is {found['alias']} (promotion {found['id']})",
    }
    typer.echo(told.get(found["state"], f"promotion {found['id']} of {release} to {found['alias']}: {found['state']}"))
    for each in found["conditions"]:
        mark = "met" if each["met"] else "missing"
        typer.echo(printable(f"  {mark}: {each['name']}: needs {each['needed']}, found {each['found']}"))


def _spelled(rule: dict[str, Any]) -> str:
    """A rule in words."""
    said = [f"gate {name}" for name in rule["gates"]]
    if rule["was_alias"] is not None:
        said.append(f"{rule['was_alias']} for {rule['was_alias_hours']:g} h")
    if rule["approvals"]:
        said.append(f"{rule['approvals']} approvals")
    if rule["campaign_devices"]:
        said.append(f"a campaign completed on {rule['campaign_devices']} devices")
    if rule["no_open_critical"]:
        said.append("no open case that was critical")
    if (need := rule.get("quality")) is not None:
        side = "at most" if need["figure"] in ("mae", "rmse") else "at least"
        said.append(f"{need['figure']} estimated {side} {need['limit']:g} in {need['hours']:g} h")
    if rule["may_return"]:
        said.append("or: it named it before")
    return ", ".join(said) or "nothing"
