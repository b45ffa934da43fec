"""``wheeltapper device command``, ``settings`` and ``connections``: what is asked of a device, and what it answers."""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, DeviceFirst, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    format_time,
    open_client,
    parse_changes,
    print_json,
    print_result,
    print_table,
)

__all__ = ["add_command_commands"]

_POLL_SECONDS = 0.5
_Expires = Annotated[float, typer.Option(min=1, help="The device is asked for so long.")]
_Limit = Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")]
_KINDS = ("diagnostics", "restart-pipeline", "reset-baseline")
_CHANGES = {"ignore_unknown_options": True}
command_app = typer.Typer(help="What is asked of a device, and what it answers.", no_args_is_help=True)


def add_command_commands(app: typer.Typer) -> None:
    """Add the commands to ``wheeltapper device``."""
    app.add_typer(command_app, name="command")
    app.command("settings", context_settings=_CHANGES)(device_settings)
    app.command("connections")(device_connections)


@command_app.command("diagnostics")
def command_diagnostics(
    device: str,
    out: Annotated[Path | None, typer.Option(help="Wait for the bundle, and write it here (JSON).")] = None,
    log_lines: Annotated[int, typer.Option(min=0, max=2000, help="How many lines of its log.")] = 500,
    expires_seconds: _Expires = 3600.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a device for findings, status, configuration without secrets, and the end of its log."""
    if out is not None and out.exists():
        fail("command.out", f"{out} is there already: choose another file", BAD_INPUT)
    with open_client(url, token_file, data_dir) as client:
        made = client.ask_device(device, "diagnostics", log_lines=log_lines, expires_seconds=expires_seconds)
        if out is None:
            print_result(made, made["command"], as_json)
            return
        typer.echo(f"waiting for {device}", err=True)
        while (found := client.command(made["command"]))["state"] == "waiting":
            time.sleep(_POLL_SECONDS)
        if found["state"] != "done":
            fail(found["code"] or "command.expired", found["detail"] or f"{device} did not answer in time")
        text = json.dumps(client.bundle(made["command"]), indent=1)
        out.write_text(text + "\n", encoding="utf-8")
    print_result(found | {"path": str(out)}, f"{out}: {len(text)} characters", as_json)


@command_app.command("restart-pipeline")
def command_restart_pipeline(
    device: str,
    pipeline: Annotated[str, typer.Option(help="Which one.")],
    expires_seconds: _Expires = 3600.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End a pipeline of a device and begin it anew: its source is opened again, its release is loaded again."""
    with open_client(url, token_file, data_dir) as client:
        made = client.ask_device(device, "restart-pipeline", pipeline=pipeline, expires_seconds=expires_seconds)
    print_result(made, made["command"], as_json)


@command_app.command("reset-baseline")
def command_reset_baseline(
    device: str,
    pipeline: Annotated[str, typer.Option(help="Whose machine is learnt anew.")],
    expires_seconds: _Expires = 3600.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a device learn a pipeline's machine anew, and forget what it knew: after a repair, or a moved sensor."""
    with open_client(url, token_file, data_dir) as client:
        made = client.ask_device(device, "reset-baseline", pipeline=pipeline, expires_seconds=expires_seconds)
    print_result(made, made["command"], as_json)


@command_app.command("many")
def command_many(
    q: Annotated[str, typer.Argument(help="Which devices, in the query language.")],
    kind: Annotated[str, typer.Argument(help="diagnostics, restart-pipeline or reset-baseline.")],
    pipeline: Annotated[str | None, typer.Option(help="Which one, of the last two.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without it the devices are only counted.")] = False,
    expect: Annotated[int | None, typer.Option(min=0, help="Refuse unless so many devices match.")] = None,
    expires_seconds: _Expires = 3600.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask every device that a query means: all of them, or none. Counts them unless --apply is given."""
    if kind not in _KINDS:
        fail("cli.command", f"{kind!r} is nothing that many are asked for; there are {', '.join(_KINDS)}", BAD_INPUT)
    fields = {"pipeline": pipeline, "expected": expect}
    given = {name: value for name, value in fields.items() if value is not None}
    with open_client(url, token_file, data_dir) as client:
        done = client.ask_devices(q, kind, dry=not apply, expires_seconds=expires_seconds, **given)
    text = f"{done['matched']} devices match, {done['changed']} {'are asked' if apply else 'would be asked'}"
    refused = "".join(f"; {count} not [{code}]" for code, count in sorted(done["refused"].items()))
    print_result(done, text + refused + ("" if apply else "; --apply does it"), as_json)


@command_app.command("list")
def command_list(
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    limit: _Limit = 50,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List commands to devices, newest first."""
    with open_client(url, token_file, data_dir) as client:
        found = list(islice(client.commands(device), limit))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["command"],
            each["device"],
            each["type"],
            each["state"],
            each["code"] or None,
            format_time(each["created_at"]),
        )
        for each in found
    ]
    print_table(("COMMAND", "DEVICE", "TYPE", "STATE", "CODE", "AT"), rows, "nothing was asked")


@command_app.command("show")
def command_show(
    command: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show one command, and what became of it."""
    with open_client(url, token_file, data_dir) as client:
        found = client.command(command)
    if as_json:
        print_json(found)
        return
    rows = [(name, found[name] or None) for name in ("device", "type", "state", "code", "detail", "who")]
    rows += [(name, format_time(found[f"{name}_at"])) for name in ("created", "expires", "answered")]
    print_table((found["command"], ""), rows, "")


def device_settings(
    device: DeviceFirst,
    changes: Annotated[
        list[str] | None, typer.Argument(help="name=value wants a value, -name what the device's configuration says.")
    ] = None,
    why: Annotated[str, typer.Option(help="The reason, for the device's log.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show or change the settings of a running device: log_level, batch_seconds, status_seconds."""
    change = parse_changes(changes or [])
    with open_client(url, token_file, data_dir) as client:
        found = client.change_settings(device, change, why) if change else client.settings(device)
    if as_json:
        print_json(found)
        return
    rows = [
        (name, desired["value"] if (desired := found["desired"].get(name)) else None, reported, name in found["delta"])
        for name, reported in found["reported"].items()
    ]
    print_table(
        ("SETTING", "WANTED", "IN FORCE", ""),
        [(name, wanted, reported, "not yet" if differs else None) for name, wanted, reported, differs in rows],
        "",
    )
    if (share := found["captures"]) is not None:
        limit = f" of {share['limit_bytes'] / 2**20:.1f}" if share["limit_bytes"] else ""
        typer.echo(f"recordings of the day: {share['sent_bytes'] / 2**20:.1f}{limit} MB sent, {share['waiting']} wait")


def device_connections(
    device: str,
    limit: _Limit = 50,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List when a device came and went, newest first."""
    with open_client(url, token_file, data_dir) as client:
        found = list(islice(client.connections(device), limit))
    if as_json:
        print_json(found)
        return
    rows = [(format_time(each["at"]), each["reason"], each["address"] or None) for each in found]
    print_table(("AT", "WHAT", "FROM"), rows, "it was never here")
