"""The agent's configuration: a TOML file becomes frozen dataclasses.

Its sections are ``[device]``, ``[delivery]``, ``[update]``, ``[capture]`` and ``[[pipelines]]``; the ``config.py`` of
each room describes that room's section. An unknown key is an error. Neither globals nor the environment are read.

Example:
    >>> from pathlib import Path
    >>> from wheeltapper_agent.config import load_config
    >>> load_config(Path("/etc/wheeltapper/agent.toml")).device.profile
    'raspberry-pi-4'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from wheeltapper_agent.captures.config import CaptureConfig, CaptureRule
from wheeltapper_agent.ground.bounds import DAY_SECONDS, Bounds
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
    """The section ``[device]``: where the device keeps its state, and which board it is."""

    state_dir: Path
    """The state folder: identity, slots, spool, recordings."""
    profile: str = "x86-gateway"
    """Name of the board's profile; ``wheeltapper-agent profiles`` lists them."""
    status_seconds: Annotated[float, Bounds(0.1, DAY_SECONDS, "seconds")] = 30.0
    """How often the status is published, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """The whole configuration; a section that the file leaves out has its defaults."""

    device: DeviceConfig
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    pipelines: tuple[PipelineConfig, ...] = ()


def load_config(path: Path) -> AgentConfig:
    """Read a configuration.

    Args:
        path: of the TOML file; relative paths in it are relative to its folder.

    Raises:
        AgentError: ``config.unreadable``, ``config.malformed``, ``config.unknown_key``, ``config.missing_key``,
            ``config.invalid``; for the kind of a source also ``source.extra`` and ``source.plugin``.
    """
    table = read_toml(path)
    base = path.resolve().parent
    entries = table.get("pipelines", [])
    if not isinstance(entries, list):
        raise AgentError("config.invalid", "pipelines must be an array of tables: [[pipelines]]")
    sections = {
        "device": build(DeviceConfig, table.get("device", {}), "device", base),
        "delivery": build(DeliveryConfig, table.get("delivery", {}), "delivery", base),
        "update": build(UpdateConfig, table.get("update", {}), "update", base),
        "capture": _capture(table.get("capture", {}), base),
    }
    pipelines = tuple(_pipeline(entry, index, base) for index, entry in enumerate(entries))
    _check_together(pipelines)
    return build(AgentConfig, table, "the configuration", base, **sections, pipelines=pipelines)


def _pipeline(table: Any, index: int, base: Path) -> PipelineConfig:
    """One entry of ``[[pipelines]]``; the kind of its source decides which keys ``source`` may have."""
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


def _check_together(pipelines: tuple[PipelineConfig, ...]) -> None:
    """Refuse pipelines with one name, and sources that exclude each other on one device."""
    if repeated := _repeated([pipeline.name for pipeline in pipelines]):
        raise AgentError("config.invalid", f"two pipelines have the name {repeated[0]!r}")
    for kind in sorted(set(_repeated([pipeline.source.kind for pipeline in pipelines]))):
        if source_kind(kind).exclusive:
            raise AgentError("config.invalid", f"only one pipeline of a device can have a source of kind {kind!r}")
        if key := source_kind(kind).exclusive_by:
            values = [getattr(pipeline.source, key) for pipeline in pipelines if pipeline.source.kind == kind]
            if repeated := _repeated(values):
                raise AgentError("config.invalid", f"two pipelines have a source with {key} = {repeated[0]!r}")


def _capture(table: Any, base: Path) -> CaptureConfig:
    """The section ``[capture]`` with its ``[[capture.rules]]``."""
    entries = table.get("rules", []) if isinstance(table, dict) else []
    if not isinstance(entries, list):
        raise AgentError("config.invalid", "capture.rules must be an array of tables: [[capture.rules]]")
    rules = tuple(build(CaptureRule, entry, f"capture.rules[{index}]", base) for index, entry in enumerate(entries))
    if repeated := _repeated([rule.pipeline for rule in rules]):
        raise AgentError("config.invalid", f"two capture.rules are for the pipeline {repeated[0]!r}")
    return build(CaptureConfig, table, "capture", base, rules=rules)


def _repeated(values: list[Any]) -> list[Any]:
    """The values that occur more than once."""
    return [value for value in values if values.count(value) > 1]
