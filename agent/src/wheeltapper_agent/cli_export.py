"""The commands ``wheeltapper-agent export``, ``source try`` and ``bundle``: what a device holds, what a source gives,
and what a device would do with a bundle."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_agent.cli_support import DEFAULT_CONFIG, ConfigOption, JsonOption, fail
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(export)
    source = typer.Typer(help="What the sources of the pipelines give.", no_args_is_help=True)
    source.command("try")(source_try)
    app.add_typer(source, name="source")
    bundle = typer.Typer(help="What a device would do with a bundle; needs no fleet.", no_args_is_help=True)
    bundle.command("check")(bundle_check)
    bundle.command("evaluate")(bundle_evaluate)
    app.add_typer(bundle, name="bundle")


def export(
    out: Annotated[Path, typer.Argument(help="The file to make, e.g. device.sqlite.", show_default=False)],
    config: ConfigOption = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Export records, recordings, updates and status of this device into one SQLite file.

    The agent may be running. The file holds no keys and no configuration; any SQLite tool opens it.
    """
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.host.export import export_state

    try:
        done = export_state(load_config(config).device.state_dir, out, time.time(), replace=force)
    except AgentError as error:
        fail(error)
    if json_output:
        body = {"path": str(done.path), "bytes": done.bytes, "rows": done.rows, "problems": list(done.problems)}
        print(json.dumps(body))
        return
    for problem in done.problems:
        print(f"not exported: {problem}", file=sys.stderr)
    told = ", ".join(f"{done.rows[table]} {table}" for table in ("records", "recordings", "executions"))
    print(f"{done.path}: {told}; {done.bytes} bytes")


def source_try(
    config: ConfigOption = DEFAULT_CONFIG,
    pipeline: Annotated[str, typer.Option("--pipeline", help="Which pipeline, if there are several.")] = "",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=86_400.0, help="How long, at most.")] = 10.0,
    json_output: JsonOption = False,
) -> None:
    """Show what the source of a pipeline gives: rate, channels, first values, gaps, and what was refused and why.

    No model, no fleet and nothing of the agent's state is needed or changed. A recording is read at full speed.
    """
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.ground.system_clock import SystemClock
    from wheeltapper_agent.host.source_trial import choose_pipeline, try_source
    from wheeltapper_agent.host.source_trial_text import trial_lines

    try:
        report = try_source(choose_pipeline(load_config(config).pipelines, pipeline), seconds, SystemClock())
    except (AgentError, ProtocolError) as error:
        fail(error)
    if json_output:
        print(json.dumps(report))
    else:
        print("\n".join(trial_lines(report, plain=not _has_blocks())))
    if report["error"] is not None:
        fail(AgentError(report["error"]["code"], report["error"]["message"]))


_BundleArgument = Annotated[Path, typer.Argument(help="A folder with manifest.json and its files.", show_default=False)]
_ProfileOption = Annotated[str, typer.Option("--profile", help="The board; see profiles [default: any].")]
_RuntimeOption = Annotated[str, typer.Option("--runtime", help="With this runtime only, e.g. ai-edge-litert.")]
_TimeoutOption = Annotated[float, typer.Option("--timeout-seconds", min=1.0, max=86_400.0, help="For each runtime.")]


def bundle_check(
    bundle: _BundleArgument,
    profile: _ProfileOption = "",
    runtime: _RuntimeOption = "",
    timeout_seconds: _TimeoutOption = 120.0,
    json_output: JsonOption = False,
) -> None:
    """Test a bundle as a device does before it runs one: golden vectors, latency and memory, with each runtime.

    Runtimes that the bundle does not claim are left out; those that are not installed here are named. Exit code 2 if a
    runtime fails, or if none is installed.
    """
    from wheeltapper_agent.model.desk import check_bundle, desk_profile

    try:
        found = check_bundle(bundle, desk_profile(profile, runtime), timeout_seconds)
    except (AgentError, ProtocolError) as error:
        fail(error)
    if json_output:
        print(json.dumps({"bundle": str(bundle), "runtimes": found}))
    for entry in found if not json_output else ():
        if "metrics" in entry:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in entry["metrics"].items())
            print(f"passed   {entry['runtime']}: {figures}")
        else:
            what = "not here" if entry["code"] == "runtime.missing" else "failed  "
            print(f"{what} {entry['runtime']}: {entry['message']} [{entry['code']}]")
    failed = [entry for entry in found if entry.get("code") not in (None, "runtime.missing")]
    if failed or not any("metrics" in entry for entry in found):
        worst = (failed or found)[0]
        fail(AgentError(worst["code"], f"{worst['runtime']}: {worst['message']}"))


def bundle_evaluate(
    bundle: _BundleArgument,
    windows: Annotated[
        Path, typer.Option("--windows", help="An .npz with samples [window, sample, channel].", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The .npz to write.", show_default=False)],
    inputs: Annotated[bool, typer.Option("--inputs", help="Write the model's input too.")] = False,
    profile: _ProfileOption = "",
    runtime: _RuntimeOption = "",
    timeout_seconds: _TimeoutOption = 120.0,
    json_output: JsonOption = False,
) -> None:
    """Score windows with a bundle as a device does; writes score, features, model output, label or value of each.

    The process has a device's limits on memory and processor time.
    """
    from wheeltapper_agent.model.desk import desk_profile, evaluate_windows

    try:
        found = evaluate_windows(bundle, windows, out, desk_profile(profile, runtime), inputs, timeout_seconds)
    except (AgentError, ProtocolError) as error:
        fail(error)
    print(json.dumps(found) if json_output else f"{out}: {found['windows']} windows by {found['provider']}")


def _has_blocks() -> bool:
    """Whether the terminal has the characters of the plot."""
    try:
        "▁█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
