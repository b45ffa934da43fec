"""``wheeltapper device capture``: recordings from devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import BAD_INPUT, fail, open_client, print_json, print_result, print_table

__all__ = ["capture_app"]

capture_app = typer.Typer(help="Recordings from devices.", no_args_is_help=True)


@capture_app.command("create")
def capture_create(
    device: str,
    pipeline: Annotated[str, typer.Option(help="Which sensor stream.")],
    snapshots: Annotated[int, typer.Option(min=1, max=100_000, help="How many windows.")],
    out: Annotated[Path | None, typer.Option(help="Wait for the recording, and write it here (.npz).")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a device for a recording of its next windows."""
    with open_client(url, token_file, data_dir) as client:
        command = client.request_capture(device, pipeline, snapshots)
        if out is None:
            print_result({"command": command, "device": device}, command, as_json)
            return
        typer.echo(f"waiting for {snapshots} windows of {device}", err=True)
        client.await_capture(command)
        length = client.fetch_capture(command, out)
    result = {"command": command, "device": device, "path": str(out), "length": length}
    print_result(result, f"{out}: {length} bytes", as_json)


@capture_app.command("list")
def capture_list(
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List recordings, asked for or received."""
    with open_client(url, token_file, data_dir) as client:
        found = client.captures(device)
    if as_json:
        print_json(found)
        return
    columns = ("command", "device", "pipeline", "state", "code", "snapshots", "length")
    print_table(
        [name.upper() for name in columns], [[item[name] for name in columns] for item in found], "no recording yet"
    )


@capture_app.command("fetch")
def capture_fetch(
    command: str,
    out: Annotated[Path, typer.Option(help="File to write (.npz).")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a recording."""
    if out.exists() and not force:
        fail("capture.exists", f"{out} is there already: choose another file, or give --force", BAD_INPUT)
    with open_client(url, token_file, data_dir) as client:
        length = client.fetch_capture(command, out)
    print_result({"command": command, "path": str(out), "length": length}, f"{out}: {length} bytes", as_json)
