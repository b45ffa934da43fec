"""``wheeltapper alerts``: what devices raised, what it was worth, how many false alarms are accepted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    format_time,
    open_client,
    parse_changes,
    print_json,
    print_result,
    print_table,
)

__all__ = ["alerts_app"]

alerts_app = typer.Typer(
    help="Alerts: what they were worth, and how many false ones are accepted.", no_args_is_help=True
)
budget_app = typer.Typer(help="Alert budgets: how many false alarms are accepted.", no_args_is_help=True)
alerts_app.add_typer(budget_app, name="budget")
Device = Annotated[str | None, typer.Option(help="Only of this device.")]
Model = Annotated[str | None, typer.Option(help="Only of this model.")]
Limit = Annotated[int, typer.Option(help="How many at most.", min=1, max=1000)]


@alerts_app.command("list")
def alerts_list(
    device: Device = None,
    model: Model = None,
    severity: Annotated[str | None, typer.Option(help="normal, warning or critical.")] = None,
    point: Annotated[str | None, typer.Option(help="Only of this measuring point.")] = None,
    case: Annotated[int | None, typer.Option(help="Only of this case.")] = None,
    limit: Limit = 100,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List alerts, newest first."""
    query = {"device": device, "model": model, "severity": severity, "point": point, "case": case}
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", "/alerts", None, limit=limit, **query)["items"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            format_time(each["at"]),
            each["point"] or f"{each['device']}/{each['pipeline']}",
            each["channel"],
            each["severity"] if each["raised"] else "cleared",
            each["label"] or each["zone"] or ("slow wear" if each["slowly"] else None),
            each["case_id"],
        )
        for each in found
    ]
    print_table(("ALERT", "AT", "WHERE", "CHANNEL", "SEVERITY", "SAYS", "CASE"), rows, "no alert")


@alerts_app.command("value")
def alerts_value(
    days: Annotated[int, typer.Option(help="Of cases resolved in so many days.", min=1, max=3650)] = 365,
    model: Model = None,
    site: Annotated[str | None, typer.Option(help="Only of this site.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what alerts were worth, by model and site."""
    import time

    query = {"since": time.time() - days * 86_400.0, "model": model, "site": site}
    asked = {name: value for name, value in query.items() if value is not None}
    with open_client(url, token_file, data_dir) as client:
        found = list(client.items("/alert-value", asked))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["model"],
            each["site"],
            each["true_faults"],
            each["saves"],
            each["false_alarms"],
            each["unclear"],
            _precision(each),
            _lead(each),
        )
        for each in found
    ]
    columns = ("MODEL", "SITE", "TRUE FAULTS", "SAVES", "FALSE ALARMS", "UNCLEAR", "PRECISION", "LEAD TIME")
    print_table(columns, rows, "no case was resolved with a verdict yet")


@alerts_app.command("labels")
def alerts_labels(
    device: Device = None,
    model: Model = None,
    limit: Limit = 100,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List labels, newest first: what a pipeline measured, from when to when, and what it was."""
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", "/labels", None, limit=limit, device=device, model=model)["items"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            f"{each['device']}/{each['pipeline']}",
            format_time(each["from_at"]),
            format_time(each["to_at"]),
            each["verdict"],
            each["part"],
            each["case_id"],
        )
        for each in found
    ]
    print_table(("MEASURED BY", "FROM", "TO", "VERDICT", "PART", "CASE"), rows, "no label yet")


@alerts_app.command("limits")
def alerts_limits(
    change: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE sets a limit; repeatable.")] = None,
    reset: Annotated[list[str] | None, typer.Option(help="Back to its default, by name; repeatable.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show or set the limits of triage: how long it waits for what, and when a release is the cause."""
    limits = {**parse_changes(change or []), **dict.fromkeys(reset or [])}
    with open_client(url, token_file, data_dir) as client:
        found = client.call("PATCH" if limits else "GET", "/triage-limits", {"limits": limits} if limits else None)[
            "limits"
        ]
    if as_json:
        print_json(found)
        return
    rows = [
        (each["name"], *(f"{each[key]:g}" for key in ("value", "default", "low", "high")), each["set_by"])
        for each in found
    ]
    print_table(("LIMIT", "IN FORCE", "DEFAULT", "FROM", "TO", "SET BY"), rows, "")


@budget_app.command("set")
def budget_set(
    per_100_machine_weeks: Annotated[float, typer.Argument(help="False alarms per 100 machine-weeks.")],
    model: Annotated[str | None, typer.Option(help="Of this model; left out: of all.")] = None,
    site: Annotated[str | None, typer.Option(help="At this site; left out: at all.")] = None,
    days: Annotated[int, typer.Option(help="Over so many days.", min=1, max=730)] = 28,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """State how many false alarms are accepted; it replaces the budget of the same model and site."""
    body = {"per_100_machine_weeks": per_100_machine_weeks, "model": model, "site": site, "days": days}
    with open_client(url, token_file, data_dir) as client:
        made = client.call("POST", "/alert-budgets", body)
    print_result(made, f"budget {made['id']} is set", as_json)


@budget_app.command("list")
def budget_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List the budgets, how each is kept, and what may be done."""
    with open_client(url, token_file, data_dir) as client:
        found = list(client.items("/alert-budgets"))
    if as_json:
        print_json(found)
        return
    rows: list[tuple[object, ...]] = []
    for each in found:
        rows.append((each["id"], each["model"] or "all", each["site"] or "all", each["days"], each["said"]))
        rows += [("", "", "", "", suggestion) for suggestion in each["suggestions"]]
    print_table(("BUDGET", "MODEL", "SITE", "DAYS", "KEPT"), rows, "no budget is set")


@budget_app.command("remove")
def budget_remove(
    budget: int, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Remove a budget."""
    with open_client(url, token_file, data_dir) as client:
        client.call("POST", f"/alert-budgets/{budget}/delete")
    print_result({"id": budget, "removed": True}, f"budget {budget} is removed", as_json)


def _precision(each: dict[str, Any]) -> str | None:
    if each["precision"] is None:
        return None
    return f"{each['precision']:.0%} ({each['precision_low']:.0%} to {each['precision_high']:.0%})"


def _lead(each: dict[str, Any]) -> str | None:
    seconds = each["lead_seconds_median"]
    return None if seconds is None else f"{seconds / 86_400:.1f} days ({each['lead_count']})"
