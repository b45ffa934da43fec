"""Names and numbers of the attributes of a Linux IIO device. Pure.

An attribute of a channel is shared at one of four levels, and its file is named after it: by the channel itself, by all
channels of its type, by all of its direction, or by all channels of the device.

Source: the kernel's Documentation/ABI/testing/sysfs-bus-iio, and ``__iio_device_attr_init`` and ``iio_str_to_fixpoint``
in drivers/iio/industrialio-core.c.
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["attribute_files", "number_text", "offered_text", "parse_number"]

_CHANNEL: Final = re.compile(r"(in|out)_([a-z]+)\d*(?:-([a-z]+)\d*)?(?:_.+)?", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
_FRACTION_DIGITS: Final = 6
"""A driver reads six digits behind the point, or nine, or none; further ones are cut off."""


def attribute_files(channel: str, attribute: str) -> list[str]:
    """Return the names of the files that may hold an attribute of a channel, the one of the channel itself first.

    Example:
        >>> attribute_files("in_accel_x", "scale")
        ['in_accel_x_scale', 'in_accel_scale', 'in_scale', 'scale']
        >>> attribute_files("in_voltage0-voltage1", "scale")[1:3]
        ['in_voltage-voltage_scale', 'in_voltage_scale']
    """
    stems = [channel]
    if found := _CHANNEL.fullmatch(channel):
        direction, kind, other = found.groups()
        if other:
            stems.append(f"{direction}_{kind}-{other}")
        stems += [f"{direction}_{kind}", direction]
    return [*dict.fromkeys(f"{stem}_{attribute}" for stem in stems), attribute]


def parse_number(text: str) -> float:
    """Return the number in an attribute.

    Raises:
        ValueError: it holds none, or more than one.
    """
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text.strip()[:40]!r} is not a number")
    return float(text)


def number_text(number: float) -> str:
    """Return a number as the kernel's parser takes it: digits and a point, never an exponent."""
    return f"{number:.{_FRACTION_DIGITS}f}".rstrip("0").rstrip(".")


def offered_text(wanted: float, available: str, share: float) -> str:
    """Return how to write a number that a driver offers.

    Args:
        wanted: the number.
        available: what the file ``…_available`` says: a list of numbers, ``[least step most]``, or nothing.
        share: how far an offer may be from the wanted number, as a share of it.

    Returns:
        The nearest offer as it stands in the list: a driver compares digit for digit. Without a list: the number. Empty
        if no offer is near enough.
    """
    fields = available.strip().strip("[]").split()
    try:
        numbers = [parse_number(field) for field in fields]
    except ValueError:
        return number_text(wanted)
    if not numbers:
        return number_text(wanted)
    if available.strip().startswith("["):
        within = len(numbers) == 3 and numbers[0] * (1 - share) <= wanted <= numbers[2] * (1 + share)
        return number_text(min(max(wanted, numbers[0]), numbers[2])) if within else ""
    near = min(range(len(numbers)), key=lambda at: abs(numbers[at] - wanted))
    return fields[near] if math.isclose(numbers[near], wanted, rel_tol=share) else ""
