"""How Linux's IIO lays out a scan in a buffer, and how the numbers in it are read. Pure.

Source: the kernel's Documentation/ABI/testing/sysfs-bus-iio (``scan_elements/*_type``) and the function
``iio_compute_scan_bytes``. Elements follow in the order of their index, each aligned to its own storage size. The scan
is padded to a multiple of its largest element.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Element", "ScanLayout", "parse_type"]

_TYPE: Final = re.compile(r"^(le|be):([suf])(\d+)/(\d+)(?:X(\d+))?(?:>>(\d+))?$")
_STORAGE_BITS: Final = (8, 16, 32, 64)
_FLOAT_BITS: Final = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class Element:
    """What the file ``_type`` says: ``le:s12/16>>4`` is 12 signed bits, shifted left by 4, in 16 little-endian bits."""

    little: bool
    signed: bool
    bits: int
    storage_bits: int
    shift: int = 0
    repeat: int = 1
    floating: bool = False
    """IEEE 754 instead of whole numbers."""

    @property
    def storage_bytes(self) -> int:
        """Storage of the element with all its repetitions."""
        return self.storage_bits // 8 * self.repeat

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest number that the bits can hold."""
        if self.floating:
            return (-math.inf, math.inf)
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


def parse_type(text: str) -> Element:
    """Parse ``[be|le]:[s|u|f]bits/storagebits[Xrepeat][>>shift]``.

    Raises:
        ValueError: the text has another form, or the bits do not fit into their storage.
    """
    match = _TYPE.match(text.strip())
    if match is None:
        raise ValueError(f"{text.strip()[:80]!r} is not the type of a scan element")
    order, sign, bits, storage, repeat, shift = match.groups()
    element = Element(
        order == "le", sign != "u", int(bits), int(storage), int(shift or 0), int(repeat or 1), sign == "f"
    )
    if element.floating and (element.bits not in _FLOAT_BITS or element.bits != element.storage_bits):
        raise ValueError(f"{text.strip()!r}: a float must have {_FLOAT_BITS} bits, all of its storage")
    fits = element.bits > 0 and element.bits + element.shift <= element.storage_bits and 0 < element.repeat <= 16
    if element.storage_bits not in _STORAGE_BITS or not fits:
        raise ValueError(f"{text.strip()!r}: the bits do not fit into their storage")
    return element


class ScanLayout:
    """Where each element is in a scan.

    Args:
        elements: the enabled elements, in the order of their index.
    """

    def __init__(self, elements: Sequence[Element]) -> None:
        self.elements = tuple(elements)
        self.offsets: list[int] = []
        at = largest = 0
        for element in self.elements:
            size = element.storage_bytes
            at = -(-at // size) * size
            self.offsets.append(at)
            at += size
            largest = max(largest, size)
        self.scan_bytes = -(-at // largest) * largest if largest else 0

    def decode(self, content: bytes) -> list[NDArray[Any]]:
        """Return the numbers of each element, [scan] int64; uint64 for 64 unsigned bits, float64 for floats.

        Of a repeated element the first number is returned.

        Args:
            content: whole scans.
        """
        scans = len(content) // self.scan_bytes
        table = np.frombuffer(content, np.uint8, scans * self.scan_bytes).reshape(scans, self.scan_bytes)
        return [_numbers(table, offset, element) for offset, element in zip(self.offsets, self.elements, strict=True)]


def _numbers(table: NDArray[np.uint8], offset: int, element: Element) -> NDArray[Any]:
    """Return the numbers of one element at ``offset`` in each row of ``table`` [scan, byte]."""
    size = element.storage_bits // 8
    stored = np.ascontiguousarray(table[:, offset : offset + size]).reshape(-1)
    if element.floating:
        return stored.view(f"{'<' if element.little else '>'}f{size}").astype(np.float64)
    raw = stored.view(f"{'<' if element.little else '>'}u{size}").astype(np.uint64)
    above = np.uint64(64 - element.bits - element.shift)
    # Shifting the number to the top and back drops the bits beside it and extends the sign.
    top = raw << above
    back = np.uint64(64 - element.bits)
    if element.signed:
        return top.view(np.int64) >> back.astype(np.int64)
    found = top >> back
    return found if element.bits == 64 else found.astype(np.int64)
