"""``wheeltapper run``: queue runs of recipes, watch them, cancel them, fetch what they made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    FAILED,
    fail,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
    printable,
)

__all__ = ["run_app"]

run_app = typer.Typer(help="Runs of recipes: queue, watch, cancel, compare.", no_args_is_help=True)

_ENDED: Final = ("SUCCEEDED", "FAILED", "CANCELLED")
_LOOK_SECONDS: Final = 0.5
RunId = Annotated[str, typer.Argument(help="The run's id, as `run list` shows it.")]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds to wait at most; 0: as long as it takes.")]


@run_app.command("start")
def run_start(
    recipe: Annotated[Path, typer.Argument(help="The recipe file (TOML); its [data] names a dataset.")],
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="[default: the recipe file's]")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it ends, as `run wait` does.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Queue a run of a recipe file; a `wheeltapper trainer` executes it."""
    with open_client(url, token_file, data_dir) as client:
        made = client.queue_run(_text(recipe), seed)
        if wait:
            made = _wait(client, made["id"], 0)
    print_result(made, _line(made), as_json)
    _exit(made) if wait else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fail("recipe.malformed", f"{file.name} is no recipe: {error}", 2)


@run_app.command("list")
def run_list(
    state: Annotated[
        str | None, typer.Option(help="Only QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED ones.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many runs.")] = 50,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    query = {name: value for name, value in (("state", state), ("model", model)) if value is not None}
    with open_client(url, token_file, data_dir) as client:
        found = client.runs(limit, **query)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            each["state"],
            each["model"],
            each["recipe"],
            each["dataset"] or None,
            f"{each['cause_kind']} {each['cause_id']}",
            format_time(each["requested_at"]),
            each["progress_text"] if each["state"] == "RUNNING" else each["error_code"],
        )
        for each in found
    ]
    print_table(("RUN", "STATE", "MODEL", "RECIPE", "DATASET", "CAUSE", "REQUESTED", "NOW"), rows, "no run yet")


@run_app.command("show")
def run_show(
    run: RunId,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: how far it is, its parameters, digests, gates and metrics, and what went wrong."""
    with open_client(url, token_file, data_dir) as client:
        found = client.run(run)
    if as_json:
        print_json(found)
        return
    _print_run(found)


def _print_run(found: Mapping[str, Any]) -> None:
    typer.echo(_line(found))
    typer.echo(f"recipe {found['recipe']}, seed {found['seed']}, dataset {found['dataset'] or '–'}")
    times = (("requested", "requested_at"), ("started", "started_at"), ("ended", "ended_at"))
    typer.echo(", ".join(f"{name} {format_time(found[key])}" for name, key in times if found[key] is not None))
    sections = (("parameters", found["parameters"]), ("digests", found["digests"]))
    for name, values in sections:
        if values:
            typer.echo(f"{name}:")
            for key, value in sorted(values.items()):
                typer.echo(printable(f"  {key} = {value}"))
    gates = {gate["name"] for gate in found["gates"]}
    for gate in found["gates"]:
        passed = "passed" if gate["passed"] else "failed"
        typer.echo(printable(f"{passed}  {gate['name']}: {gate['value']:.4g} (limit {gate['limit']:.4g})"))
    for key, value in sorted(found["metrics"].items()):
        if key not in gates:
            typer.echo(printable(f"metric  {key}: {value:.6g}"))
    for text in found["warnings"]:
        typer.echo(printable(f"warning: {text}"))


@run_app.command("cancel")
def run_cancel(
    run: RunId,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a run that has not ended; its trainer ends the execution within seconds."""
    with open_client(url, token_file, data_dir) as client:
        made = client.cancel_run(run)
    print_result(made, f"{run} is cancelled", as_json)


@run_app.command("wait")
def run_wait(
    run: RunId,
    timeout_seconds: Timeout = 0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a run ends; exit code 1 if it failed, was cancelled, or did not end in time."""
    with open_client(url, token_file, data_dir) as client:
        found = _wait(client, run, timeout_seconds)
    print_result(found, _line(found), as_json)
    _exit(found)


@run_app.command("bundle")
def run_bundle(
    run: RunId,
    out: Annotated[Path, typer.Option(help="Folder for the bundle; it must not be there.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the bundle that a run made, e.g. to sign it with `release publish`."""
    with open_client(url, token_file, data_dir) as client:
        client.fetch_run_bundle(run, out)
    print_result({"run": run, "bundle": str(out)}, f"bundle: {out}", as_json)


def _wait(client: Any, run: str, timeout_seconds: float) -> dict[str, Any]:
    """The run at its end, or as it is when the time is over."""
    deadline = time.monotonic() + timeout_seconds if timeout_seconds else None
    while True:
        found: dict[str, Any] = client.run(run)
        if found["state"] in _ENDED or (deadline is not None and time.monotonic() >= deadline):
            return found
        time.sleep(_LOOK_SECONDS)


def _exit(found: Mapping[str, Any]) -> None:
    if found["state"] != "SUCCEEDED":
        raise typer.Exit(FAILED)


def _line(found: Mapping[str, Any]) -> str:
    """A run in a line."""
    done = found["progress"]
    now = f" ({found['progress_text']}{'' if done is None else f', {100 * done:.0f} %'})"
    more = now if found["state"] == "RUNNING" else ""
    if found["error_code"]:
        more = f": {found['error_detail']} [{found['error_code']}]"
    return printable(f"{found['id']} {found['state']}{more}: {found['model']}")
