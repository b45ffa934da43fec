"""Reads a fault table: a list ``fault`` of tables, each with its ``kind``. Pure.

What cannot be understood is refused (``sim.faults``), with the number of the fault and what to write instead.

Example::

    [[fault]]
    kind = "vanish"
    share = 0.05
    state = "FETCHING"
    seconds = 30
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any, Final

import msgspec

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.sim.faults import UPDATE_FAULTS, Fault, Vanish, kind_of

__all__ = ["read_faults"]

_EPSILON: Final = 1e-9


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fault: list[Fault] = []


def read_faults(text: str, *, as_json: bool = False) -> tuple[Fault, ...]:
    """The faults of a table in TOML or JSON.

    Raises:
        FleetError: ``sim.faults``.
    """
    try:
        raw: Any = json.loads(text) if as_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"it cannot be read as {'JSON' if as_json else 'TOML'}: {error}") from error
    try:
        table = msgspec.convert(raw, _Table)
    except msgspec.ValidationError as error:
        raise _refused(_sentence(str(error), raw)) from error
    share = 0.0
    for number, fault in enumerate(table.fault, 1):
        if isinstance(fault, Vanish) and (fault.state is None) == (fault.after_seconds is None):
            raise _refused(f"fault {number} (vanish): say either state or after_seconds")
        if isinstance(fault, UPDATE_FAULTS):
            share += fault.share
        if share > 1 + _EPSILON:
            raise _refused(
                f"fault {number} ({kind_of(fault)}): a device has one fault of its update at most,"
                f" and up to here their shares add up to {share:g}; 1 is all devices"
            )
    return tuple(table.fault)


def _sentence(text: str, raw: Any) -> str:
    """msgspec's sentence, with the fault's number from 1 and its kind instead of the path in the document."""
    found = re.search(r"\$\.fault\[(\d+)\]", text)
    if found is None:
        return text
    index = int(found.group(1))
    fault = raw["fault"][index]
    kind = fault.get("kind", "no kind") if isinstance(fault, dict) else "no table"
    return f"fault {index + 1} ({kind}): {text}"


def _refused(text: str) -> FleetError:
    return FleetError("sim.faults", f"the fault table: {text}; docs/simulator.md lists the faults", 422)
