"""The demo's live view in the terminal: devices with their scores, campaigns, alerts, and what has happened so far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from wheeltapper_fleet.errors import FleetError

__all__ = ["LiveView", "render"]

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = {"normal": "green", "warning": "yellow", "critical": "red"}
_STATES = {"COMPLETED": "green", "RUNNING": "cyan", "PAUSED": "yellow", "ABORTED": "red"}


def _spark(scores: Sequence[float], width: int = 24) -> str:
    """Scores as small bars; the tallest is at twice the warning threshold."""
    return "".join(_BARS[min(7, max(0, int(score / 2.0 * 7)))] for score in scores[-width:])


def _devices(devices: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Devices", title_justify="left", expand=True, box=None)
    for column in ("device", "", "release", "update", "score", "last scores (1 is the warning threshold)"):
        table.add_column(column)
    for device in devices:
        pipeline = device["pipelines"][0] if device["pipelines"] else {}
        colour = _COLOURS.get(device["severity"] or "", "white")
        score = "–" if device["score"] is None else f"{device['score']:.2f}"
        table.add_row(
            device["id"],
            Text("online", "green") if device["online"] else Text("offline", "red"),
            str(pipeline.get("release") or "–"),
            device["execution_state"] or "–",
            Text(score, colour),
            Text(_spark([point["score"] for point in device["scores"]]), colour),
        )
    return table


def _campaigns(campaigns: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Campaigns", title_justify="left", expand=True, box=None)
    for column in ("campaign", "release", "state", "executions", "why"):
        table.add_column(column)
    for campaign in campaigns:
        waves = [
            f"wave {int(wave) + 1}: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            for wave, states in sorted(campaign["executions"].items())
        ]
        state = Text(campaign["state"], _STATES.get(campaign["state"], "white"))
        row = [campaign["id"][:12], str(campaign["spec"].get("release", "–"))]
        table.add_row(*row, state, "\n".join(waves), campaign["reason"])
    return table


def _alerts(alerts: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Alerts", title_justify="left", expand=True, box=None)
    for column in ("device", "machine time", "severity", "score", "what moved"):
        table.add_column(column)
    for alert in sorted(alerts, key=lambda alert: -alert["id"])[:6]:
        moved = ", ".join(f"{reason['feature']} {reason['share']:.0%}" for reason in alert["reasons"][:3])
        severity = Text(alert["severity"] if alert["raised"] else "over", _COLOURS.get(alert["severity"], "white"))
        table.add_row(alert["device"], f"{alert['t_s'] / 60:.0f} min", severity, f"{alert['score']:.2f}", moved)
    return table


def render(
    summary: dict[str, Any], devices: Sequence[dict[str, Any]], steps: Sequence[str], url: str, token_file: str
) -> RenderableType:
    """One picture of the fleet."""
    records = sum(totals["stored"] for totals in summary["records"].values())
    said = "\n".join(f"✓ {step}" for step in steps[-6:]) or "starting …"
    head = Text.assemble(
        ("Wheeltapper", "bold"), f"   page: {url}   sign in with the token in {token_file}   records stored: {records}"
    )
    return Group(
        head, Panel(said, title="The story so far", title_align="left"), _devices(devices),
        _campaigns(summary["campaigns"]), _alerts(summary["alerts"]),
    )  # fmt: skip


class LiveView:
    """Redraws twice a second in a thread of its own until it is closed."""

    def __init__(self, console: Console, draw: Callable[[], RenderableType]) -> None:
        self._live = Live(Text("starting …"), console=console, refresh_per_second=4, transient=False)
        self._draw = draw
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="view", daemon=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=5)
        self._live.stop()

    def _loop(self) -> None:
        while not self._end.wait(0.5):
            try:
                self._live.update(self._draw())
            except (httpx.HTTPError, FleetError, OSError):  # the fleet service is just starting or restarting
                continue
