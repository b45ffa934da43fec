"""Floors: values that may only rise, whatever else the device forgets.

They are the counter of the newest assignment, the newest verified time, the lowest release of each model that may still
run, and the versions of the TUF metadata. An attacker who makes the device forget one of them could replay an old
assignment or an old release.

Invariants:
    * No floor ever falls.
    * Each floor is the maximum over all copies that can be read. The device forgets it only if every copy is lost. One
      copy lies in the folder of the slots, so whoever has a release also has its floors.
    * A disk that refuses to write does not lower what is in memory. The copies are written again at the next rise.
    * Fields that this version does not know are left out when a copy is read; fields that a copy lacks have their
      default.

What this module does not do: decide with the floors. See :mod:`wheeltapper_agent.update.trust`.

Example::

    store = FloorStore((state / FLOORS_FILE, state / "slots" / FLOORS_FILE))
    store.raise_to(Floors(rollback_floors={"bearing-anomaly": 4}))
    store.permits("bearing-anomaly", 3)  # False
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_protocols.wire.messages import Count, Name, Release, Seconds

__all__ = ["FLOORS_FILE", "FloorStore", "Floors", "highest"]

_LOG = logging.getLogger(__name__)
FLOORS_FILE: Final = "marks.json"


class Floors(Struct, frozen=True, kw_only=True):
    """The highest value seen of each kind."""

    counter: Count = 0
    """Counter of the newest assignment that was accepted."""
    payload_sha256: Annotated[str, Meta(max_length=64)] = ""
    """SHA-256 (hex) of the payload of that assignment."""
    newest_time_seconds: Seconds = 0.0
    """Newest Unix time in anything that was verified."""
    rollback_floors: dict[Name, Release] = msgspec.field(default_factory=dict, name="floors")
    """By model: the lowest release that may run."""
    metadata: dict[str, Count] = {}
    """Versions of the TUF metadata, by the names that :mod:`wheeltapper_agent.update.tuf_client` gives them."""


def highest(one: Floors, other: Floors) -> Floors:
    """The higher value of each floor. The payload's hash is the one that belongs to the higher counter."""
    newer = other if other.counter > one.counter else one
    return Floors(
        counter=newer.counter,
        payload_sha256=newer.payload_sha256,
        newest_time_seconds=max(one.newest_time_seconds, other.newest_time_seconds),
        rollback_floors={
            model: max(one.rollback_floors.get(model, 1), other.rollback_floors.get(model, 1))
            for model in {*one.rollback_floors, *other.rollback_floors}
        },
        metadata={
            name: max(one.metadata.get(name, 0), other.metadata.get(name, 0))
            for name in {*one.metadata, *other.metadata}
        },
    )


class FloorStore:
    """Keeps the floors in memory and in one file at each of ``paths``.

    Reading them happens once, when the store is made; copies that differ are then written anew.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        copies = [self._read(path) for path in self._paths]
        self.current = Floors()
        for copy in copies:
            self.current = highest(self.current, copy or Floors())
        self._outdated = {path for path, copy in zip(self._paths, copies, strict=True) if copy != self.current}
        self.raise_to(self.current)

    def raise_to(self, floors: Floors) -> None:
        """Take over whatever is higher in ``floors``.

        Every copy is on the disk when this returns. A copy that could not be written is logged and written again at
        the next call.
        """
        merged = highest(self.current, floors)
        if merged != self.current:
            self.current = merged
            self._outdated = set(self._paths)
        for path in sorted(self._outdated):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, msgspec.json.encode(self.current, order="deterministic"))
            except OSError as error:
                _LOG.error("marks.storage: %s cannot be written, free or repair the disk: %s", path, error)
            else:
                self._outdated.discard(path)

    def permits(self, model: str, release: int) -> bool:
        """Whether ``release`` is at or above the rollback floor of ``model``."""
        return release >= self.current.rollback_floors.get(model, 1)

    @staticmethod
    def _read(path: Path) -> Floors | None:
        """The copy at ``path``; None if there is none or it cannot be read, which is logged."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=Floors)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
            _LOG.error("marks.unreadable: %s: %s; the floors are taken from the other copies", path, error)
            return None
