"""``wheeltapper lineage``: from an alert back to recordings, and from a recording forward to every device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import format_time, open_client, print_json, print_table, printable

__all__ = ["lineage_app"]

lineage_app = typer.Typer(
    help="Lineage: from an alert back to recordings, and from a recording forward to every device.",
    no_args_is_help=True,
)

Most = Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="How many are listed.")]


@lineage_app.command("alert")
def lineage_alert(
    alert: Annotated[int, typer.Argument(min=1, help="Its number, as `alerts list` shows it.")],
    recordings: Annotated[
        bool, typer.Option("--recordings", help="Also list what the release was trained on.")
    ] = False,
    limit: Most = 20,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say which release raised an alert, and where that came from: run, dataset, recordings."""
    with open_client(url, token_file, data_dir) as client:
        found = client.alert_lineage(alert)
        release = found["release"]
        if recordings and release is not None:
            items = client.release_recordings(release["model"], release["release"])
            found["recordings"] = list(islice(items, limit))
    if as_json:
        print_json(found)
        return
    said = found["alert"]
    where = f", machine {found['machine']} at {found['site']}" if found["machine"] is not None else ""
    typer.echo(printable(f"alert {said['id']}: {said['severity']} by {said['device']}/{said['pipeline']}{where}"))
    typer.echo(printable(f"raised by: {said['model']} {said['release']}; the pipeline runs {found['runs_now']} now"))
    if release is None:
        typer.echo("that release is not published here: its lineage is unknown")
        return
    _print_release(release)
    if recordings:
        _print_recordings(found["recordings"])


@lineage_app.command("release")
def lineage_release(
    model: str,
    release: int,
    devices: Annotated[bool, typer.Option("--devices", help="Also list the devices that run or ran it.")] = False,
    recordings: Annotated[bool, typer.Option("--recordings", help="Also list what it was trained on.")] = False,
    limit: Most = 20,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say where a release came from, and where it went."""
    with open_client(url, token_file, data_dir) as client:
        found = client.release_lineage(model, release)
        if recordings:
            found["recordings"] = list(islice(client.release_recordings(model, release), limit))
        if devices:
            found["devices"] = list(islice(client.release_devices(model, release), limit))
    if as_json:
        print_json(found)
        return
    _print_release(found)
    if recordings:
        _print_recordings(found["recordings"])
    if devices:
        _print_devices(found["devices"])


@lineage_app.command("run")
def lineage_run(
    run: Annotated[str, typer.Argument(help="As `run list` shows it.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run was trained on and why, and what became of its bundle: candidate, releases."""
    with open_client(url, token_file, data_dir) as client:
        found = client.run_lineage(run)
    if as_json:
        print_json(found)
        return
    said = found["run"]
    typer.echo(printable(f"{said['id']} {said['state']}: {said['model']} by {said['cause_kind']} {said['cause_id']}"))
    typer.echo(printable(f"trained on: {said['dataset']}"))
    if found["candidate"] is not None:
        typer.echo(f"candidate: {found['candidate']} {found['candidate_state']}")
    rows = [(each["model"], each["release"], format_time(each["published_at"])) for each in found["releases"]]
    print_table(("MODEL", "RELEASE", "PUBLISHED"), rows, "no release was made of it")


@lineage_app.command("recording")
def lineage_recording(
    sha256: Annotated[str, typer.Argument(help="The SHA-256 of the recording.")],
    limit: Most = 20,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say where a recording came from, and list the releases that were trained on it and the devices that ran these."""
    with open_client(url, token_file, data_dir) as client:
        found = client.recording_lineage(sha256)
        found["runs"] = list(islice(client.recording_runs(sha256), limit))
        found["releases"] = list(islice(client.recording_releases(sha256), limit))
        found["devices"] = list(islice(client.recording_devices(sha256), limit))
    if as_json:
        print_json(found)
        return
    for each in found["captured"]:
        at = format_time(each["received_at"])
        typer.echo(printable(f"captured by {each['device']}/{each['pipeline']} for {each['command']}, here {at}"))
    if found["removed"] is not None:
        typer.echo(printable(f"its content was removed: {found['removed']}"))
    for name in found["not_indexed"]:
        typer.echo(f"not known yet: the newest version of dataset {name}")
    spans = [(each["dataset"], each["first_version"], each["last_version"]) for each in found["datasets"]]
    print_table(("DATASET", "FROM", "TO"), spans, "in no version of a dataset")
    ran = [(each["id"], each["state"], each["model"], each["dataset"]) for each in found["runs"]]
    print_table(("RUN", "STATE", "MODEL", "TRAINED ON"), ran, "no run was trained on it")
    trained = [(each["model"], each["release"], f"{each['dataset']}@{each['version']}") for each in found["releases"]]
    print_table(("MODEL", "RELEASE", "TRAINED ON"), trained, "no release was trained on it")
    if trained:
        _print_devices(found["devices"])


def _print_release(found: dict[str, Any]) -> None:
    aliases = f" ({', '.join(found['aliases'])})" if found["aliases"] else ""
    published = format_time(found["published_at"])
    typer.echo(f"{found['model']} {found['release']}{aliases}: published {published} by {found['published_by']}")
    for each in found["trained_on"]:
        split = f", split by {each['split']}" if each["split"] else ""
        typer.echo(printable(f"trained on: {each['dataset']}@{each['version']}{split}"))
    if not found["trained_on"]:
        typer.echo("trained on: no version of a dataset (files that its manifest names by hash)")
    for name, value in _told(found["lineage"]):
        typer.echo(printable(f"{name}: {value}"))
    for each in found["campaigns"]:
        typer.echo(f"campaign {each['id']}: {each['state']}, made {format_time(each['created_at'])}")


def _told(lineage: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What a person reads of a manifest's lineage: not the hash of each recording: there may be thousands."""
    hidden = ("recording-", "dataset", "parameters")
    return ((name, value) for name, value in sorted(lineage.items()) if not name.startswith(hidden))


def _print_recordings(items: Iterable[dict[str, Any]]) -> None:
    rows = []
    for each in items:
        came = each["captured"]
        origin = f"{came['device']}/{came['pipeline']}" if came is not None else each["source"]
        rows.append((each["sha256"][:12], each["machine"], each["side"] or None, origin, each["removed"]))
    print_table(("SHA-256", "MACHINE", "SIDE", "FROM", "REMOVED"), rows, "the dataset's version has no items")


def _print_devices(items: Iterable[dict[str, Any]]) -> None:
    rows = []
    for each in items:
        release = (f"{each['model']} {each['release']}",) if "model" in each else ()
        now = "yes" if each["runs_now"] else "no"
        rows.append((*release, each["device"], each["pipeline"], format_time(each["first_at"]), now))
    named = ("RELEASE",) if rows and len(rows[0]) == 5 else ()
    print_table((*named, "DEVICE", "PIPELINE", "SINCE", "RUNS NOW"), rows, "no device ran it")
