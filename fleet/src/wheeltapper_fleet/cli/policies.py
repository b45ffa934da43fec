"""``wheeltapper policy``: what retrains a model by itself, and everything that it did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    failures,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
    printable,
)

__all__ = ["policy_app"]

policy_app = typer.Typer(
    help="Policies: drift, wrong alerts or age lead to recordings, a run, a candidate and a campaign.",
    no_args_is_help=True,
)
Why = Annotated[str, typer.Option(help="The reason, for the record.")]


@policy_app.command("apply")
def policy_apply(
    file: Annotated[Path, typer.Argument(help="The policy's file (TOML).")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a policy, or give one a new text; it watches from now on."""
    with failures():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            fail("policy.malformed", f"{file} is not UTF-8", BAD_INPUT)
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import apply_policy

        made = apply_policy(client, text)
    print_result(made, f"policy {made['name']} is {made['stage']}", as_json)


@policy_app.command("list")
def policy_list(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the policies, and where each is."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import policies

        found = policies(client, model)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["name"],
            each["model"],
            "PAUSED" if each["paused"] else each["stage"],
            format_time(each["since"]),
            each["cycle"],
            each["problem"] or each["why"] or None,
        )
        for each in found
    ]
    print_table(("POLICY", "MODEL", "STAGE", "SINCE", "CYCLE", "WHY"), rows, "no policy yet")


@policy_app.command("show")
def policy_show(
    name: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show where a policy is, what its last look saw, and its file."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import policy

        found = policy(client, name)
    if as_json:
        print_json(found)
        return
    stage = f"{found['stage']}, paused" if found["paused"] else found["stage"]
    until = "" if found["ends_at"] is None else f", until {format_time(found['ends_at'])} at most"
    lines = [f"policy {found['name']} of {found['model']}, version {found['version']}"]
    lines.append(f"{stage} since {format_time(found['since'])}{until}; cycle {found['cycle']}")
    lines += [f"{label}: {found[label]}" for label in ("problem", "why") if found[label]]
    if found["looked_at"] is not None:
        lines.append(f"last look, {format_time(found['looked_at'])}: {found['found']}")
    known = ("dataset", "run", "candidate", "release", "campaign")
    lines += [f"{label}: {found['state'][label]}" for label in known if found["state"].get(label)]
    lines.append(f"applied {format_time(found['applied_at'])} by {found['applied_by']}")
    for line in lines:
        typer.echo(printable(line))
    typer.echo()
    for line in found["text"].splitlines():
        typer.echo(printable(line))


@policy_app.command("log")
def policy_log(
    name: str,
    why: Annotated[int | None, typer.Option(min=1, help="This event and its causes, back to the limit.")] = None,
    cycle: Annotated[int | None, typer.Option(min=0, help="Only of this cycle.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many events.")] = 100,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what happened to a policy, newest first, each event with its cause."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import event_causes, policy_events

        found = event_causes(client, name, why) if why is not None else policy_events(client, name, limit, cycle)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            format_time(each["at"]),
            each["cycle"],
            each["kind"],
            each["subject"] or None,
            each["cause"],
            each["detail"] or None,
        )
        for each in found
    ]
    print_table(("EVENT", "AT", "CYCLE", "WHAT", "OF", "CAUSE", "DETAIL"), rows, f"nothing happened to {name}")


@policy_app.command("pause")
def policy_pause(
    name: str,
    why: Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a policy do nothing more for now; a run or campaign of it goes on."""
    _act(name, "pause", why, url, token_file, data_dir, as_json)


@policy_app.command("resume")
def policy_resume(
    name: str,
    why: Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a paused policy go on, or one that has stopped watch again."""
    _act(name, "resume", why, url, token_file, data_dir, as_json)


@policy_app.command("remove")
def policy_remove(
    name: str,
    why: Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a policy: its run is cancelled, its candidate expires, a campaign goes on. Its log stays."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import act_on_policy

        act_on_policy(client, name, "remove", why)
    print_result({"name": name, "removed": True}, f"policy {name} is removed; its log stays", as_json)


def _act(name: str, action: str, why: str, url: Any, token_file: Any, data_dir: Any, as_json: bool) -> None:
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import act_on_policy

        found = act_on_policy(client, name, action, why)
    stage = f"{found['stage']}, paused" if found["paused"] else found["stage"]
    print_result(found, f"policy {name} is {stage}", as_json)
