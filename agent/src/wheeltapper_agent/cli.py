"""The command line ``wheeltapper-agent``: the commands enroll, run and replay; more are in other ``cli_*`` modules.

The commands only parse options and print; each imports the modules that it needs when it runs.

Exit codes: 0 done; 1 an internal error, or one of the operating system; 2 wrong usage, configuration or input, or a
refusal (its code is on standard error); 3 ``doctor`` found something that does not work; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from wheeltapper_agent import __version__, cli_device, cli_export
from wheeltapper_agent.cli_support import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    agent_command,
    fail,
    read_token_file,
    run_program,
)
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.python_path import child_environment, python_command

__all__ = ["app", "main"]

_HELP = """Runs models beside a machine and reports to its fleet.

Exit codes: 0 done; 1 an internal error, or one of the operating system; 2 wrong usage, configuration or input, or a
refusal; 3 doctor found something that does not work; 130 ended by Ctrl-C. An error is one line on standard error with
its stable code.
"""
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_device.register(app)
cli_export.register(app)
_MEMORY_SETTINGS = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of the agent: without it glibc gives each of a dozen idle threads a heap, and OpenBLAS a buffer."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"wheeltapper-agent {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


_SourceOption = Annotated[
    str, typer.Option("--source", help="What a configuration that is written reads: simulator, csv, mqtt, modbus, …")
]
_SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of the source that is written, e.g. path=run.csv; repeatable."),
]


@app.command()
def enroll(
    server: Annotated[
        str, typer.Option("--server", envvar="WHEELTAPPER_SERVER", help="The fleet's address: https://host:port")
    ] = "https://127.0.0.1:8443",
    token: Annotated[
        str,
        typer.Option(
            "--token", envvar="WHEELTAPPER_TOKEN", show_envvar=True, help="The one-time token; prefer --token-file."
        ),
    ] = "",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="A file that holds the token.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="The agent's configuration, which names the state folder; written if there is none."
        ),
    ] = None,
    source: _SourceOption = "",
    settings: _SetOption = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", help="The state folder, where the identity is kept.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Enrol this device: make a key, have the fleet certify it with a one-time token, store the identity.

    Where there is no configuration, one to begin with is written. Prefer --token-file or the environment
    for the token: others on the machine can see a command line.
    """
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.host.starting_config import configured
    from wheeltapper_agent.link.identity import enroll as do_enroll
    from wheeltapper_agent.link.identity import parse_token

    try:
        if token_file is not None:
            token = read_token_file(token_file)
        parsed = parse_token(token)
        if config is None and (DEFAULT_CONFIG.is_file() or source):
            config = DEFAULT_CONFIG
        if config is None and state_dir is None:
            raise AgentError(
                "config.missing_key", "give the folder where the identity is kept: --config or --state-dir"
            )
        with configured(config, source, state_dir, settings or ()) if config else contextlib.nullcontext():
            if settings:
                load_config(config or DEFAULT_CONFIG)  # refuses what the source does not know, before a key is made
            folder = state_dir or load_config(config or DEFAULT_CONFIG).device.state_dir
            identity = do_enroll(server, parsed, folder)
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
        print(f"{fleet.device} is enrolled; start the agent: `{agent_command('run', config)}`")


@app.command()
def run(
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    # Replace this process by one without the command line's libraries, in an environment that saves memory.
    line = python_command("-m", "wheeltapper_agent.daemon", str(config), *(["--verbose"] if verbose else []))
    os.execve(line[0], line, _MEMORY_SETTINGS | child_environment(os.environ))  # noqa: S606  # our own module


@app.command()
def replay(
    bundle: Annotated[Path, typer.Option("--bundle", help="A folder with manifest.json.")],
    recording: Annotated[
        Path, typer.Option("--recording", help="A recording (.npz), or a .csv, .tsv, .parquet or .wav file.")
    ],
    channels: Annotated[
        str, typer.Option("--channels", help="Of a table: the columns of the release's channels, in order, e.g. ax,ay.")
    ] = "",
    scale: Annotated[
        str, typer.Option("--scale", help="Physical value = number in a table or .wav * scale, for each channel.")
    ] = "",
    time_column: Annotated[str, typer.Option("--time-column", help="Of a table: the column with the times.")] = "",
    time_unit: Annotated[str, typer.Option("--time-unit", help="Of times that are numbers: s, ms, us or ns.")] = "s",
    time_format: Annotated[str, typer.Option("--time-format", help="Of other times, as strptime has it.")] = "",
    delimiter: Annotated[str, typer.Option("--delimiter", help="Of a .csv: between two cells.")] = "auto",
    decimal: Annotated[str, typer.Option("--decimal", help="Of a table: its decimal separator, . or a comma.")] = ".",
    skip_rows: Annotated[int, typer.Option("--skip-rows", min=0, help="Of a .csv: lines before the header.")] = 0,
    header: Annotated[bool, typer.Option(help="Of a .csv: whether its first line names the columns.")] = True,
    missing: Annotated[
        list[str] | None, typer.Option("--missing", help="A text or number that means no value; repeatable.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Run a bundle over a recording without a fleet; prints one line per snapshot.

    This function is long because each option is a parameter.
    """
    from wheeltapper_agent.model.score_recording import score_recording
    from wheeltapper_protocols.tables.options import TableOptions

    written: dict[str, Any] = {"time_unit": time_unit, "decimal": decimal}  # their values are checked there
    try:
        options = TableOptions(
            channels=_entries(channels), time_column=time_column, time_format=time_format, delimiter=delimiter,
            skip_rows=skip_rows, header=header, missing=tuple(missing or ()), **written,
        )  # fmt: skip
        for row in score_recording(bundle, recording, options, _numbers(scale)):
            if json_output:
                print(json.dumps(row))
            else:
                score = "       -" if row["score"] is None else f"{row['score']:8.3f}"
                alert = " ALERT" if row["alert"] else ""
                details = "".join(f" {text}" for text in _details(row))
                print(f"{row['snapshot']:6d} {row['t_s']:12.1f} s {score} {row['severity']}{details}{alert}")
    except (AgentError, ProtocolError) as error:
        fail(error)
    except BrokenPipeError:
        # The reader has enough (head): no error. The interpreter must not flush into the closed pipe at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _entries(text: str) -> tuple[str, ...]:
    """The entries of a list with commas."""
    return tuple(entry.strip() for entry in text.split(",")) if text else ()


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of a list with commas.

    Raises:
        AgentError: ``config.invalid``.
    """
    try:
        return tuple(float(entry) for entry in _entries(text))
    except ValueError as error:
        raise AgentError("config.invalid", f"{text!r} is not a list of numbers such as 9.81,9.81") from error


def _details(row: dict[str, Any]) -> list[str]:
    """The parts of a replayed row beside its score: class, remaining life, zone, reasons."""
    details = [str(row["label"])] if row.get("label") else []
    if row.get("value") is not None:
        details.append(f"{row['value']:.4g} {row['unit']} left")
    if row.get("zone"):
        details.append(f"zone {row['zone']}")
    if row.get("reasons"):
        details.append(f"({', '.join(reason['feature'] for reason in row['reasons'])})")
    return details


def main() -> NoReturn:
    """Entry point of the command ``wheeltapper-agent``."""
    run_program(app, "wheeltapper-agent")


if __name__ == "__main__":
    main()
