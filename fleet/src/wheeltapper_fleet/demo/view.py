"""The demo's live view in the terminal: devices with their scores, campaigns, alerts, and the steps so far."""

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

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["LiveView", "render"]

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = {"normal": "green", "warning": "yellow", "critical": "red"}
_STATES = {
    "COMPLETED": "green", "COMMITTED": "green", "RUNNING": "cyan", "PAUSED": "yellow", "ABORTED": "red",
    "REJECTED": "red", "FAILED": "red", "ROLLED_BACK": "red",
}  # fmt: skip
_CRITICAL_SCORE = 2.0
_BESIDE_BARS = 56
_LOW_TERMINAL_ROWS = 34


def _state(name: str) -> Text:
    return Text(name.lower().replace("_", " "), _STATES.get(name, "white"))


def _sparkline(scores: Sequence[float], width: int) -> Text:
    """Scores as small bars, each in the colour of its severity; full height is twice the warning threshold."""
    bars = Text(no_wrap=True, overflow="crop")
    for score in scores[-width:]:
        colour = "green" if score < 1.0 else "yellow" if score < _CRITICAL_SCORE else "red"
        bars.append(_BARS[min(7, max(0, int(score / _CRITICAL_SCORE * 7)))], colour)
    return bars


def _table(title: str, *columns: tuple[str, int | None]) -> Table:
    """A table whose columns keep their widths, so that nothing moves between two frames."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", expand=True, box=None)
    for name, width in columns:
        table.add_column(name, width=width, ratio=None if width else 1)
    return table


def _devices(devices: Sequence[dict[str, Any]], width: int) -> Table:
    last = ("last scores (1 is the warning threshold)", None)
    table = _table("Devices", ("device", 12), ("", 7), ("release", 7), ("update", 12), ("score", 6), last)
    for device in devices:
        pipeline = device["pipelines"][0] if device["pipelines"] else {}
        colour = _COLOURS.get(device["severity"] or "", "white")
        score = "–" if device["score"] is None else f"{device['score']:.2f}"
        table.add_row(
            device["id"],
            Text("online", "green") if device["online"] else Text("offline", "red"),
            str(pipeline.get("release") or "–"),
            _state(device["execution_state"] or "–"),
            Text(score, colour),
            _sparkline([point["score"] for point in device["scores"]], width - _BESIDE_BARS),
        )
    return table


def _campaigns(campaigns: Sequence[dict[str, Any]]) -> Table:
    table = _table("Campaigns", ("campaign", 14), ("release", 7), ("state", 10), ("executions", None), ("why", None))
    for campaign in campaigns[:4]:
        waves = Text()
        for wave, states in sorted(campaign["executions"].items(), key=lambda item: int(item[0])):
            waves.append(f"{'  ' if waves else ''}wave {wave}:", "dim")
            for name, count in sorted(states.items()):
                waves.append(f" {count} ").append_text(_state(name))
        row = [campaign["id"], str(campaign["spec"].get("release", "–"))]
        table.add_row(*row, _state(campaign["state"]), waves, campaign["reason"])
    return table


def _alerts(alerts: Sequence[dict[str, Any]]) -> Table:
    table = _table("Alerts", ("device", 12), ("machine time", 12), ("severity", 8), ("score", 6), ("what moved", None))
    for alert in sorted(alerts, key=lambda alert: -alert["id"])[:4]:
        score = "none" if alert["score"] is None else f"{alert['score']:.2f}"
        moved = ", ".join(f"{reason['feature']} {reason['share']:.0%}" for reason in alert["reasons"][:3])
        severity = Text(alert["severity"] if alert["raised"] else "over", _COLOURS.get(alert["severity"], "white"))
        table.add_row(alert["device"], f"{alert['t_s'] / 60:.0f} min", severity, score, moved)
    if not alerts:
        table.add_row("none", "", "", "", "")
    return table


def render(
    summary: dict[str, Any], devices: Sequence[dict[str, Any]], steps: Sequence[str], url: str, token_file: str,
    size: tuple[int, int] = (160, 45),
) -> RenderableType:  # fmt: skip
    """Draw one frame.

    Args:
        summary, devices: as the admin API gives them.
        steps: the story's steps so far.
        url: the page's URL.
        token_file: the file with the token to sign in with.
        size: the terminal's columns and rows.
    """
    width, rows = size
    records = summary["records"]["stored"]
    shown = steps[-6:] if rows >= _LOW_TERMINAL_ROWS else steps[-2:]
    story = Text("\n".join(f"✓ {step}" for step in shown) or "starting …", no_wrap=True, overflow="ellipsis")
    head = Text.assemble(
        ("Wheeltapper", "bold"), "   page ", (url, "bold cyan"), f"   {records} records stored   Ctrl-C ends it\n",
        ("sign in with the token from: ", "dim"), f"cat {token_file}",
    )  # fmt: skip
    return Group(
        head, Panel(story, title="The story so far", title_align="left"), _devices(devices, width),
        _alerts(summary["alerts"]), _campaigns(summary["campaigns"]),
    )  # fmt: skip


class LiveView:
    """Draws a frame twice a second, in a thread of its own, until it is closed.

    Args:
        console: the terminal.
        draw: gives the next frame.
    """

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
