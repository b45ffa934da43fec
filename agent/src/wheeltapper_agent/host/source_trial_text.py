"""What ``wheeltapper-agent source try`` prints for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["spark_line", "trial_lines"]

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_ASCII: Final = "_.-~=+*#"
_QUIET: Final = ("windows", "values")
"""Counts that are no fault."""


def spark_line(points: Sequence[float | None], plain: bool = False) -> str:
    """Return numbers as a line of blocks, from the least to the greatest; a blank where one is missing.

    Args:
        points: the numbers.
        plain: whether to use ASCII only.
    """
    known = [point for point in points if point is not None]
    if not known:
        return " " * len(points)
    least, span = min(known), max(known) - min(known)
    blocks = _ASCII if plain else _BLOCKS
    top = len(blocks) - 1
    levels = [
        None if point is None else round((point - least) / span * top) if span > 0 else top // 2 for point in points
    ]
    return "".join(" " if level is None else blocks[level] for level in levels)


def trial_lines(report: Mapping[str, Any], plain: bool = False) -> list[str]:
    """The lines for what :func:`wheeltapper_agent.host.source_trial.try_source` found.

    Args:
        report: see there.
        plain: whether the terminal has ASCII only.
    """
    windows = f"{report['windows']} windows of {report['window_samples'] or '?'} samples"
    lines = [
        f"pipeline {report['pipeline']}, {report['kind']}: {report['state']}; {windows} in {report['seconds']:.1f} s"
    ]
    if report["shortened_from"]:
        lines.append(f"  a window of the pipeline has {report['shortened_from']} samples; this trial cut shorter ones")
    rates = report["rate_hz"]
    shown = [f"{rates['declared']:g} Hz declared"] if rates["declared"] else []
    shown += [f"{rates['by_times']:.6g} Hz by the times"] if rates["by_times"] else []
    if rates["by_arrival"] and report["kind"] not in ("replay", "simulator"):
        shown.append(f"{rates['by_arrival']:.4g} Hz came")
    if report["window_every_s"]:
        shown.append(f"a window begins every {report['window_every_s']:.4g} s")
    if shown:
        lines.append(f"  rate: {', '.join(shown)}")
    if report["first_t_s"] is not None:
        lines.append(f"  first sample: {_moment(report['first_t_s'])}")
    width = max((len(_named(channel)) for channel in report["channels"]), default=0)
    for channel in report["channels"]:
        lines.append(f"  {_named(channel):{width}}  {_values(channel)}")
        if channel.get("plot"):
            lines.append(f"  {'':{width}}  {spark_line(channel['plot'], plain)}")
    counts = [f"{name} {count}" for name, count in report["quality"].items() if name not in _QUIET and count]
    if report["windows"]:
        lines.append(f"  data quality: {', '.join(counts) or 'nothing is missing, late or refused'}")
    elif counts:
        lines.append(f"  data quality: {', '.join(counts)}")
    return [*lines, *(f"  said: {text}" for text in report["said"])]


def _named(channel: Mapping[str, Any]) -> str:
    """A channel with its unit."""
    return f"{channel['name']} [{channel['unit']}]" if channel["unit"] else str(channel["name"])


def _values(channel: Mapping[str, Any]) -> str:
    """What a channel gave, in words."""
    if "least" not in channel:
        return "no value"
    first = ", ".join("-" if value is None else f"{value:.4g}" for value in channel["first"][:4])
    return (
        f"{channel['least']:.4g} to {channel['greatest']:.4g}, mean {channel['mean']:.4g}, rms {channel['rms']:.4g}; "
        f"begins {first}"
    )


def _moment(t_s: float) -> str:
    """A time of a source: of the calendar where it can be one."""
    if t_s < 86_400 * 365:
        return f"{t_s:.6g} s"
    try:
        return datetime.fromtimestamp(t_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    except (ValueError, OverflowError):
        return f"{t_s:.6g} s, at no time that a calendar has"
