"""``wheeltapper device``: enrolment tokens, devices, and recordings from devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    format_time,
    open_client,
    parse_tags,
    print_json,
    print_result,
    print_table,
)

__all__ = ["device_app"]

device_app = typer.Typer(help="Devices: enrolment tokens, what they run, recordings.", no_args_is_help=True)
capture_app = typer.Typer(help="Recordings from devices.", no_args_is_help=True)
device_app.add_typer(capture_app, name="capture")


@device_app.command("token")
def device_token(
    device: Annotated[str, typer.Argument(help="The new device's id.")],
    ttl_seconds: Annotated[float, typer.Option(help="How long the token is good for.")] = 86_400.0,
    tag: Annotated[list[str] | None, typer.Option(help="key=value; repeatable.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a one-time enrolment token. It is shown once."""
    tags = parse_tags(tag or [])
    with open_client(url, token_file, data_dir) as client:
        made = client.create_token(device, ttl_seconds, tags)
    print_result(made, made["token"], as_json)


@device_app.command("list")
def device_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List all devices."""
    with open_client(url, token_file, data_dir) as client:
        devices = client.devices()
    if as_json:
        print_json(devices)
        return
    rows = [(item["id"], _presence(item), _runs(item), item["severity"], _score(item)) for item in devices]
    print_table(("DEVICE", "STATE", "RUNS", "SEVERITY", "SCORE"), rows, "no device yet")


@device_app.command("show")
def device_show(
    device: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show one device."""
    with open_client(url, token_file, data_dir) as client:
        found = client.device(device)
    if as_json:
        print_json(found)
        return
    tags = " ".join(f"{key}={value}" for key, value in found["tags"].items())
    rows = [("state", _presence(found)), ("tags", tags or None), ("runs", _runs(found)), ("score", _score(found))]
    rows += [
        ("severity", found["severity"]),
        ("update", found["execution_state"]),
        ("seen", format_time(found["last_seen_at"])),
    ]
    rows += [("certificate ends", format_time(found["certificate_expires_at"]))]
    print_table((found["id"], ""), rows, "")


@device_app.command("revoke")
def device_revoke(
    device: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Refuse a device from now on."""
    with open_client(url, token_file, data_dir) as client:
        found = client.revoke(device)
    print_result(found, f"{device} is revoked", as_json)


@device_app.command("forget")
def device_forget(
    device: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Remove a device that lost its key, so that its id can be enrolled again. Its records stay."""
    with open_client(url, token_file, data_dir) as client:
        client.forget(device)
    print_result({"device": device, "forgotten": True}, f"{device} is forgotten; it can be enrolled again", as_json)


@capture_app.command("create")
def capture_create(
    device: str,
    pipeline: Annotated[str, typer.Option(help="Which sensor stream.")],
    snapshots: Annotated[int, typer.Option(min=1, max=100_000, help="How many windows.")],
    out: Annotated[Path | None, typer.Option(help="Wait for the recording, and write it here (.npz).")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a device for a recording of its next windows."""
    with open_client(url, token_file, data_dir) as client:
        command = client.request_capture(device, pipeline, snapshots)
        if out is None:
            print_result({"command": command, "device": device}, command, as_json)
            return
        typer.echo(f"waiting for {snapshots} windows of {device}", err=True)
        client.await_capture(command)
        length = client.fetch_capture(command, out)
    result = {"command": command, "device": device, "path": str(out), "length": length}
    print_result(result, f"{out}: {length} bytes", as_json)


@capture_app.command("list")
def capture_list(
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List recordings, asked for or received."""
    with open_client(url, token_file, data_dir) as client:
        found = client.captures(device)
    if as_json:
        print_json(found)
        return
    columns = ("command", "device", "pipeline", "state", "code", "snapshots", "length")
    print_table(
        [name.upper() for name in columns], [[item[name] for name in columns] for item in found], "no recording yet"
    )


@capture_app.command("fetch")
def capture_fetch(
    command: str,
    out: Annotated[Path, typer.Option(help="File to write (.npz).")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a recording."""
    if out.exists() and not force:
        fail("capture.exists", f"{out} is there already: choose another file, or give --force", BAD_INPUT)
    with open_client(url, token_file, data_dir) as client:
        length = client.fetch_capture(command, out)
    print_result({"command": command, "path": str(out), "length": length}, f"{out}: {length} bytes", as_json)


def _presence(device: dict[str, Any]) -> str:
    return "revoked" if device["revoked"] else "online" if device["online"] else "offline"


def _runs(device: dict[str, Any]) -> str | None:
    runs = [f"{item['name']}: {item['model']} r{item['release']}" for item in device["pipelines"] if item["model"]]
    return ", ".join(runs) or "no model"


def _score(device: dict[str, Any]) -> str | None:
    """The present score; where there is none any more, since when."""
    said = [] if device["score"] is None else [f"{device['score']:.3g}"]
    for item in device["pipelines"]:
        if item["no_score_since"] is not None:
            said.append(f"{item['name']}: no score since {format_time(item['no_score_since'])}")
    return "; ".join(said) or None
