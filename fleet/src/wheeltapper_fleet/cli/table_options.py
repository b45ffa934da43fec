"""Options that say what a table or a .wav file does not say of itself; the same in every command that reads them."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "Channels",
    "Decimal",
    "Delimiter",
    "Header",
    "Missing",
    "SampleRateHz",
    "Scale",
    "SkipRows",
    "TimeColumn",
    "TimeFormat",
    "TimeUnit",
    "Units",
    "WindowSamples",
]

SampleRateHz = Annotated[float, typer.Option(min=0, help="Of a table: samples a second.")]
WindowSamples = Annotated[int, typer.Option(min=0, help="Of a table or .wav: samples in a window.")]
Channels = Annotated[str, typer.Option(help="Of a table: its columns with samples, e.g. ax,ay; else all.")]
Units = Annotated[str, typer.Option(help="Of a table or .wav: a unit for each channel, e.g. g,g.")]
Scale = Annotated[str, typer.Option(help="Physical value = number in the file * scale, for each channel.")]
TimeColumn = Annotated[str, typer.Option(help="Of a table: the column with the time of each row.")]
TimeUnit = Annotated[str, typer.Option(help="Of times that are numbers: s, ms, us or ns.")]
TimeFormat = Annotated[str, typer.Option(help="Of times that are no ISO times: as strptime has it.")]
Delimiter = Annotated[str, typer.Option(help="Of a .csv: between two cells.")]
Decimal = Annotated[str, typer.Option(help="Of a table: its decimal separator, . or a comma.")]
SkipRows = Annotated[int, typer.Option(min=0, help="Of a .csv: lines before the header.")]
Header = Annotated[bool, typer.Option(help="Of a .csv: whether its first line names the columns.")]
Missing = Annotated[list[str] | None, typer.Option(help="A text or number that means no value; repeatable.")]
