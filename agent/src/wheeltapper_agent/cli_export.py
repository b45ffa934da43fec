"""The commands ``wheeltapper-agent export`` and ``wheeltapper-agent source try``: what a device holds and what a source
gives."""

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


def _has_blocks() -> bool:
    """Whether the terminal has the characters of the plot."""
    try:
        "▁█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
