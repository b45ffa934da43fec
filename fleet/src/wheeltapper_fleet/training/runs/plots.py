"""Plots of what a run measured, each one self-contained SVG: loss, ROC, confusion, reliability, remaining life, scores
over time, alarm budget. Pure.

Invariants:
    * A plot needs nothing beside itself: no script, no font, no file, no network.
    * It is at most some 60 kB however much was measured: of many points an even choice is drawn, and that is said.
    * What is not finite is left out; text is escaped.
    * The same numbers give the same bytes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.budget import CONFIDENCE, bounds_per_1000_hours, sustained

__all__ = [
    "budget_plot",
    "confusion_plot",
    "life_plot",
    "loss_plot",
    "reliability_plot",
    "roc_plot",
    "score_plot",
]

_WIDTH, _HEIGHT = 420.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 16.0, 30.0, 46.0
_COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
_POINTS: Final = 1500
_LINE_POINTS: Final = 300
_LEVELS: Final = 60
"""Levels of the score at which false alarms are counted."""
_CLASSES: Final = 12
_BINS: Final = 10
Numbers = npt.NDArray[Any]


class _Frame:
    """A drawing with two axes: from data to SVG coordinates."""

    def __init__(self, title: str, x: tuple[float, float], y: tuple[float, float], names: tuple[str, str]) -> None:
        self._x, self._y = _widened(x), _widened(y)
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" '
            'font-family="sans-serif" font-size="11">',
            f'<rect width="{_WIDTH:g}" height="{_HEIGHT:g}" fill="#fff"/>',
            _text(_LEFT, 18, title, 'font-size="13" font-weight="bold"'),
        ]
        self._axes(names)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is drawn."""
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return round(_LEFT + across * wide, 1), round(_HEIGHT - _BOTTOM - up * high, 1)

    def line(self, x: Sequence[float] | Numbers, y: Sequence[float] | Numbers, colour: str, more: str = "") -> None:
        """A line through points; what is not finite is left out."""
        points = [self.place(a, b) for a, b in _thinned(x, y, _LINE_POINTS)]
        text = " ".join(f"{a:g},{b:g}" for a, b in points)
        self.parts.append(f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="1.5" {more}/>')

    def dots(self, x: Numbers, y: Numbers, colour: str) -> None:
        """Points."""
        path = "".join(f"M{a:g} {b:g}h0" for a, b in (self.place(*each) for each in _thinned(x, y, _POINTS)))
        style = 'stroke-width="3" stroke-linecap="round" opacity="0.45"'
        self.parts.append(f'<path d="{path}" stroke="{colour}" {style}/>')

    def legend(self, names: Sequence[str]) -> None:
        """Names of lines, in their colours."""
        for number, name in enumerate(names[: len(_COLOURS)]):
            y = _TOP + 14 + 14 * number
            self.parts.append(_text(_WIDTH - _RIGHT - 6, y, name, f'text-anchor="end" fill="{_COLOURS[number]}"'))

    def svg(self) -> str:
        """The drawing."""
        return "\n".join([*self.parts, "</svg>\n"])

    def _axes(self, names: tuple[str, str]) -> None:
        left, bottom = self.place(self._x[0], self._y[0])
        right, top = self.place(self._x[1], self._y[1])
        self.parts.append(f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#444"/>')
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            x, y = (low + share * (high - low) for low, high in (self._x, self._y))
            at_x, at_y = self.place(x, self._y[0])[0], self.place(self._x[0], y)[1]
            self.parts.append(_text(at_x, bottom + 15, f"{x:.4g}", 'text-anchor="middle" fill="#444"'))
            self.parts.append(_text(left - 5, at_y + 4, f"{y:.3g}", 'text-anchor="end" fill="#444"'))
            self.parts.append(f'<path d="M{left} {at_y}H{right}" stroke="#e4e4e4"/>')
        self.parts.append(_text((left + right) / 2, _HEIGHT - 10, names[0], 'text-anchor="middle"'))
        middle = (top + bottom) / 2
        self.parts.append(_text(14, middle, names[1], f'text-anchor="middle" transform="rotate(-90 14 {middle:g})"'))


def loss_plot(losses: Mapping[str, Sequence[float]]) -> str:
    """The loss after each epoch, a line a net; the vertical axis is logarithmic.

    Args:
        losses: [epoch] by the net's name.
    """
    shown = {name: np.log10(np.maximum(np.asarray(each, dtype=float), 1e-12)) for name, each in losses.items()}
    longest = max((len(each) for each in shown.values()), default=1)
    everything = np.concatenate([each[np.isfinite(each)] for each in shown.values()] or [np.zeros(1)])
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    frame = _Frame("Loss", (1, max(2, longest)), (low, high), ("epoch", "loss, as power of ten"))
    for number, each in enumerate(shown.values()):
        frame.line(np.arange(1, len(each) + 1), each, _COLOURS[number % len(_COLOURS)])
    frame.legend(list(shown))
    return frame.svg()


def roc_plot(probabilities: Numbers, classes: Numbers, names: Sequence[str]) -> str:
    """The ROC curve of each class against the rest, with the area below it.

    Args:
        probabilities: [window, class].
        classes: [window], index of the true class.
        names: [class].
    """
    frame = _Frame("ROC, each class against the rest", (0, 1), (0, 1), ("false positive rate", "true positive rate"))
    frame.line([0, 1], [0, 1], "#bbb", 'stroke-dasharray="4 4"')
    legend = []
    for each in range(min(len(names), len(_COLOURS))):
        truth = classes == each
        if not 0 < truth.sum() < len(truth):
            legend.append(f"{names[each]}: not there")
            continue
        false, true = _roc(probabilities[:, each], truth)
        frame.line(false, true, _COLOURS[each])
        legend.append(f"{names[each]}: {float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2)):.3f}")
    for number, text in enumerate(legend):
        y = _HEIGHT - _BOTTOM - 8 - 14 * (len(legend) - 1 - number)
        frame.parts.append(_text(_WIDTH - _RIGHT - 6, y, text, f'text-anchor="end" fill="{_COLOURS[number]}"'))
    return frame.svg()


def _roc(score: Numbers, truth: Numbers) -> tuple[Numbers, Numbers]:
    """False and true positive rate at each threshold, equal scores together."""
    order = np.argsort(-score, kind="stable")
    ranked, right = score[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true, false = np.cumsum(right)[last], np.cumsum(~right)[last]
    return np.append(0.0, false / max(1, false[-1])), np.append(0.0, true / max(1, true[-1]))


def confusion_plot(predicted: Numbers, classes: Numbers, names: Sequence[str]) -> str:
    """How often each class (a row) was taken for each (a column): counts, shaded by their share of the row."""
    count = min(len(names), _CLASSES)
    parts = _Frame("Confusion: rows are true, columns are said", (0, 1), (0, 1), ("", "")).parts[:3]
    size = (_HEIGHT - _TOP - 60) / max(1, count)
    for row in range(count):
        whole = max(1, int(np.sum(classes == row)))
        parts.append(_text(100, _TOP + size * (row + 0.5) + 4, _short(names[row]), 'text-anchor="end"'))
        at = 106 + size * (row + 0.5)
        turned = f'text-anchor="end" transform="rotate(-35 {at:g} {_HEIGHT - 48:g})"'
        parts.append(_text(at, _HEIGHT - 48, _short(names[row]), turned))
        for column in range(count):
            found = int(np.sum((classes == row) & (predicted == column)))
            share = found / whole
            x, y = 106 + size * column, _TOP + size * row
            fill = "#1f77b4" if row == column else "#d62728"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{size - 1:.1f}" height="{size - 1:.1f}" fill="{fill}" '
                f'fill-opacity="{share:.3f}" stroke="#ddd"/>'
            )
            parts.append(_text(x + size / 2, y + size / 2 + 4, str(found), 'text-anchor="middle"'))
    return "\n".join([*parts, "</svg>\n"])


def reliability_plot(probabilities: Numbers, classes: Numbers) -> str:
    """How often the likeliest class is right, beside how probable it was said to be; the diagonal is calibrated."""
    best, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    part = np.minimum((best * _BINS).astype(int), _BINS - 1)
    there = [each for each in range(_BINS) if (part == each).any()]
    said = [float(best[part == each].mean()) for each in there]
    was = [float(right[part == each].mean()) for each in there]
    frame = _Frame("Reliability of the likeliest class", (0, 1), (0, 1), ("said probability", "share that is right"))
    frame.line([0, 1], [0, 1], "#bbb", 'stroke-dasharray="4 4"')
    frame.line(said, was, _COLOURS[0])
    for each, x, y in zip(there, said, was, strict=True):
        at = frame.place(x, y)
        radius = 2 + 6 * float(np.sqrt(np.mean(part == each)))
        frame.parts.append(
            f'<circle cx="{at[0]:g}" cy="{at[1]:g}" r="{radius:.1f}" fill="{_COLOURS[0]}" fill-opacity="0.6"/>'
        )
    return frame.svg()


def life_plot(predicted: Numbers, truth: Numbers, unit: str) -> str:
    """The life that was said to remain beside that which did, a point a window; the diagonal is right."""
    both = np.concatenate([predicted, truth]).astype(float)
    both = both[np.isfinite(both)]
    high = float(both.max()) if len(both) else 1.0
    frame = _Frame(
        f"Remaining life in {unit}, of machines that were not seen", (0, high), (0, high), ("true", "predicted")
    )
    frame.dots(truth, predicted, _COLOURS[0])
    frame.line([0, high], [0, high], "#444", 'stroke-dasharray="4 4"')
    if len(truth) > _POINTS:
        frame.parts.append(_text(_LEFT + 6, _TOP + 12, f"{_POINTS} of {len(truth)} windows", 'fill="#777"'))
    return frame.svg()


def score_plot(scores: Mapping[str, Numbers], step_seconds: float) -> str:
    """The scores of healthy windows over time, a line a machine; of many machines those with the greatest score.

    Args:
        scores: [window] by the machine's name.
        step_seconds: from one window to the next.
    """
    high = {name: float(np.max(each[np.isfinite(each)], initial=0.0)) for name, each in scores.items()}
    shown = sorted(scores, key=lambda name: (-high[name], name))[: len(_COLOURS)]
    hours = max(len(scores[name]) for name in shown) * step_seconds / 3600
    unit, factor = ("h", 3600.0) if hours >= 1 else ("min", 60.0)
    top = min(10.0, 1.1 * max(1.1, *(high[name] for name in shown)))
    title = "Scores of healthy windows, 1 is the threshold"
    frame = _Frame(title, (0, hours * 3600 / factor), (0, top), (f"time [{unit}]", "score"))
    for number, name in enumerate(shown):
        at, greatest = _greatest(scores[name])
        frame.line(at * step_seconds / factor, np.minimum(greatest, top), _COLOURS[number])
    frame.line([0, hours * 3600 / factor], [1, 1], "#444", 'stroke-dasharray="4 4"')
    frame.legend(shown)
    if len(shown) < len(scores):
        text = f"{len(shown)} of {len(scores)} machines, those with the greatest score"
        frame.parts.append(_text(_LEFT + 6, _TOP + 12, text, 'fill="#777"'))
    return frame.svg()


def _greatest(values: Numbers) -> tuple[Numbers, Numbers]:
    """Where parts of a series begin, and the greatest value of each: a peak is drawn, however long the series is."""
    edges = np.unique(np.linspace(0, len(values), min(len(values), _LINE_POINTS) + 1).astype(int))
    finite = np.where(np.isfinite(values), values, -np.inf)
    return edges[:-1], np.maximum.reduceat(finite, edges[:-1])


def budget_plot(scores: Mapping[str, Numbers], step_seconds: float, windows: int, per_1000_hours: float) -> str:
    """False alarms in 1,000 machine-hours, for each level that the threshold might have: as many as there were, and as
    many as that allows with confidence. The budget is a line across, the threshold one upward; the vertical axis is
    logarithmic.

    Args:
        scores: [window] of healthy windows by the machine's name.
        step_seconds: from one window to the next.
        windows: so many in a row raise an alarm.
        per_1000_hours: the budget.
    """
    spans = [sustained(np.where(np.isfinite(each), each, 0.0), windows) for each in scores.values() if len(each)]
    hours = sum(len(each) for each in scores.values()) * step_seconds / 3600
    top = max(1.5, 1.1 * max(float(each.max()) for each in spans))
    levels = np.linspace(0.0, min(top, 10.0), _LEVELS + 1)[1:]
    counts = [sum(_rises(each, level) for each in spans) for level in levels.tolist()]
    most = np.log10([bounds_per_1000_hours(count, hours)[1] for count in counts])
    least = min(float(most.min()), np.log10(per_1000_hours)) - 0.3
    seen = np.array([np.log10(1000 * count / hours) if count else np.nan for count in counts])
    names = "level of the score", "alarms in 1,000 h, as power of ten"
    frame = _Frame("False alarms by level", (0, float(levels[-1])), (least, float(most.max()) + 0.2), names)
    frame.line(levels, most, _COLOURS[0])
    frame.line(levels, seen, _COLOURS[2])
    frame.line([0, float(levels[-1])], [float(np.log10(per_1000_hours))] * 2, _COLOURS[1], 'stroke-dasharray="4 4"')
    frame.line([1, 1], [least, float(most.max())], "#444", 'stroke-dasharray="4 4"')
    legend = (
        (f"at most, {CONFIDENCE:.0%} confidence", 0),
        (f"budget: {per_1000_hours:g}", 1),
        (f"seen in {hours:.3g} h", 2),
    )
    for line, (text, colour) in enumerate(legend):
        style = f'text-anchor="end" fill="{_COLOURS[colour]}"'
        frame.parts.append(_text(_WIDTH - _RIGHT - 6, _TOP + 14 + 14 * line, text, style))
    return frame.svg()


def _rises(values: Numbers, level: float) -> int:
    """How often a series comes to a level from below; that it begins there counts."""
    above = values >= level
    return int(above[0]) + int(np.sum(above[1:] & ~above[:-1]))


def _thinned(x: Sequence[float] | Numbers, y: Sequence[float] | Numbers, most: int) -> list[tuple[float, float]]:
    """The finite points, or an even choice of them, the last one too."""
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    finite = np.flatnonzero(np.isfinite(across) & np.isfinite(up))
    if len(finite) > most:
        finite = finite[np.unique(np.linspace(0, len(finite) - 1, most).astype(int))]
    return [(float(across[i]), float(up[i])) for i in finite]


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = float(span[0]), float(span[1])
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _short(text: str) -> str:
    return text if len(text) <= 14 else f"{text[:13]}…"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    plain = "".join(character for character in text if character.isprintable())
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(plain)}</text>'
