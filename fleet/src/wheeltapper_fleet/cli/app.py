"""``wheeltapper``: the fleet's command line. Thin: every command calls one thing and prints what it said.

Imports are inside the commands, so that ``--help`` is quick and a command needs only its own libraries.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet import __version__
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    Link,
    fail,
    failures,
    parse_tags,
    print_json,
    print_table,
    run_guarded,
)
from wheeltapper_fleet.cli.train import train_app

__all__ = ["app", "main"]

_SETTINGS = {"no_args_is_help": True, "pretty_exceptions_enable": False, "add_completion": False}
app = typer.Typer(name="wheeltapper", help="Manage a fleet of edge devices that run models.", **_SETTINGS)  # type: ignore[arg-type]  # typer's own options
keys_app = typer.Typer(help="The keys that releases and assignments are signed with.", no_args_is_help=True)
device_app = typer.Typer(help="Devices: enrolment tokens, what they run, recordings.", no_args_is_help=True)
capture_app = typer.Typer(help="Recordings from devices.", no_args_is_help=True)
release_app = typer.Typer(help="Releases: publish, list, verify.", no_args_is_help=True)
campaign_app = typer.Typer(help="Campaigns: take a release to devices, wave by wave.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(device_app, name="device")
device_app.add_typer(capture_app, name="capture")
app.add_typer(release_app, name="release")
app.add_typer(campaign_app, name="campaign")
app.add_typer(train_app, name="train")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Url = Annotated[str | None, typer.Option("--url", help="The admin API's URL [env: WHEELTAPPER_URL].")]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the API token [env for the token: WHEELTAPPER_API_TOKEN].")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Data folder of a service on this machine [default: wheeltapper-data].")
]


def main() -> None:
    """Entry point."""
    run_guarded(app)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file; see docs/operations.md.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept [default: wheeltapper-data].")] = None,
    admin_host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]")] = None,
    admin_port: Annotated[int | None, typer.Option(help="[default: 8080; 0 picks a free one]")] = None,
    device_host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]")] = None,
    device_port: Annotated[int | None, typer.Option(help="[default: 8443]")] = None,
    mqtt_host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]")] = None,
    mqtt_port: Annotated[int | None, typer.Option(help="[default: 8883]")] = None,
    public_host: Annotated[
        list[str] | None, typer.Option(help="A name that devices reach this by; repeatable.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL [default: SQLite in the data folder]")
    ] = None,
) -> None:
    """Run the fleet service until it is told to stop."""
    overrides = {
        "data_dir": data_dir,
        "admin_host": admin_host,
        "admin_port": admin_port,
        "device_host": device_host,
        "device_port": device_port,
        "mqtt_host": mqtt_host,
        "mqtt_port": mqtt_port,
        "public_hosts": public_host or None,
        "database_url": database_url,
    }
    with failures():
        from wheeltapper_fleet.config import load_config
        from wheeltapper_fleet.service import serve as run

        run(load_config(config, overrides))


@keys_app.command("init")
def keys_init(
    keys_dir: Annotated[Path, typer.Option(help="For the offline keys; keep it off the service's machine.")],
    data_dir: Annotated[Path, typer.Option(help="The service's folder.")] = Path("wheeltapper-data"),
    model: Annotated[list[str] | None, typer.Option(help="A model that releases may be made of; repeatable.")] = None,
    threshold: Annotated[int, typer.Option(min=1, max=9, help="How many root and targets keys must sign.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Make every key, the devices' CA and the first metadata."""
    models = model or ["bearing-anomaly"]
    with failures():
        from wheeltapper_fleet.trust.keys import init_keys

        init_keys(keys_dir, data_dir, models, threshold)
    if as_json:
        print_json({"keys_dir": str(keys_dir), "data_dir": str(data_dir), "models": models, "threshold": threshold})
    else:
        typer.echo(
            f"keys for {', '.join(models)}: offline keys in {keys_dir} (keep them safe), the service's in {data_dir}"
        )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def demo(context: typer.Context) -> None:
    """The whole story on this machine: five devices, a worn bearing, three releases."""
    try:
        from wheeltapper_fleet.demo.cli import main as run  # type: ignore[import-not-found,unused-ignore]  # added apart
    except ModuleNotFoundError as error:
        fail("demo.missing", f"this installation has no demo ({error.name} is missing)")
    run(list(context.args))


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
    with failures(), Link(url, token_file, data_dir).open() as client:
        made = client.create_token(device, ttl_seconds, tags)
    if as_json:
        print_json(made)
    else:
        typer.echo(made["token"])


@device_app.command("list")
def device_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List all devices."""
    with failures(), Link(url, token_file, data_dir).open() as client:
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
    with failures(), Link(url, token_file, data_dir).open() as client:
        found = client.device(device)
    if as_json:
        print_json(found)
        return
    tags = " ".join(f"{key}={value}" for key, value in found["tags"].items())
    rows = [("state", _presence(found)), ("tags", tags or None), ("runs", _runs(found)), ("score", _score(found))]
    rows += [
        ("severity", found["severity"]),
        ("update", found["execution_state"]),
        ("seen", _when(found["last_seen_at"])),
    ]
    rows += [("certificate ends", _when(found["certificate_expires_at"]))]
    print_table((found["id"], ""), rows, "")


@device_app.command("revoke")
def device_revoke(
    device: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Refuse a device from now on."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        found = client.revoke(device)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{device} is revoked")


@device_app.command("forget")
def device_forget(
    device: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Remove a device that lost its key, so that its id can be enrolled again. Its records stay."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        client.forget(device)
    if as_json:
        print_json({"device": device, "forgotten": True})
    else:
        typer.echo(f"{device} is forgotten; it can be enrolled again")


@capture_app.command("create")
def capture_create(
    device: str,
    pipeline: Annotated[str, typer.Option(help="Which sensor stream.")],
    snapshots: Annotated[int, typer.Option(min=1, max=100_000, help="How many windows.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a device for a recording of its next windows."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        command = client.request_capture(device, pipeline, snapshots)
    if as_json:
        print_json({"command": command, "device": device})
    else:
        typer.echo(command)


@capture_app.command("list")
def capture_list(
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List recordings, asked for or received."""
    with failures(), Link(url, token_file, data_dir).open() as client:
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
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a recording."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        length = client.fetch_capture(command, out)
    if as_json:
        print_json({"command": command, "path": str(out), "length": length})
    else:
        typer.echo(f"{out}: {length} bytes")


@release_app.command("publish")
def release_publish(
    bundle: Annotated[Path, typer.Option(help="Folder with manifest.json and its files.")],
    key: Annotated[str, typer.Option(help="The team's key: a PEM file or a securesystemslib URI. It stays here.")],
    rollback_floor: Annotated[
        int | None, typer.Option(min=1, help="Devices that commit it never go below this release again.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Sign a bundle here as the next release of its model, and publish it."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        made = client.publish_bundle(bundle, key, rollback_floor)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{made['model']} release {made['release']} is published")


@release_app.command("list")
def release_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List all releases."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        found = client.releases()
    if as_json:
        print_json(found)
        return
    rows = [
        (item["model"], item["release"], _when(item["published_at"]), item["published_by"], item["sha256"][:12])
        for item in found
    ]
    print_table(("MODEL", "RELEASE", "PUBLISHED", "BY", "SHA-256"), rows, "no release yet")


@release_app.command("verify")
def release_verify(
    model: str,
    release: int,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Verify a release as a device would, down to every byte."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        found = client.verify_release(model, release)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{model} release {release} verifies: {found['files']} files, {found['length']} bytes")


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
    import json
    import sys

    with failures(), Link(url, token_file, data_dir).open() as client:
        try:
            text = sys.stdin.read() if str(spec) == "-" else spec.read_text(encoding="utf-8")
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            fail("campaign.spec", f"{spec} is not JSON: {error}", BAD_INPUT)
        if not isinstance(value, dict):
            fail("campaign.spec", f"{spec} must hold a JSON object", BAD_INPUT)
        made = client.create_campaign(value)
        if start:
            made = client.act(made["id"], "start", made["version"])
    _show_campaign(made, as_json)


@campaign_app.command("show")
def campaign_show(
    campaign: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show a campaign with its executions."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        found = client.campaign(campaign)
    _show_campaign(found, as_json)


@campaign_app.command("list")
def campaign_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List all campaigns, newest first."""
    with failures(), Link(url, token_file, data_dir).open() as client:
        found = client.campaigns()
    if as_json:
        print_json(found)
        return
    rows = [
        (item["id"], item["state"], item["version"], item["spec"].get("model"), item["spec"].get("release"))
        for item in found
    ]
    print_table(("CAMPAIGN", "STATE", "VERSION", "MODEL", "RELEASE"), rows, "no campaign yet")


def _act(action: str, help_text: str) -> None:
    """Add the command ``action``."""

    def command(
        campaign: str,
        expected_version: Annotated[int | None, typer.Option(help="Refuse if the campaign changed since.")] = None,
        url: Url = None,
        token_file: TokenFile = None,
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        with failures(), Link(url, token_file, data_dir).open() as client:
            found = client.act(campaign, action, expected_version)
        _show_campaign(found, as_json)

    campaign_app.command(action, help=help_text)(command)


_act("start", "Start a campaign.")
_act("approve", "Agree to a campaign that needs approval.")
_act("pause", "Pause a campaign: no further device gets an assignment.")
_act("resume", "Go on with a paused campaign.")
_act("abort", "End a campaign for good.")


def _show_campaign(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['id']}  {found['state']}  version {found['version']}  {found['reason']}".rstrip())
    columns = ("wave", "device", "state", "code", "detail")
    rows = [[item[name] for name in columns] for item in found["execution_list"]]
    print_table([name.upper() for name in columns], rows, "no execution yet")


def _presence(device: dict[str, Any]) -> str:
    return "revoked" if device["revoked"] else "online" if device["online"] else "offline"


def _runs(device: dict[str, Any]) -> str | None:
    runs = [f"{item['name']}: {item['model']} r{item['release']}" for item in device["pipelines"] if item["model"]]
    return ", ".join(runs) or None


def _score(device: dict[str, Any]) -> str | None:
    return None if device["score"] is None else f"{device['score']:.3g}"


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
