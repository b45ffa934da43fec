"""``wheeltapper-agent``: enroll, run, replay, and what :mod:`cli_device` adds. Thin; heavy modules are imported by the
command that needs them.

Exit codes: 0 done; 1 an error inside; 2 wrong usage, configuration, input or a refusal (its code is on stderr);
3 ``doctor`` found something that does not work.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_agent import cli_device
from wheeltapper_agent.cli_support import DEFAULT_CONFIG, ConfigOption, JsonOption, fail
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["app", "main"]

_HELP = """Runs models beside a machine and reports to its fleet.

Exit codes: 0 done; 1 an error inside; 2 wrong usage, configuration or input, or a refusal; 3 doctor found something
that does not work. A failure is one line with its code.
"""
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=_HELP)
cli_device.register(app)
_MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072", "OPENBLAS_NUM_THREADS": "1"}
"""glibc else gives each of a dozen quiet threads a heap of its own, and OpenBLAS a buffer."""


@app.command()
def enroll(
    server: Annotated[str, typer.Option("--server", help="The fleet's address: https://host:port")],
    token: Annotated[
        str, typer.Option("--token", envvar="WHEELTAPPER_TOKEN", show_envvar=True, help="The token.")
    ] = "",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="A file that holds the token.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="The agent's configuration; names the folder.")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="Where the identity is kept.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Make a key, have the fleet certify it with a one-time token, keep the identity.

    Prefer --token-file or the environment: a token on the command line can be seen by others on the machine.
    """
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.link.identity import enroll as do_enroll
    from wheeltapper_agent.link.identity import parse_token

    try:
        if token_file is not None:
            try:
                token = token_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise AgentError("enrol.token", f"{token_file} cannot be read: {error}") from error
        if config is None and DEFAULT_CONFIG.is_file():
            config = DEFAULT_CONFIG
        folder = state_dir or (load_config(config).device.state_dir if config else None)
        if folder is None:
            raise AgentError("config.missing_key", "say where the identity is kept: --config or --state-dir")
        identity = do_enroll(server, parse_token(token), folder)
    except (AgentError, ProtocolError) as error:
        fail(error)
    fleet = identity.fleet
    if json_output:
        print(
            json.dumps(
                {"device": fleet.device, "https_url": fleet.https_url, "mqtt": f"{fleet.mqtt_host}:{fleet.mqtt_port}"}
            )
        )
    else:
        print(f"{fleet.device} is enrolled; now: wheeltapper-agent run")


@app.command()
def run(
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    # The same process goes on without this module's libraries, and with the environment that keeps it small.
    line = [sys.executable, "-m", "wheeltapper_agent.daemon", str(config), *(["--verbose"] if verbose else [])]
    os.execve(sys.executable, line, {**_MEMORY, **os.environ})  # noqa: S606  # our own module


@app.command()
def replay(
    bundle: Annotated[Path, typer.Option("--bundle", help="A folder with manifest.json.")],
    recording: Annotated[Path, typer.Option("--recording", help="A recording (.npz).")],
    json_output: JsonOption = False,
) -> None:
    """Run a bundle over a recording without a fleet; with --json one line a snapshot."""
    from wheeltapper_agent.model.score_recording import score_recording

    try:
        for row in score_recording(bundle, recording):
            if json_output:
                print(json.dumps(row))
            else:
                score = "       -" if row["score"] is None else f"{row['score']:8.3f}"
                alert = " ALERT" if row["alert"] else ""
                said = "".join(f" {text}" for text in _said(row))
                print(f"{row['snapshot']:6d} {row['t_s']:12.1f} s {score} {row['severity']}{said}{alert}")
    except (AgentError, ProtocolError) as error:
        fail(error)
    except BrokenPipeError:
        # The reader went away (head): not an error; keep the interpreter from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said(row: dict[str, Any]) -> list[str]:
    """What a row of a replay has beside its score: class, remaining life, zone, reasons."""
    said = [str(row["label"])] if row.get("label") else []
    if row.get("value") is not None:
        said.append(f"{row['value']:.4g} {row['unit']} left")
    if row.get("zone"):
        said.append(f"zone {row['zone']}")
    if row.get("reasons"):
        said.append(f"({', '.join(reason['feature'] for reason in row['reasons'])})")
    return said


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
