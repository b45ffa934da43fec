"""``wheeltapper run``: queue runs of recipes, watch them, cancel them, fetch what they made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    FAILED,
    fail,
    failures,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
    printable,
)

if TYPE_CHECKING:
    from wheeltapper_fleet.client.fleet_client import FleetClient
    from wheeltapper_fleet.training.runs.local_store import LocalRuns

__all__ = ["run_app"]

run_app = typer.Typer(help="Runs of recipes: queue, watch, cancel, compare.", no_args_is_help=True)

_ENDED: Final = ("SUCCEEDED", "FAILED", "CANCELLED")
_LOOK_SECONDS: Final = 0.5
RunId = Annotated[str, typer.Argument(help="The run's id, as `run list` shows it.")]
Local = Annotated[bool, typer.Option("--local", help="Runs of this computer, in --runs; needs no service.")]
Runs = Annotated[Path, typer.Option(help="With --local: the folder of the runs.")]
_RUNS: Final = Path("wheeltapper-runs")
Timeout = Annotated[float, typer.Option(min=0, help="Seconds to wait at most; 0: as long as it takes.")]


@run_app.command("start")
def run_start(
    recipe: Annotated[Path, typer.Argument(help="The recipe file (TOML); its [data] names a dataset.")],
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="[default: the recipe file's]")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it ends, as `run wait` does.")] = False,
    local: Annotated[
        bool,
        typer.Option("--local", help="Execute it here, now, and without a service; needs wheeltapper-fleet[train]."),
    ] = False,
    executor: Annotated[str, typer.Option(help="With --local: where trials or workers run: local or ray.")] = "local",
    against: Annotated[
        str | None,
        typer.Option(
            help="The release that the bundle must not be worse than: an alias such as champion, or a number; with "
            "--local a folder of a bundle, as `release fetch` writes it."
        ),
    ] = None,
    runs: Runs = _RUNS,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Queue a run of a recipe file; a `wheeltapper trainer` executes it. With --local execute it here."""
    if local:
        with _local(runs) as store, _shown() as show:
            champion = None if against is None else Path(against)
            made = store.get(store.start(recipe, seed, _user(), executor, show, champion))
        print_result(made, _line(made), as_json)
        _exit(made)
        return
    with open_client(url, token_file, data_dir) as client:
        made = client.queue_run(_text(recipe), seed, against)
        if wait:
            made = _wait(client, made["id"], 0)
    print_result(made, _line(made), as_json)
    if wait:
        _exit(made)


@run_app.command("resume")
def run_resume(run: RunId, runs: Runs = _RUNS, as_json: AsJson = False) -> None:
    """Go on with a run of this computer that was interrupted or failed: trials that are done are not done again."""
    with _local(runs) as store, _shown() as show:
        store.resume(run, show)
        made = store.get(run)
    print_result(made, _line(made), as_json)
    _exit(made)


@contextmanager
def _local(runs: Path) -> Iterator[LocalRuns]:
    """The runs of this computer; ends the command where the extra is not installed."""
    with failures():
        try:
            from wheeltapper_fleet.training.runs.local_store import LocalRuns
        except ModuleNotFoundError as error:
            fail("train.missing", f"{error.name} is not installed; install wheeltapper-fleet[train]")
        yield LocalRuns(runs)


@contextmanager
def _shown() -> Iterator[Any]:
    """What shows the progress of a run on a terminal."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda progress: status.update(printable(_far(progress.done, progress.text or "starting")))


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # there is no name for this user
        return "somebody"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fail("recipe.malformed", f"{file.name} is no recipe: {error}", BAD_INPUT)


@run_app.command("list")
def run_list(
    state: Annotated[
        str | None, typer.Option(help="Only QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED ones.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only on this version of a dataset, NAME@VERSION.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many runs.")] = 50,
    local: Local = False,
    runs: Runs = _RUNS,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    asked = (("state", state), ("model", model), ("dataset", dataset))
    query = {name: value for name, value in asked if value is not None}
    if local:
        with _local(runs) as store:
            found = [each for each in store.list() if all(each[name] == value for name, value in query.items())][:limit]
    else:
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
    plots: Annotated[Path | None, typer.Option(help="Also write its plots (SVG) into this folder.")] = None,
    local: Local = False,
    runs: Runs = _RUNS,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: how far it is, its parameters, digests, gates, metrics and trials, and what went wrong."""
    if local:
        with _local(runs) as store:
            found = store.get(run)
            if plots is not None:
                _write_plots(plots, {name: path.read_bytes() for name, path in store.plot_files(run).items()})
    else:
        with open_client(url, token_file, data_dir) as client:
            found = client.run(run)
            if plots is not None:
                _write_plots(plots, {name: client.run_plot(run, name) for name in found["plots"]})
    if as_json:
        print_json(found)
        return
    _print_run(found)


def _write_plots(folder: Path, plots: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in plots.items():
        (folder / f"{name}.svg").write_bytes(content)
        typer.echo(f"plot: {folder / f'{name}.svg'}", err=True)


@run_app.command("compare")
def run_compare(
    one: RunId,
    other: RunId,
    local: Local = False,
    runs: Runs = _RUNS,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: which parameters and digests differ, and each metric beside the other's."""
    if local:
        with _local(runs) as store:
            both = store.get(one), store.get(other)
    else:
        with open_client(url, token_file, data_dir) as client:
            both = client.run(one), client.run(other)
    found = _compared(*both)
    if as_json:
        print_json(found)
        return
    rows: list[tuple[object, ...]] = []
    for kind in ("settings", "parameters", "digests", "metrics"):
        for name, (mine, theirs) in found[kind].items():
            number = isinstance(mine, float | int) and isinstance(theirs, float | int) and kind == "metrics"
            change = f"{theirs - mine:+.4g}" if number else "differs"
            rows.append((kind, name, *(_cell(value) for value in (mine, theirs)), change))
    print_table(("WHAT", "NAME", one, other, "CHANGE"), rows, "nothing differs")
    same = both[0]["digests"].get("model") == both[1]["digests"].get("model") is not None
    typer.echo("the model's bytes are the same" if same else "the models differ")


def _cell(value: object) -> str | None:
    return None if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)[:40]


def _compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, parameters and digests that differ, and all metrics: what each of two runs has, by name."""
    settings = {name: (one[name], other[name]) for name in ("model", "recipe", "dataset", "seed", "state")}
    found: dict[str, Any] = {"settings": {name: pair for name, pair in settings.items() if pair[0] != pair[1]}}
    for kind in ("parameters", "digests", "metrics"):
        names = sorted({*one[kind], *other[kind]})
        pairs = {name: (one[kind].get(name), other[kind].get(name)) for name in names}
        found[kind] = {name: pair for name, pair in pairs.items() if kind == "metrics" or pair[0] != pair[1]}
    return found


def _print_run(found: Mapping[str, Any]) -> None:
    typer.echo(_line(found))
    against = "" if found["against"] is None else f", against release {found['against']}"
    typer.echo(f"recipe {found['recipe']}, seed {found['seed']}, dataset {found['dataset'] or '–'}{against}")
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
    for name in sorted(found["plots"]):
        typer.echo(f"plot    {name}")
    for trial in found["trials"]:
        value = "–" if trial["value"] is None else f"{trial['value']:.6g}"
        chosen = ", ".join(f"{name} = {each}" for name, each in sorted(trial["parameters"].items()))
        line = f"trial   {trial['number']}: {trial['state']} {value} ({chosen}) {trial['detail']}"
        typer.echo(printable(line.rstrip()))
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


@run_app.command("candidate")
def run_candidate(
    run: RunId, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Let the bundle of a run wait for an approval: `candidate approve` signs and publishes it."""
    with open_client(url, token_file, data_dir) as client:
        made = client.make_candidate(run)
    print_result(made, f"{made['id']} of {run} is {made['state']}", as_json)


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


def _wait(client: FleetClient, run: str, timeout_seconds: float) -> dict[str, Any]:
    """The run at its end, or as it is when the time is over."""
    from rich.console import Console
    from rich.text import Text

    deadline = time.monotonic() + timeout_seconds if timeout_seconds else None
    with Console(stderr=True).status(run) as status:
        while True:
            found: dict[str, Any] = client.run(run)
            if found["state"] in _ENDED or (deadline is not None and time.monotonic() >= deadline):
                return found
            status.update(Text(_line(found)))
            time.sleep(_LOOK_SECONDS)


def _exit(found: Mapping[str, Any]) -> None:
    if found["state"] != "SUCCEEDED":
        raise typer.Exit(FAILED)


def _far(done: float | None, text: str) -> str:
    """How far a run is, in words."""
    return text if done is None else f"{text}, {100 * done:.0f} %"


def _line(found: Mapping[str, Any]) -> str:
    """A run in a line."""
    more = f" ({_far(found['progress'], found['progress_text'])})" if found["state"] == "RUNNING" else ""
    if found["error_code"] is not None:
        more = f": {found['error_detail']} [{found['error_code']}]"
    return printable(f"{found['id']} {found['state']}{more}: {found['model']}")
