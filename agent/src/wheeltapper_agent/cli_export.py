"""The command ``wheeltapper-agent export``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_agent.cli_support import DEFAULT_CONFIG, ConfigOption, JsonOption, fail
from wheeltapper_agent.ground.errors import AgentError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(export)


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
