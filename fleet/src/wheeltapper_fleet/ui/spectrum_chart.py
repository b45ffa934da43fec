"""Charts of a diagnosis, in SVG coordinates: waveforms, spectra with markers of a bearing's faults, waterfalls. Pure.

A marker stands at ``(order x harmonic + side x step) x speed``: the fault's order in turns of the shaft, and sidebands
at the order that modulates it (the shaft for the races, the cage for rolling elements). The page's script moves them
with the speed; they are placed here as they stand when the page is made.

Invariant: what is not finite is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.assets.rules import bearing_orders
from wheeltapper_fleet.assets.schemas import Bearing
from wheeltapper_fleet.captures.spectra import Spectrum, Waveform

__all__ = [
    "FAULTS",
    "HEIGHT",
    "MOST_HARMONICS",
    "MOST_SIDES",
    "WIDTH",
    "Chart",
    "Fault",
    "Marker",
    "draw_rows",
    "draw_spectra",
    "draw_waveform",
    "faults_of",
    "markers",
]

WIDTH: Final = 1000.0
HEIGHT: Final = 180.0
_FOOT: Final = 4.0
MOST_HARMONICS: Final = 10
MOST_SIDES: Final = 3
_ROW_STEP: Final = 14.0
_ROW_HEIGHT: Final = 60.0
FAULTS: Final = ("bpfo", "bpfi", "bsf", "ftf")


@dataclass(frozen=True)
class Fault:
    """A fault of a bearing: its name (``bpfo``), how often it strikes and what modulates it, in turns of the shaft."""

    name: str
    order: float
    step: float


@dataclass(frozen=True)
class Marker:
    """A line of a fault: which harmonic and sideband, where it is drawn, and whether it is shown."""

    fault: str
    harmonic: int
    side: int
    x: float
    shown: bool


@dataclass(frozen=True)
class Chart:
    """Curves in SVG coordinates.

    Args:
        lines: the points of each curve.
        low, high: the left and the right edge, in Hz or seconds.
        top: the amplitude at the upper edge.
        ticks: five values of the axis, from left to right.
    """

    lines: tuple[str, ...]
    low: float
    high: float
    top: float
    ticks: tuple[float, ...]


def faults_of(bearing: Bearing) -> tuple[Fault, ...]:
    """The faults of a bearing. A defect of a rolling element strikes a race twice a turn of the element."""
    orders = bearing_orders(bearing)
    cage = orders["cage"]
    return (
        Fault("bpfo", orders["outer_race"], 1.0),
        Fault("bpfi", orders["inner_race"], 1.0),
        Fault("bsf", 2 * orders["rolling_element"], cage),
        Fault("ftf", cage, cage),
    )


def markers(
    faults: Sequence[Fault], shaft_hz: float, low: float, high: float, harmonics: int, sides: int
) -> list[Marker]:
    """All markers that a reader can bring up, those within ``harmonics`` and ``sides`` shown."""
    found = []
    for fault in faults:
        for harmonic in range(1, MOST_HARMONICS + 1):
            for side in range(-MOST_SIDES, MOST_SIDES + 1):
                if fault.name == "ftf" and side:
                    continue  # its sidebands are its harmonics
                hz = (fault.order * harmonic + side * fault.step) * shaft_hz
                inside = low <= hz <= high and hz > 0
                shown = inside and harmonic <= harmonics and abs(side) <= sides
                x = round(WIDTH * (hz - low) / (high - low), 1) if inside else -10.0
                found.append(Marker(fault.name, harmonic, side, x, shown))
    return found


def draw_spectra(spectra: Sequence[Spectrum], low: float, high: float) -> Chart:
    """One or two spectra over the same axes, from ``low`` to ``high`` Hz."""
    top = max((float(each.amplitude.max(initial=0.0)) for each in spectra), default=0.0)
    top = top if math.isfinite(top) and top > 0 else 1.0
    lines = tuple(
        " ".join(
            f"{WIDTH * (hz - low) / (high - low):.1f},{_height(amplitude, top):.1f}"
            for hz, amplitude in zip(each.hz.tolist(), each.amplitude.tolist(), strict=True)
            if math.isfinite(amplitude)
        )
        for each in spectra
    )
    return Chart(lines, low, high, top, _ticks(low, high))


def draw_waveform(wave: Waveform, end_s: float) -> Chart:
    """A waveform as one closed band between the least and the greatest sample of each stretch."""
    top = max(abs(float(wave.low.min(initial=0.0))), abs(float(wave.high.max(initial=0.0))))
    top = top if math.isfinite(top) and top > 0 else 1.0

    def point(at: float, value: float) -> str:
        kept = value if math.isfinite(value) else 0.0
        return f"{WIDTH * at / max(end_s, 1e-9):.1f},{HEIGHT / 2 - (HEIGHT / 2 - _FOOT) * kept / top:.1f}"

    times = wave.at_s.tolist()
    upper = [point(at, value) for at, value in zip(times, wave.high.tolist(), strict=True)]
    lower = [point(at, value) for at, value in zip(times, wave.low.tolist(), strict=True)]
    return Chart((" ".join([*upper, *reversed(lower)]),), 0.0, end_s, top, _ticks(0.0, end_s))


def draw_rows(rows: Sequence[Sequence[float]], high_hz: float) -> tuple[Chart, float]:
    """A waterfall: each row a curve, the first at the back, and the height of the whole."""
    top = max((max(row, default=0.0) for row in rows), default=0.0)
    top = top if math.isfinite(top) and top > 0 else 1.0
    lines = []
    for number, row in enumerate(rows):
        foot = _ROW_HEIGHT + number * _ROW_STEP
        step = WIDTH / max(1, len(row))
        drawn = " ".join(
            f"{(place + 0.5) * step:.0f},{foot - _ROW_HEIGHT * value / top:.1f}"
            for place, value in enumerate(row)
            if math.isfinite(value)
        )
        lines.append(f"0,{foot:.0f} {drawn} {WIDTH:.0f},{foot:.0f}")
    height = _ROW_HEIGHT + max(0, len(rows) - 1) * _ROW_STEP + 2
    return Chart(tuple(lines), 0.0, high_hz, top, _ticks(0.0, high_hz)), height


def _height(amplitude: float, top: float) -> float:
    return HEIGHT - _FOOT - (HEIGHT - 2 * _FOOT) * max(0.0, amplitude) / top


def _ticks(low: float, high: float) -> tuple[float, ...]:
    return tuple(low + (high - low) * part / 4 for part in range(5))
