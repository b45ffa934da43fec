"""``wheeltapper campaign``: create, list and steer campaigns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import BAD_INPUT, fail, format_time, open_client, print_json, print_table, printable

__all__ = ["campaign_app"]

campaign_app = typer.Typer(help="Campaigns: take a release to devices, wave by wave.", no_args_is_help=True)


@campaign_app.command("create")
def campaign_create(
    spec: Annotated[Path, typer.Option(help="JSON file with the specification; - reads stdin.")],
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a campaign."""
    with open_client(url, token_file, data_dir) as client:
        made = client.create_campaign(_read_spec(spec))
        for warning in made["warnings"]:
            typer.echo(f"warning: {printable(warning)}", err=True)
        if start:
            made = client.act(made["id"], "start", made["version"])
    _show_campaign(made, as_json)


@campaign_app.command("plan")
def campaign_plan(
    spec: Annotated[Path, typer.Argument(help="JSON file with the specification; - reads stdin.")],
    outcome: Annotated[
        str | None, typer.Option(help="Name the devices of which this would come, such as offline; all: every one.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what a campaign would do, and make none: who would get what, when, and who not and why."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.campaign_calls import plan_campaign

        plan = plan_campaign(client, _read_spec(spec), outcome)
    if as_json:
        print_json(plan)
        return
    for warning in plan["warnings"]:
        typer.echo(f"warning: {printable(warning)}", err=True)
    approval = ", once it is approved" if plan["needs_approval"] else ""
    typer.echo(f"{plan['model']} release {plan['release']} for {plan['devices']} devices{approval}")
    columns = ("opens_earliest", "opens_latest", "ends_earliest", "ends_latest")
    rows = [[wave["number"], wave["devices"], *(format_time(wave[name]) for name in columns)] for wave in plan["waves"]]
    print_table(("WAVE", "DEVICES", *(name.replace("_", " ").upper() for name in columns)), rows, "")
    counted = [(n, name.replace("_", " ")) for name, n in sorted(plan["outcomes"].items())]
    counted += [(n, f"taken from {campaign}") for campaign, n in sorted(plan["takes_from"].items())]
    counted += [(n, f"outside: {state}") for state, n in sorted(plan["outside"].items())]
    print_table(("DEVICES", "WHAT WOULD COME OF THEM"), counted, "")
    if outcome is not None:
        listed = [(item["device"], item["wave"], item["outcome"], item["sentence"]) for item in plan["items"]]
        print_table(("DEVICE", "WAVE", "OUTCOME", "WHY"), listed, "no such device")


@campaign_app.command("clone")
def campaign_clone(
    campaign: str,
    release: Annotated[int | None, typer.Option(min=1, help="Take this release instead.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=JSON, such as soak_seconds=600; repeatable.")
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a campaign as another one was, with some changes; its audience is evaluated anew."""
    changes = _parse_changes(change or [])
    if release is not None:
        changes["release"] = release
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.campaign_calls import clone_campaign

        made = clone_campaign(client, campaign, changes)
        for warning in made["warnings"]:
            typer.echo(f"warning: {printable(warning)}", err=True)
        if start:
            made = client.act(made["id"], "start", made["version"])
    _show_campaign(made, as_json)


@campaign_app.command("rollback")
def campaign_rollback(
    campaign: str,
    release: Annotated[
        int | None, typer.Option(min=1, help="Back to this one [default: the one that all of the devices ran before].")
    ] = None,
    why: Annotated[str, typer.Option(help="The reason, for the log.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take back what a campaign brought: end it, and start one over the devices that committed its release."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.campaign_calls import roll_back_campaign

        made = roll_back_campaign(client, campaign, release, why)
    _show_campaign(made, as_json)


@campaign_app.command("show")
def campaign_show(
    campaign: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show a campaign, its executions counted by wave and state."""
    with open_client(url, token_file, data_dir) as client:
        found = client.campaign(campaign)
    _show_campaign(found, as_json)


@campaign_app.command("executions")
def campaign_executions(
    campaign: str,
    state: Annotated[str | None, typer.Option(help="Only in this state, such as FAILED.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the executions of a campaign: each device, and how far it is."""
    with open_client(url, token_file, data_dir) as client:
        found = list(client.executions(campaign, state))
    columns = ("wave", "device", "state", "code", "detail")
    _show_items(found, columns, "no execution yet", as_json)


@campaign_app.command("log")
def campaign_log(
    campaign: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List what happened to a campaign and who did it, oldest first."""
    with open_client(url, token_file, data_dir) as client:
        found = list(client.campaign_log(campaign))
    shown = found if as_json else [{**item, "at": format_time(item["at"])} for item in found]
    _show_items(shown, ("at", "who", "event", "detail"), "nothing happened yet", as_json)


@campaign_app.command("list")
def campaign_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List all campaigns, newest first."""
    with open_client(url, token_file, data_dir) as client:
        found = client.campaigns()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item["id"],
            f"{item['state']} (unreadable)" if item["unreadable"] else item["state"],
            item["version"],
            item["spec"].get("model"),
            item["spec"].get("release"),
        )
        for item in found
    ]
    print_table(("CAMPAIGN", "STATE", "VERSION", "MODEL", "RELEASE"), rows, "no campaign yet")


def _add_action(action: str, help_text: str) -> None:
    """Add the command of one action on a campaign."""

    def command(
        campaign: str,
        expected_version: Annotated[int | None, typer.Option(help="Refuse if the campaign changed since.")] = None,
        url: Url = None,
        token_file: TokenFile = None,
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        with open_client(url, token_file, data_dir) as client:
            found = client.act(campaign, action, expected_version)
        _show_campaign(found, as_json)

    campaign_app.command(action, help=help_text)(command)


_add_action("start", "Start a campaign.")
_add_action("approve", "Approve a campaign that needs it; not for who made or started it.")
_add_action("pause", "Pause a campaign: no further device gets an assignment.")
_add_action("resume", "Go on with a paused campaign.")
_add_action(
    "complete", "Let no more devices join a continuous campaign; it completes when those that it has have ended."
)
_add_action("abort", "End a campaign for good.")


def _parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``field=JSON`` texts; ends the command if one is malformed."""
    import json

    changes = {}
    for text in texts:
        name, sign, value = text.partition("=")
        try:
            changes[name] = json.loads(value)
        except (ValueError, RecursionError):
            sign = ""
        if not sign or not name:
            fail("campaign.spec", f"{text!r} is no change; write FIELD=JSON", BAD_INPUT)
    return changes


def _read_spec(file: Path) -> dict[str, Any]:
    """The specification in a file, or on standard input; ends the command if it is none."""
    import json
    import sys

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail("campaign.spec", f"{file} is not JSON: {error}", BAD_INPUT)
    if not isinstance(value, dict):
        fail("campaign.spec", f"{file} must hold a JSON object", BAD_INPUT)
    return value


def _show_campaign(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['id']}  {found['state']}  version {found['version']}  {found['reason']}".rstrip())
    if found["approved_by"] or found["state"] == "AWAITING_APPROVAL":
        needed = found["spec"].get("approvals", 1)
        who = printable(", ".join(found["approved_by"])) or "nobody yet"
        typer.echo(f"approved by {who} ({len(found['approved_by'])} of {needed})")
    if found["unreadable"]:
        typer.echo(f"this version cannot carry it on: {printable(found['unreadable'])}")
    rows = []
    for number, wave in enumerate(found["waves"], start=1):
        counts = found["executions"].get(str(number), {})
        said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        rows.append((number, wave.get("state") if isinstance(wave, dict) else None, said or None))
    print_table(("WAVE", "STATE", "EXECUTIONS"), rows, "no execution yet")
    gates = [(each["wave"], each["verdict"], each["sentence"]) for each in found["gates"]]
    if gates:
        print_table(("WAVE", "GATE", "SAYS"), gates, "")


def _show_items(found: list[dict[str, Any]], columns: Sequence[str], empty: str, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_table([name.upper() for name in columns], [[item[name] for name in columns] for item in found], empty)
