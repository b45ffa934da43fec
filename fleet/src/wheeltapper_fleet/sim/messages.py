"""What a simulated device says, and what happens to it on the way: doubled, held back, damaged, lost. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from wheeltapper_fleet.sim.draws import draw
from wheeltapper_fleet.sim.faults import Corrupt, Duplicate, Fault, Lose, Reorder
from wheeltapper_protocols.wire.topics import Up

__all__ = ["MessageFaults", "Say"]

_HELD_SECONDS: Final = 2.0
"""A message is held back for so long at most, if none follows it."""


@dataclass(frozen=True, slots=True)
class Say:
    """A message to publish at QoS 1."""

    kind: Up
    payload: bytes
    retain: bool = False


class MessageFaults:
    """The message faults of one device.

    Args:
        device: its name.
        seed: of the simulation.
        faults: all of its faults.
    """

    def __init__(self, device: str, seed: int, faults: Sequence[Fault]) -> None:
        self._device = device
        self._seed = seed
        self._faults = [each for each in faults if isinstance(each, Duplicate | Reorder | Corrupt | Lose)]
        self._count = 0
        self._held: list[Say] = []
        self.overdue_at = math.inf
        """Unix time at which what is held back is to be sent."""

    def passed(self, said: Say, now: float) -> list[Say]:
        """What is sent in the place of ``said``."""
        if not self._faults:
            return [said]
        self._count += 1
        found = [said]
        for number, fault in enumerate(self._faults):
            if draw(self._seed, self._device, "message", self._count, number) >= fault.chance:
                continue
            match fault:
                case Duplicate():
                    found = found * 2
                case Corrupt():
                    found = [replace(each, payload=damaged(each.payload)) for each in found]
                case Lose():
                    found = []
                case Reorder():
                    self._held += found
                    self.overdue_at = now + _HELD_SECONDS
                    return []
        if found and self._held:
            found, self._held, self.overdue_at = found + self._held, [], math.inf
        return found

    def overdue(self, now: float) -> list[Say]:
        """What was held back for too long."""
        if now < self.overdue_at:
            return []
        found, self._held, self.overdue_at = self._held, [], math.inf
        return found


def damaged(payload: bytes) -> bytes:
    """``payload`` as nobody can read it: cut off, so that it is neither JSON nor MessagePack nor zstd."""
    return payload[: len(payload) // 2]
