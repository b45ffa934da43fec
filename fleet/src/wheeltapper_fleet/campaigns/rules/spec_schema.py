"""The JSON Schema of a campaign's specification, for the OpenAPI document. Pure.

Invariant: it accepts exactly what :func:`~wheeltapper_fleet.campaigns.rules.spec.read_spec` reads.

It is made of the types of :mod:`~wheeltapper_fleet.campaigns.rules.spec`, with the rules that a type cannot say. What
depends on the fleet (whether the release exists, whether the waves fit the audience) is in no schema, nor is the
grammar of a query.

Source: JSON Schema 2020-12.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES, FAILURE_STATES, CampaignSpec
from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = ["spec_schema"]


def spec_schema() -> dict[str, Any]:
    """The schema, with nothing left to look up elsewhere."""
    schema = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(CampaignSpec)))  # its defaults hold tuples
    definitions = schema["$defs"]
    definitions["Success"]["anyOf"] = _at_most_one("percent", "count")
    definitions["WaveSpec"]["anyOf"] = _at_most_one("percent", "count", "devices")
    growing = ("factor", "every_successes", "maximum_per_minute")
    definitions["Rate"]["anyOf"] = [
        {"properties": {name: {"type": "null"} for name in growing}},
        {"required": list(growing), "properties": {name: {"type": "number"} for name in growing}},
    ]
    rule = definitions["AbortRule"]
    rule["anyOf"] = [{"required": [name], "properties": {name: {"type": "number"}}} for name in ("percent", "count")]
    rule["properties"]["states"]["items"] = {"type": "string", "enum": sorted(FAILURE_STATES)}
    named = {"items": {"type": "string", "pattern": NAME_PATTERN}}
    spec = definitions["CampaignSpec"]
    spec["properties"]["pipelines"]["anyOf"] = [named, {"const": [ALL_PIPELINES]}]
    lasting = {"properties": {"query": {"const": ""}, "committed_in": {"const": ""}}}
    spec["anyOf"] = [
        {"properties": {"make_default": {"const": False}}},
        {"properties": {"pipelines": named, "audience": lasting}},
    ]
    spec["allOf"] = [
        {
            "anyOf": [
                {"properties": {"on_abort": {"enum": ["PAUSE", "CANCEL_PENDING"]}}},
                {"required": ["rollback_to"], "properties": {"rollback_to": {"not": {"type": "null"}}}},
            ]
        }
    ]
    whole: dict[str, Any] = _inlined(schema, definitions)
    return whole


def _at_most_one(*names: str) -> list[dict[str, Any]]:
    """One alternative for each of ``names``, in which all others are null or left out."""
    return [{"properties": {other: {"type": "null"} for other in names if other != name}} for name in names]


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """``part`` with each reference replaced by what it refers to, and Python's ``\\Z`` by JSON Schema's ``$``."""
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = {**definitions[part["$ref"].rsplit("/", 1)[-1]], **{k: v for k, v in part.items() if k != "$ref"}}
    inlined = {
        key: _inlined(value, definitions) for key, value in part.items() if key not in ("$defs", "discriminator")
    }
    if isinstance(inlined.get("pattern"), str):
        inlined["pattern"] = inlined["pattern"].replace(r"\Z", "$")
    return inlined
