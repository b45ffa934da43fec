"""What ends, when it ends, and who renews it: the one rule by which the fleet warns of an end before it comes.

Invariants:
    * What is *ending* has less than 30 % of its life left. The service renews what it can when a third is left or more,
      so of that nothing is ending unless its renewal fails.
    * A sentence about an end says what to do.

What this module does not do: read keys, metadata or certificates (:mod:`repository`, :mod:`ca`); renew anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

__all__ = ["ENDING_SHARE", "Life", "LifeState", "RenewedBy", "days_left", "ending", "sentence", "view"]

ENDING_SHARE: Final = 0.3
_DAY_SECONDS: Final = 86_400.0


class LifeState(StrEnum):
    """Whether something is valid, valid but soon to end, or no longer valid."""

    OK = "ok"
    ENDING = "ending"
    EXPIRED = "expired"


class RenewedBy(StrEnum):
    """Who renews something: a person with offline keys, the running service, the device, or the operator's own CA."""

    OFFLINE_KEYS = "keys renew"
    SERVICE = "service"
    DEVICE = "device"
    OPERATOR = "operator"


_ADVICE: Final = {
    RenewedBy.OFFLINE_KEYS: "run `wheeltapper keys renew --keys-dir …` with the offline keys",
    RenewedBy.SERVICE: "the running service renews it: start it, or see its log",
    RenewedBy.DEVICE: "the device renews it when it is online; once it has ended, enrol the device again",
    RenewedBy.OPERATOR: "replace the files that admin_tls_certificate and admin_tls_key name",
}


@dataclass(frozen=True)
class Life:
    """One thing that ends.

    Args:
        name: e.g. ``root``, ``server certificate``.
        expires_at: its end, Unix seconds.
        life_seconds: how long it lives from its renewal to its end.
        renewed_by: who renews it.
        keys: how many keys may sign for it; None for what is no role.
        threshold: how many of them must sign.
        detail: more about it, for a person.
    """

    name: str
    expires_at: float
    life_seconds: float
    renewed_by: RenewedBy
    keys: int | None = None
    threshold: int | None = None
    detail: str = ""

    def state(self, now: float) -> LifeState:
        """Its state at ``now`` (Unix seconds)."""
        left_seconds = self.expires_at - now
        if left_seconds <= 0:
            return LifeState.EXPIRED
        return LifeState.ENDING if left_seconds < ENDING_SHARE * self.life_seconds else LifeState.OK


def ending(lives: Iterable[Life], now: float) -> list[Life]:
    """Those that end soon or have ended, the earliest first."""
    found = [life for life in lives if life.state(now) is not LifeState.OK]
    return sorted(found, key=lambda life: life.expires_at)


def days_left(life: Life, now: float) -> int:
    """Whole days until the end, rounded down; negative after it."""
    return math.floor((life.expires_at - now) / _DAY_SECONDS)


def sentence(life: Life, now: float) -> str:
    """One line for a person: what ends when, and what to do."""
    days = days_left(life, now)
    when = f"ends in {days} days" if days > 1 else "ends within two days"
    if life.state(now) is LifeState.EXPIRED:
        when = "has expired"
    detail = f" ({life.detail})" if life.detail else ""
    return f"{life.name}{detail} {when}: {_ADVICE[life.renewed_by]}"


def view(life: Life, now: float) -> dict[str, Any]:
    """The life as JSON, for commands, the API and ``/healthz``. It holds no secret."""
    state = life.state(now)
    return {
        "name": life.name,
        "detail": life.detail,
        "keys": life.keys,
        "threshold": life.threshold,
        "expires_at": life.expires_at,
        "days_left": days_left(life, now),
        "state": state.value,
        "renewed_by": life.renewed_by.value,
        "todo": None if state is LifeState.OK else _ADVICE[life.renewed_by],
    }
