"""Two releases of a model side by side: gates, what of the manifest differs, lineage, sizes, and what the field says.

Everything is read from the signed manifests and from records; what nobody measured is missing.

Cost: two manifests, and the model's labels of the time that is asked for, which people wrote one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine

from wheeltapper_fleet.alerts.statistics import share_interval
from wheeltapper_fleet.alerts.value import count_verdicts
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.promotion.quality import manifest_of
from wheeltapper_fleet.promotion.schemas import ComparedGate, Difference, FieldResult, GateValue, ReleaseComparison
from wheeltapper_protocols.manifest.manifest import Gate, Manifest

__all__ = ["compare_releases", "field_of"]

_DIFFERENCES: Final = 200
_TEXT: Final = 200
_ELSEWHERE: Final = frozenset({"files", "gates", "lineage", "release", "created_at", "drift", "estimation", "features"})
"""Sections that are compared by themselves, or that say what was measured and not what was chosen."""
_DEPTH: Final = 3


def compare_releases(engine: Engine, model: str, one: int, other: int, since: float, until: float) -> ReleaseComparison:
    """Compare two releases of a model.

    Args:
        engine: the fleet's database.
        model: of which model.
        one, other: their numbers.
        since, until: Unix seconds; what the field says is of cases that were resolved between them.

    Raises:
        FleetError: ``release.not_found``, ``release.unreadable``.
    """
    with reading(engine) as connection:
        pair = [manifest_of(connection, model, number) for number in (one, other)]
        field = [field_of(connection, model, number, since, until) for number in (one, other)]
    left, right = pair
    found = list(_differences(_chosen(left), _chosen(right)))
    names = [{spec.name for spec in each.features} for each in pair]
    return ReleaseComparison(
        model=model,
        one=one,
        other=other,
        gates=_gates(left.gates, right.gates),
        differences=found[:_DIFFERENCES],
        more_differences=max(0, len(found) - _DIFFERENCES),
        features_only_one=sorted(names[0] - names[1]),
        features_only_other=sorted(names[1] - names[0]),
        lineage=list(_differences(_told(left.lineage), _told(right.lineage))),
        bytes_one=sum(file.length for file in left.files),
        bytes_other=sum(file.length for file in right.files),
        model_bytes_one=left.file(left.model_file).length,
        model_bytes_other=right.file(right.model_file).length,
        field_one=field[0],
        field_other=field[1],
    )


def _gates(left: list[Gate], right: list[Gate]) -> list[ComparedGate]:
    """The gates of both, in the order of the first; those of the other alone come last."""
    sides = [{gate.name: gate for gate in gates} for gates in (left, right)]
    return [
        ComparedGate(name=name, one=_value(sides[0].get(name)), other=_value(sides[1].get(name)))
        for name in dict.fromkeys([*sides[0], *sides[1]])
    ]


def _value(gate: Gate | None) -> GateValue | None:
    if gate is None:
        return None
    return GateValue(value=gate.value, limit=gate.limit, passed=gate.passed, detail=gate.detail)


def _chosen(manifest: Manifest) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    return {name: value for name, value in fields.items() if name not in _ELSEWHERE}


def _told(lineage: Mapping[str, str]) -> dict[str, Any]:
    """A lineage, with the parameters one by one, and the number of recordings in place of their hashes."""
    found: dict[str, Any] = {name: value for name, value in lineage.items() if not name.startswith("recording-")}
    found["recordings"] = len(lineage) - len(found)
    try:
        parameters = json.loads(found.get("parameters", ""))
    except ValueError:
        return found
    return {**found, "parameters": parameters}


def _differences(left: Any, right: Any, path: str = "", depth: int = 0) -> Iterator[Difference]:
    """What differs between two values, by its place; sections are looked into, lists are compared as a whole."""
    if isinstance(left, dict) and isinstance(right, dict) and depth < _DEPTH:
        for name in sorted({*left, *right}):
            place = f"{path}.{name}" if path else name
            yield from _differences(left.get(name), right.get(name), place, depth + 1)
    elif left != right:
        yield Difference(path=path, one=_spelled(left), other=_spelled(right))


def _spelled(value: Any) -> str | None:
    """A value as short JSON; None for one that is not there."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def field_of(connection: Connection, model: str, release: int, since: float, until: float) -> FieldResult:
    """What people found of the cases of a release that were resolved between two times (Unix seconds)."""
    true, false = count_verdicts(connection, model, release, since, until)
    low, high = share_interval(true, true + false)
    return FieldResult(
        true_faults=true,
        false_alarms=false,
        precision=true / (true + false) if true + false else None,
        precision_low=low,
        precision_high=high,
    )
