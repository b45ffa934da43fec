"""What the commands of ``wheeltapper-agent`` share: common options, the token file, the line for an error, and how the
program runs and ends.

Invariants:
    * Whatever is wrong, standard error gets one line that ends with a stable code, and the exit code is the documented
      one. A traceback is an error of the program.
    * Text that the terminal's encoding does not have is replaced, never an error.
"""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.usage import wrong_usage

__all__ = ["DEFAULT_CONFIG", "ConfigOption", "JsonOption", "agent_command", "fail", "read_token_file", "run_program"]

DEFAULT_CONFIG = Path("/etc/wheeltapper/agent.toml")
"""Where ``install`` puts the configuration; equal to :data:`wheeltapper_agent.host.systemd_unit.CONFIG_FILE`."""
ConfigOption = Annotated[Path, typer.Option("--config", help="The agent's configuration (TOML).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run_program(app: typer.Typer, program: str) -> NoReturn:
    """Run the command line, and end the process with the exit code that docs/cli.md says.

    Args:
        app: the commands.
        program: the name that help and errors call it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = typer.main.get_command(app).main(prog_name=program, standalone_mode=False)
    except typer.Abort:
        _end("it was not confirmed; nothing was changed", "usage.not_confirmed", 2)
    except OSError as error:
        _end(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", "cli.io", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's exceptions have it, wherever typer keeps them
            raise
        _end(*wrong_usage(error, program), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _end(message: str, code: str, status: int) -> NoReturn:
    print(f"error: {message} [{code}]", file=sys.stderr)
    sys.exit(status)


def agent_command(command: str, config: Path | None) -> str:
    """The command line of ``command`` for the agent with this configuration (None: it is not known), to be shown."""
    if config == DEFAULT_CONFIG:
        return f"wheeltapper-agent {command}"
    return f"wheeltapper-agent {command} --config {'…' if config is None else shlex.quote(str(config))}"


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
