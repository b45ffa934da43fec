"""Tells when two devices share one identity, from the instances that connect under it. Pure.

An agent draws an instance at each start and sends it with its status. An instance that ended never comes back. Where
two instances come in turns, both run: a storage card was cloned, or an identity copied. Each takes the connection of
the other, and each has records that the other does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Change", "after_change", "read_changes", "sharing"]

_CHANGES_KEPT: Final = 8
_DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class Change:
    """Another instance than before reported for a device.

    Args:
        instance: drawn by the agent at its start.
        at: when, in Unix seconds by the fleet's clock.
        address: where its connection came from; empty if the broker does not tell.
    """

    instance: str
    at: float
    address: str = ""


def after_change(changes: Sequence[Change], change: Change) -> list[Change]:
    """``changes``, oldest first, with ``change`` if its instance is not the newest's; at most eight are kept."""
    if changes and changes[-1].instance == change.instance:
        return list(changes)
    return [*changes, change][-_CHANGES_KEPT:]


def sharing(changes: Iterable[Change], now: float) -> list[Change]:
    """The newest change of each instance that takes turns with another; empty if none does.

    Two instances take turns when each of them came at least twice within a day. Once is not enough: a broker that was
    killed may repeat an older status message.
    """
    lately = [change for change in changes if now - change.at <= _DAY_SECONDS]
    times: dict[str, list[Change]] = {}
    for change in lately:
        times.setdefault(change.instance, []).append(change)
    repeated = [each[-1] for each in times.values() if len(each) > 1]
    return repeated if len(repeated) > 1 else []


def read_changes(stored: Any) -> list[Change]:
    """The changes in a database value, which may be of another version; what is none is left out."""
    found = []
    for each in stored if isinstance(stored, list) else ():
        match each:
            case [str() as instance, int() | float() as at, str() as address]:
                found.append(Change(instance, float(at), address))
    return found
