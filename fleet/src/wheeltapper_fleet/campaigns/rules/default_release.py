"""A default release: what a pipeline of every device of an audience runs where no campaign says otherwise. Pure.

Invariants:
    * A device is asked for it only while it is online and shows something else on that pipeline.
    * What a campaign committed after the default release was set stays, as long as the device shows it.
    * A device on which it fails is tried again after growing pauses, and after :data:`MOST_ATTEMPTS` attempts no more.

Of two default releases for one pipeline of a device the one with the narrower audience counts: by names before by
tags, more tags before fewer; else the newer one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.campaigns.rules.execution import SUCCESS
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = [
    "ATTEMPT_SECONDS",
    "MOST_ATTEMPTS",
    "Attempt",
    "Commit",
    "DefaultRelease",
    "choose_default_releases",
    "next_attempt_at",
    "release_shown",
    "wants",
]

MOST_ATTEMPTS: Final = 5
ATTEMPT_SECONDS: Final = 86_400.0
"""Within this time an attempt must end."""
_FIRST_PAUSE_SECONDS: Final = 900.0
_PAUSE_FACTOR: Final = 4.0
_LEAST_PAUSE_SECONDS: Final = 60.0
"""After an attempt that went well; four times as long after each more in one day: a device may lose it again and again.
"""
_DAY_SECONDS: Final = 86_400.0
_NO_ATTEMPT: Final = frozenset({ExecutionState.SUPERSEDED.value, ExecutionState.CANCELLED.value})

Shown = tuple[str, int] | None
"""A model and a release, or None where there is none."""


@dataclass(frozen=True)
class DefaultRelease:
    """Release ``release`` of ``model`` for ``pipeline`` of the devices in ``devices`` (empty: any) that carry ``tags``.

    ``set_at`` is Unix seconds.
    """

    id: str
    model: str
    release: int
    pipeline: str
    devices: frozenset[str]
    tags: Mapping[str, str]
    set_at: float

    def covers(self, device: str, tags: Mapping[str, str]) -> bool:
        """Whether it is for ``device``, which carries ``tags``."""
        named = not self.devices or device in self.devices
        return named and all(tags.get(key) == value for key, value in self.tags.items())


@dataclass(frozen=True)
class Commit:
    """What a campaign's execution committed on a pipeline, at ``at`` (Unix seconds). ``ended``: the campaign has."""

    model: str
    release: int
    at: float
    ended: bool


@dataclass(frozen=True)
class Attempt:
    """An execution of a default release that ended in ``state`` at ``at`` (Unix seconds)."""

    state: str
    at: float


def choose_default_releases(
    defaults: Iterable[DefaultRelease], device: str, tags: Mapping[str, str]
) -> dict[str, DefaultRelease]:
    """By pipeline, the default release that counts on ``device``, which carries ``tags``."""
    chosen: dict[str, DefaultRelease] = {}
    for each in sorted(defaults, key=lambda each: (bool(each.devices), len(each.tags), each.set_at, each.id)):
        if each.covers(device, tags):
            chosen[each.pipeline] = each
    return chosen


def release_shown(shown: Shown, shown_at: float, commits: Sequence[Commit]) -> Shown:
    """What a pipeline runs: what the status of ``shown_at`` says, or what was committed after it."""
    newest = max(commits, key=lambda each: each.at, default=None)
    return (newest.model, newest.release) if newest is not None and newest.at > shown_at else shown


def wants(default: DefaultRelease, shown: Shown, commits: Sequence[Commit]) -> bool:
    """Whether ``default`` asks for a pipeline that runs ``shown`` and on which campaigns made ``commits``."""
    if shown == (default.model, default.release):
        return False
    return not any(
        (each.model, each.release) == shown and (each.at > default.set_at or not each.ended) for each in commits
    )


def next_attempt_at(attempts: Sequence[Attempt]) -> float:
    """When the device may be tried (Unix seconds), after ``attempts`` in the order of their ends; inf: never again."""
    counted = [each for each in attempts if each.state not in _NO_ATTEMPT]
    if not counted:
        return 0.0
    last = counted[-1].at
    failures = 0
    for each in reversed(counted):
        if each.state == SUCCESS:
            break
        failures += 1
    if failures >= MOST_ATTEMPTS:
        return math.inf
    if failures:
        return last + _FIRST_PAUSE_SECONDS * _PAUSE_FACTOR ** (failures - 1)
    of_one_day = sum(last - each.at < _DAY_SECONDS for each in counted)
    return last + min(_LEAST_PAUSE_SECONDS * _PAUSE_FACTOR ** (of_one_day - 1), _DAY_SECONDS)
