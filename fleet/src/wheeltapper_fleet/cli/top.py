"""``wheeltapper top``: the fleet in the terminal, renewed every few seconds. Each renewal is three requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import open_client, print_json, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wheeltapper_fleet.client.fleet_client import FleetClient

__all__ = ["top"]

_COLOURS = {"critical": "red", "warning": "yellow", "ABORTED": "red", "PAUSED": "yellow", "RUNNING": "cyan"}
_ENDED = ("COMPLETED", "ABORTED", "ROLLED_BACK")


def top(
    every: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds between two readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one reading, and end.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the fleet live: devices, cases by risk, campaigns under way. Ctrl-C ends it."""
    with open_client(url, token_file, data_dir) as client:
        if as_json:
            print_json(_read(client))
            return
        from rich.console import Console
        from rich.live import Live

        console = Console()
        if once or not console.is_terminal:
            console.print(_drawn(_read(client), 40))
            return
        with Live(_drawn(_read(client), console.height), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(_drawn(_read(client), console.height), refresh=True)


def _read(client: FleetClient) -> dict[str, Any]:
    """What is shown: numbers, the riskiest cases, and the newest campaigns."""
    summary = client.summary()
    cases = client.call("GET", "/cases", None, limit=50, attention="person", order="risk")["items"]
    return {
        "devices": {"enrolled": summary["devices_enrolled"], "online": summary["devices_online"]},
        "records": summary["records"],
        "windows": summary["windows"],
        "cases": cases,
        "campaigns": summary["campaigns"],
    }


def _drawn(found: dict[str, Any], height: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    devices, records = found["devices"], found["records"]
    away = devices["enrolled"] - devices["online"]
    head = Text.assemble(
        (f"{devices['online']} of {devices['enrolled']} devices online", "bold"),
        (f"   {away} away", "yellow" if away else "dim"),
        (f"   {found['windows']} windows   {records['stored']} records stored", "dim"),
        (f"   {records['missing']} missing", "yellow" if records["missing"] else "dim"),
    )
    running = [each for each in found["campaigns"] if each["state"] not in _ENDED]
    campaigns = (running or found["campaigns"])[:6]
    return Group(
        head, Text(), _cases(found["cases"], max(3, height - len(campaigns) - 9)), Text(), _campaigns(campaigns)
    )


def _cases(cases: list[dict[str, Any]], most: int) -> RenderableType:
    from rich.text import Text

    table = _table(f"Cases that need a person ({len(cases)})", "case", "risk", "severity", "state", "where", "why")
    for each in cases[:most]:
        where = each["point"] or each["machine"] or f"{each['device']}/{each['pipeline']}"
        table.add_row(
            str(each["id"]),
            f"{each['risk']:.0f}",
            _coloured(each["severity"] or ""),
            each["state"].replace("_", " "),
            Text(printable(str(where))),
            Text(printable(str((each["why"] or ["–"])[0]))),
        )
    return table if cases else Text("No case needs a person.", "green")


def _campaigns(campaigns: list[dict[str, Any]]) -> RenderableType:
    from rich.text import Text

    table = _table("Campaigns", "campaign", "state", "release", "done", "of")
    for each in campaigns:
        counts: dict[str, int] = {}
        for wave in each["executions"].values():
            for state, count in wave.items():
                counts[state] = counts.get(state, 0) + count
        release = f"{each['spec']['model']} r{each['spec']['release']}"
        table.add_row(
            each["id"],
            _coloured(each["state"]),
            Text(printable(release)),
            str(counts.get("COMMITTED", 0)),
            str(sum(counts.values())),
        )
    return table if campaigns else Text("No campaign yet.", "dim")


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", expand=True, box=None)
    for name in columns:
        table.add_column(
            name, no_wrap=True, overflow="ellipsis", justify="right" if name in ("risk", "done", "of") else "left"
        )
    return table


def _coloured(state: str) -> Any:
    from rich.text import Text

    return Text(state.lower().replace("_", " "), _COLOURS.get(state, "white"))
