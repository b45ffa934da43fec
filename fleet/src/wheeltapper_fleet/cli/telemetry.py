"""``wheeltapper device records``, ``history`` and ``features``: what a device delivered, one by one and as curves."""

from __future__ import annotations

import time
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import format_time, open_client, print_json, print_table

__all__ = ["device_features", "device_history", "device_records"]

_Hours = Annotated[float, typer.Option(min=0.01, max=87_600, help="How far back.")]


def device_records(
    device: str,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many.")] = 20,
    kind: Annotated[str | None, typer.Option(help="Only telemetry, alert or report.")] = None,
    hours: _Hours = 24.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the newest records that a device delivered."""
    query: dict[str, Any] = {"order": "newest", "limit": min(limit, 1000), "from": time.time() - hours * 3600}
    if kind is not None:
        query["kind"] = kind
    with open_client(url, token_file, data_dir) as client:
        found = list(islice(client.items(f"/devices/{quote(device, safe='')}/records", query), limit))
    if as_json:
        print_json(found)
        return
    columns = ("RECEIVED", "SEQ", "KIND", "PIPELINE", "WINDOW", "RELEASE", "SCORE", "SEVERITY")
    rows = [
        (
            format_time(each["received_at"]),
            each["seq"],
            each["kind"],
            each["pipeline"],
            each["window"],
            f"{each['model']}/{each['release']}" if each["model"] else None,
            _number(each["score"]),
            each["severity"],
        )
        for each in found
    ]
    print_table(columns, rows, "no record of that time")


def device_history(
    device: str,
    pipeline: Annotated[str, typer.Option(help="The name of one of the device's pipelines.")],
    hours: _Hours = 24.0,
    points: Annotated[int, typer.Option(min=1, max=2000, help="How many points at most.")] = 48,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the scores of a pipeline over time: mean, extremes, latency, warnings and alerts."""
    now = time.time()
    query: dict[str, Any] = {"pipeline": pipeline, "from": now - hours * 3600, "to": now, "points": points}
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", f"/devices/{quote(device, safe='')}/history", **query)
    if as_json:
        print_json(found)
        return
    columns = (
        "FROM",
        "WINDOWS",
        "NO SCORE",
        "MEAN",
        "LEAST",
        "GREATEST",
        "LATENCY MS",
        "WARNING",
        "CRITICAL",
        "ALERTS",
    )
    rows = [
        (
            format_time(each["at"]),
            each["windows"],
            each["missing"],
            _number(each["mean"]),
            _number(each["min"]),
            _number(each["max"]),
            _number(each["latency_mean_ms"]),
            each["warnings"],
            each["criticals"],
            each["alerts"],
        )
        for each in found["points"]
    ]
    print_table(columns, rows, "no window of that time")


def device_features(
    device: str,
    pipeline: Annotated[str, typer.Option(help="The name of one of the device's pipelines.")],
    hours: _Hours = 168.0,
    condition: Annotated[str | None, typer.Option(help="A feature that says the condition, as speed.value.")] = None,
    low: Annotated[float | None, typer.Option(help="Only reports in which its mean was at least this.")] = None,
    high: Annotated[float | None, typer.Option(help="Only reports in which its mean was at most this.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the features of a pipeline over time, from its reports of drift: those that moved most first."""
    now = time.time()
    query: dict[str, Any] = {"pipeline": pipeline, "from": now - hours * 3600, "to": now}
    asked = {"condition": condition, "low": low, "high": high}
    query |= {name: value for name, value in asked.items() if value is not None}
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", f"/devices/{quote(device, safe='')}/features", **query)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["name"],
            len(each["points"]),
            _number(each["usual"]),
            _number(each["points"][0]["mean"]),
            _number(each["points"][-1]["mean"]),
            None if each["shift"] is None else f"{each['shift']:+.1f}",
        )
        for each in found["curves"]
    ]
    columns = ("FEATURE", "REPORTS", "USUAL", "FIRST", "NEWEST", "DEVIATIONS")
    print_table(columns, rows, f"no report of that time and condition; {found['reports']} were read")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
