"""Divides items into sides. Pure.

Invariants:
    * By machine: every item of a machine is on one side; a machine that was on a side in the version before stays
      there.
    * The same items, shares and earlier sides give the same sides.
    * Sides that divide a machine are made only where that is asked for by name, and with ``force``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec

from wheeltapper_fleet.learning.datasets.manifest import Item
from wheeltapper_fleet.learning.errors import DatasetError

__all__ = ["Request", "check_request", "parts_of", "sides_of"]

_TOP: Final = 2.0**64
By = Literal["none", "machine", "source", "recording", "window"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """How items shall be divided.

    Args:
        by: ``none``: as the items come; ``source``: as what was imported says.
        shares: of each side; they need not add up to 1.
        assigned: the sides of machines that somebody decided on.
        force: whether a machine may be on two sides.
    """

    by: By = "none"
    shares: dict[str, float] = {}
    assigned: dict[str, str] = {}
    force: bool = False


def check_request(request: Request) -> None:
    """Check a request before anything is read.

    Raises:
        DatasetError: ``dataset.leak``, ``dataset.split``.
    """
    if request.by in ("recording", "window") and not request.force:
        raise DatasetError(
            "dataset.leak",
            f"a split by {request.by} has the same machine on two sides, so that what is measured on it is too good: "
            "split by machine, or say --force; the version and every model trained on it are then marked",
            400,
        )
    if request.by in ("machine", "recording", "window") and len(request.shares) < 2 and not request.assigned:
        raise DatasetError(
            "dataset.split", f"a split by {request.by} needs the shares of at least two sides: --split train=0.8", 400
        )


def sides_of(sizes: Mapping[str, int], known: Mapping[str, str], request: Request) -> dict[str, str]:
    """The side of each machine (or recording).

    Those that have no side yet are taken in an order that only their names decide, each to the side that lacks most.

    Args:
        sizes: snapshots of each.
        known: sides that stay.
        request: the shares and what was assigned.

    Raises:
        DatasetError: ``dataset.split``: there is no machine of an assigned name.
    """
    if missing := sorted(set(request.assigned) - set(sizes)):
        raise DatasetError("dataset.split", f"there is no machine {missing[0][:80]!r} to assign a side to", 400)
    found = {name: request.assigned.get(name) or known.get(name, "") for name in sizes}
    if not request.shares:
        return found
    whole, wanted = sum(sizes.values()), sum(request.shares.values())
    have = dict.fromkeys(request.shares, 0.0)
    for name, side in found.items():
        if side in have:
            have[side] += sizes[name] / whole
    for name in sorted((name for name, side in found.items() if not side), key=_rank):
        side = max(have, key=lambda each: (request.shares[each] / wanted - have[each], request.shares[each], each))
        found[name] = side
        have[side] += sizes[name] / whole
    return found


def _rank(name: str) -> str:
    return hashlib.sha256(f"split/{name}".encode()).hexdigest()


def parts_of(item: Item, shares: Mapping[str, float]) -> Iterator[Item]:
    """Cut an item into one part a side, in time: the first snapshots go to the first side. Too short ones stay whole.

    The parts keep the statistics and times of the whole; hashes of windows they have none.
    """
    item = msgspec.structs.replace(item, windows=[], shapes=[])
    if item.count < len(shares):
        yield msgspec.structs.replace(item, split=max(shares, key=lambda side: shares[side]))
        return
    wanted, at, done = sum(shares.values()), 0, 0.0
    for number, (side, share) in enumerate(shares.items(), start=1):
        done += share
        end = item.count if number == len(shares) else round(item.count * done / wanted)
        end = min(max(end, at + 1), item.count - (len(shares) - number))
        yield msgspec.structs.replace(item, first=item.first + at, count=end - at, split=side)
        at = end
