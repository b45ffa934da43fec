"""Names and numbers in words: what a feature measures, what a score, a zone or a defect means. Pure.

A page shows the words beside the name, never in its place: what a release calls a feature is what its manifest says.

Example:
    >>> feature_words("drive.bpfo_3")
    'outer race, 3rd harmonic'
    >>> score_words(1.7)
    '1.7 times the warning threshold'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["DEFECTS", "ZONES", "feature_words", "ordinal", "score_words", "zone_words"]

DEFECTS: Final[Mapping[str, str]] = {
    "bpfo": "outer race",
    "bpfi": "inner race",
    "bsf": "rolling element",
    "ftf": "cage",
}
"""Where a bearing is damaged, by the name of its frequency."""
ZONES: Final[Mapping[str, str]] = {
    "A": "as a new machine",
    "B": "may run without limit",
    "C": "may run for a limited time only",
    "D": "vibrates enough to be damaged",
}
"""The zones of ISO 20816-3."""
_KINDS: Final[Mapping[str, str]] = {
    "rms": "overall vibration",
    "peak": "highest peak",
    "crest": "peaks against the overall level",
    "kurtosis": "impulsiveness (how rare and high the impacts are)",
    "skewness": "lopsidedness of the signal",
    "centroid": "where in the spectrum the energy is",
    "value": "mean value",
    "velocity_mm_s": "vibration velocity by ISO 20816",
    "envelope_rms": "strength of repeated impacts",
    "mean": "mean value",
    "std": "spread",
}
_LINE: Final = re.compile(r"(?:envelope_|line_)?(bpfo|bpfi|bsf|ftf)(?:_?h?(\d{1,2}))?(?:_hz|_rms)?")
_BAND: Final = re.compile(r"(?:^|\.)(band|envelope)(?:_rms)?_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)(?:_hz)?\Z")


def ordinal(number: int) -> str:
    """``3`` as ``3rd``."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number % 10, 'th')}"


def feature_words(name: object) -> str:
    """What the feature of this name measures; empty where the name says it itself, or nobody here knows."""
    kind = str(name).rpartition(".")[2].lower()
    if kind in _KINDS:
        return _KINDS[kind]
    if line := _LINE.fullmatch(kind):
        return DEFECTS[line[1]] + (f", {ordinal(int(line[2]))} harmonic" if line[2] else "")
    if band := _BAND.search(str(name).lower()):
        what = "vibration" if band[1] == "band" else "repeated impacts"
        return f"{what} from {_hertz(band[2])} to {_hertz(band[3])}"
    return ""


def _hertz(text: str) -> str:
    value = float(text)
    return f"{value / 1000:g} kHz" if value >= 1000 else f"{value:g} Hz"


def score_words(score: float | None) -> str:
    """What a score means: 1 is the warning threshold of its release."""
    if score is None or not math.isfinite(score):
        return "no score: what came could not be judged"
    if score < 0.5:
        return "as usual"
    if score < 1.0:
        return f"above the usual, at {100 * score:.0f} % of the warning threshold"
    return f"{score:.1f} times the warning threshold" if score >= 1.05 else "at the warning threshold"


def zone_words(zone: object) -> str:
    """What a zone of ISO 20816-3 says; empty for what is no zone."""
    return ZONES.get(str(zone), "")
