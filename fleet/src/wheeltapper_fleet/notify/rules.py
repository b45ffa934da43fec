"""Who is told of what, and when a delivery that failed is tried again. Pure.

Invariants:
    * A target without rules is told of everything.
    * An attempt that failed is followed by the next after a pause that doubles, from half a minute to six hours; after
      :data:`MAX_ATTEMPTS` the notification is dead, which is shown, and can be sent again by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wheeltapper_fleet.ground.etag import etag
from wheeltapper_fleet.ground.query import parse
from wheeltapper_fleet.notify.occurrence import Occurrence

__all__ = ["MAX_ATTEMPTS", "Rules", "pause_seconds", "target_etag", "wants"]

MAX_ATTEMPTS: Final = 12
"""With the pauses between them, the last is some 30 hours after the first."""
_FIRST_SECONDS: Final = 30.0
_LONGEST_SECONDS: Final = 6 * 3600.0
_SET: Final = ("secret", "address", "enabled", "events", "min_severity", "sites", "models", "query")
"""What people set of a target. With the secret in it, the tag says nothing of an address."""
_RANK: Final = {"normal": 0, "warning": 1, "critical": 2}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a target wants to know; an empty list means any.

    Args:
        events: the kinds of occurrences.
        min_severity: of this severity or higher.
        sites, models: only of these; what has no site or model is none of them.
        query: only where the device is one of this query (see :mod:`wheeltapper_fleet.ground.query`).
    """

    events: Collection[str] = ()
    min_severity: str = "normal"
    sites: Collection[str] = ()
    models: Collection[str] = ()
    query: str = ""


def wants(rules: Rules, occurrence: Occurrence, facts: Mapping[str, object], now: float) -> bool:
    """Whether a target with ``rules`` is told of an occurrence of a device with ``facts``.

    Raises:
        FleetError: ``query.invalid``: the stored query is not of this version's grammar.
    """
    if rules.events and occurrence.kind.value not in rules.events:
        return False
    if _RANK.get(occurrence.severity, 0) < _RANK.get(rules.min_severity, 0):
        return False
    if (rules.sites and occurrence.site not in rules.sites) or (rules.models and occurrence.model not in rules.models):
        return False
    return not rules.query or parse(rules.query).matches(facts, now)


def pause_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    return min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(max(failures, 1) - 1, 20))


def target_etag(row: Mapping[Any, Any]) -> str:
    """The tag of what people set of the target of a row."""
    return etag(*(row[name] for name in _SET))
