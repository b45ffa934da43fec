"""What the commands of ``wheeltapper-agent`` share: options, and how a refusal is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["DEFAULT_CONFIG", "ConfigOption", "JsonOption", "fail"]

DEFAULT_CONFIG = Path("/etc/wheeltapper/agent.toml")
"""Where ``install`` puts it; the same as :data:`unit.CONFIG_FILE`."""
ConfigOption = Annotated[Path, typer.Option("--config", help="The agent's configuration (TOML).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(error: AgentError | ProtocolError) -> NoReturn:
    """One line on standard error, and exit code 2."""
    print(f"error: {error.message} [{error.code}]", file=sys.stderr)
    raise typer.Exit(2)
