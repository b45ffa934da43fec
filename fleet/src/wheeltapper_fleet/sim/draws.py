"""Random numbers that are functions of a seed and a name: the same question always has the same answer. Pure.

A generator with a state would give a device other numbers whenever another device asked first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

__all__ = ["draw", "hex_digits", "normal", "shuffled"]


def draw(seed: int, *of: object) -> float:
    """A number in [0, 1), uniformly distributed over what it is asked ``of``."""
    return int.from_bytes(_digest(seed, of)[:7], "big") / 2**56


def normal(seed: int, *of: object) -> float:
    """A number of the standard normal distribution (Box and Muller, Ann. Math. Stat. 29 (1958) 610-611)."""
    digest = _digest(seed, of)
    first = (int.from_bytes(digest[:4], "big") + 1) / (2**32 + 1)
    second = int.from_bytes(digest[4:], "big") / 2**32
    return math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)


def hex_digits(seed: int, *of: object) -> str:
    """16 hex digits, as an epoch or an instance has them."""
    return _digest(seed, of).hex()


def shuffled(names: Sequence[str], seed: int, *of: object) -> list[str]:
    """``names`` in an order drawn from the seed."""
    return sorted(names, key=lambda name: _digest(seed, (*of, name)))


def _digest(seed: int, of: tuple[object, ...]) -> bytes:
    return hashlib.blake2b(repr((seed, *of)).encode(), digest_size=8).digest()
