"""``wheeltapper device``: enrolment tokens, devices, and recordings from devices."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.captures import capture_app
from wheeltapper_fleet.cli.device_commands import add_command_commands
from wheeltapper_fleet.cli.device_life import add_life_commands
from wheeltapper_fleet.cli.options import AsJson, DataDir, Query, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    format_time,
    open_client,
    parse_tags,
    print_json,
    print_result,
    print_table,
)

__all__ = ["device_app"]

device_app = typer.Typer(help="Devices: enrolment tokens, what they run, recordings.", no_args_is_help=True)
device_app.add_typer(capture_app, name="capture")
add_life_commands(device_app)
add_command_commands(device_app)


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
    q: Query = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many [default: all].")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List devices, by id."""
    with open_client(url, token_file, data_dir) as client:
        devices = list(islice(client.iterate_devices(q, limit), limit))
    if as_json:
        print_json(devices)
        return
    rows = [(item["id"], _presence(item), _runs(item), item["severity"], _score(item)) for item in devices]
    print_table(("DEVICE", "STATE", "RUNS", "SEVERITY", "SCORE"), rows, "no device yet")


@device_app.command("counts")
def device_counts(
    q: Query = "", url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Count devices: by state, by site, and by what they run."""
    with open_client(url, token_file, data_dir) as client:
        found = client.device_counts(q)
    if as_json:
        print_json(found)
        return
    rows: list[tuple[str, object, object]] = [("all", None, found["devices"]), ("online", None, found["online"])]
    rows += [("state", state, count) for state, count in sorted(found["states"].items())]
    rows += [("site", site or None, count) for site, count in found["sites"].items()]
    for each in found["releases"]:
        runs = (
            f"{each['pipeline']}: {each['model']} r{each['release']}"
            if each["model"]
            else f"{each['pipeline']}: no model"
        )
        rows.append(("runs", runs, each["devices"]))
    print_table(("DEVICES", "", "COUNT"), rows, "")


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
        *[
            (f"baseline of {item['name']}", _baseline(item["baseline"]))
            for item in found["pipelines"]
            if item["baseline"]
        ],
        *([("scored in part", partly)] if (partly := _counted(found, "partly_scored")) else []),
        *([("unknown condition", count)] if (count := _counted(found, "unknown_conditions")) else []),
        ("update", found["execution_state"]),
        ("seen", format_time(found["last_seen_at"])),
    ]
    rows += [("certificate ends", format_time(found["certificate_expires_at"])), ("etag", found["etag"])]
    print_table((found["id"], ""), rows, "")


def _presence(device: dict[str, Any]) -> str:
    """Online or offline, and the state of its life, if that is not the usual one."""
    online = "online" if device["online"] else "offline"
    if device["state"] == "active":
        return online
    return f"quarantined, {online}" if device["state"] == "quarantined" else str(device["state"])


def _counted(device: dict[str, Any], what: str) -> str | None:
    """Pipelines with such windows: ``partly_scored``, ``unknown_conditions``."""
    found = [f"{item['name']}: {item[what]} windows" for item in device["pipelines"] if item.get(what)]
    return ", ".join(found) or None


def _runs(device: dict[str, Any]) -> str | None:
    runs = [f"{item['name']}: {item['model']} r{item['release']}" for item in device["pipelines"] if item["model"]]
    return ", ".join(runs) or "no model"


def _baseline(found: dict[str, Any]) -> str:
    """How far a device has learnt the machine of a pipeline."""
    learned, outside = found["learned"], found["outside"]
    if found["phase"] == "refused":
        return f"REFUSED: {outside} windows were far from what the fleet knows"
    beside = f", {outside} outside" if outside else ""
    if found["phase"] == "learning":
        return f"learning, {learned} of {found['windows']} windows{beside}"
    limited = f", {found['limited']} features at their limit" if found["limited"] else ""
    most = ", ".join(f"{one['feature']} {one['shift']:+.2g}" for one in found["features"][:3])
    return f"learned from {learned} windows{beside}{limited}" + (f"; differs most in {most}" if most else "")


def _score(device: dict[str, Any]) -> str | None:
    """The present score; where there is none any more, since when."""
    said = [] if device["score"] is None else [f"{device['score']:.3g}"]
    for item in device["pipelines"]:
        if item["no_score_since"] is not None:
            said.append(f"{item['name']}: no score since {format_time(item['no_score_since'])}")
    return "; ".join(said) or None
