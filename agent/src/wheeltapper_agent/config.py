"""The agent's configuration: frozen dataclasses, one loader, an unknown key is an error.

A configuration is TOML: ``[device]``, ``[delivery]``, ``[update]``, ``[capture]`` and ``[[pipelines]]``; each section
is described where its room is. No globals, no environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wheeltapper_agent.captures.config import CaptureConfig, CaptureRule
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.toml import build, read_toml
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.source.kinds import known_kinds, source_kind
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import name as check_name

__all__ = ["AgentConfig", "DeviceConfig", "load_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """Where the device keeps its state, and on which board it runs."""

    state_dir: Path
    profile: str = "x86-gateway"
    status_seconds: float = 30.0
    """How often the retained status is repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Everything."""

    device: DeviceConfig
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    pipelines: tuple[PipelineConfig, ...] = ()


def _pipeline(table: Any, index: int, base: Path) -> PipelineConfig:
    where = f"pipelines[{index}]"
    source = table.get("source") if isinstance(table, dict) else None
    if not isinstance(source, dict) or "kind" not in source:
        raise AgentError("config.invalid", f"{where}.source.kind must be one of {', '.join(known_kinds())}")
    config = source_kind(source["kind"]).config
    pipeline = build(PipelineConfig, table, where, base, source=build(config, source, f"{where}.source", base))
    try:
        check_name(pipeline.name, "pipeline name")
    except WireError as error:
        raise AgentError("config.invalid", f"{where}.name: {error.message}") from error
    return pipeline


def _capture(table: Any, base: Path) -> CaptureConfig:
    rules = table.get("rules", []) if isinstance(table, dict) else []
    if not isinstance(rules, list):
        raise AgentError("config.invalid", "capture.rules must be an array of tables: [[capture.rules]]")
    made = tuple(build(CaptureRule, rule, f"capture.rules[{index}]", base) for index, rule in enumerate(rules))
    if len({rule.pipeline for rule in made}) != len(made):
        raise AgentError("config.invalid", "two capture.rules are for the same pipeline")
    return build(CaptureConfig, table, "capture", base, rules=made)


def load_config(path: Path) -> AgentConfig:
    """Read a configuration; relative paths in it are relative to its folder.

    Raises:
        AgentError: ``config.unreadable``, ``config.malformed``, ``config.unknown_key``, ``config.missing_key``,
        ``config.invalid``.
    """
    table = read_toml(path)
    base = path.resolve().parent
    pipelines = table.get("pipelines", [])
    if not isinstance(pipelines, list):
        raise AgentError("config.invalid", "pipelines must be an array of tables: [[pipelines]]")
    ready = {
        "device": build(DeviceConfig, table.get("device", {}), "device", base),
        "delivery": build(DeliveryConfig, table.get("delivery", {}), "delivery", base),
        "update": build(UpdateConfig, table.get("update", {}), "update", base),
        "capture": _capture(table.get("capture", {}), base),
        "pipelines": tuple(_pipeline(entry, index, base) for index, entry in enumerate(pipelines)),
    }
    names = [entry.name for entry in ready["pipelines"]]  # type: ignore[attr-defined]  # a tuple of PipelineConfig
    if len(set(names)) != len(names):
        raise AgentError("config.invalid", "two pipelines have the same name")
    kinds = [entry.source.kind for entry in ready["pipelines"]]  # type: ignore[attr-defined]  # as above
    for kind in sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        if source_kind(kind).exclusive:
            raise AgentError("config.invalid", f"only one pipeline of a device can have a source of kind {kind!r}")
        if field_name := source_kind(kind).exclusive_by:
            _check_different(field_name, [entry.source for entry in ready["pipelines"] if entry.source.kind == kind])  # type: ignore[attr-defined]  # as above
    return build(AgentConfig, table, "the configuration", base, **ready)


def _check_different(field_name: str, sources: list[Any]) -> None:
    values = [getattr(source, field_name) for source in sources]
    if twice := [value for value in values if values.count(value) > 1]:
        raise AgentError("config.invalid", f"two pipelines have a source with {field_name} = {twice[0]!r}")
