"""``wheeltapper device why``: why a device runs the release that it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import format_time, open_client, print_json, printable

__all__ = ["device_why"]


def device_why(
    device: str,
    pipeline: Annotated[str | None, typer.Option(help="Only this pipeline.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say why a device runs what it runs: who brought it, what is asked of it now, and what failed or gave way."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.campaign_calls import explain_device

        found = explain_device(client, device, pipeline)
    if as_json:
        print_json(found)
        return
    for each in found["pipelines"]:
        typer.echo(each["pipeline"])
        for line in (each["runs"], each["asked"], each["failed"], *each["beaten"]):
            if line:
                typer.echo(f"  {printable(line)}")
        for happening in each["happenings"]:
            typer.echo(f"    {format_time(happening['at'])}  {printable(happening['sentence'])}")
    if not found["pipelines"]:
        typer.echo("nothing is known of it yet: it has reported no pipeline, and no campaign asks for it")
