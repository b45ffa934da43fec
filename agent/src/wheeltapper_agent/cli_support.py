"""What the commands of ``wheeltapper-agent`` share: common options, the token file, and the line for an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["DEFAULT_CONFIG", "ConfigOption", "JsonOption", "fail", "read_token_file"]

DEFAULT_CONFIG = Path("/etc/wheeltapper/agent.toml")
"""Where ``install`` puts the configuration; equal to :data:`wheeltapper_agent.host.systemd_unit.CONFIG_FILE`."""
ConfigOption = Annotated[Path, typer.Option("--config", help="The agent's configuration (TOML).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_token_file(path: Path) -> str:
    """The text of a file that holds an enrolment token.

    Raises:
        AgentError: ``enrol.token``: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError("enrol.token", f"the token file {path} cannot be read: {error}") from error


def fail(error: AgentError | ProtocolError) -> NoReturn:
    """End the command with one line on standard error, ``error: <message> [<code>]``, and exit code 2."""
    print(f"error: {error.message} [{error.code}]", file=sys.stderr)
    raise typer.Exit(2)
