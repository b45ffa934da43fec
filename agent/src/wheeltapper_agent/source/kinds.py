"""Kinds of sources: the agent's own, and those that other distributions bring.

A distribution brings one by an entry point of the group ``wheeltapper.sources``: its name is the kind in a
configuration, its value a :class:`~wheeltapper_agent.source.base.SourceKind`.

Invariants:
    * Only the kinds that a configuration names are imported.
    * The agent's own kinds work wherever the code does, installed or not, and no other distribution can take their
      place. They are declared as entry points too, and a test compares the two lists.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from typing import TYPE_CHECKING, Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceKind

if TYPE_CHECKING:  # brings e-mail and CSV: 1 MB that the built-in kinds do without
    from importlib.metadata import EntryPoint

__all__ = ["BUILT_IN", "SOURCES_GROUP", "known_kinds", "source_kind"]

SOURCES_GROUP: Final = "wheeltapper.sources"
BUILT_IN: Final = {
    "iio": "wheeltapper_agent.source.iio:KIND",
    "modbus": "wheeltapper_agent.source.modbus:KIND",
    "mqtt": "wheeltapper_agent.source.mqtt:KIND",
    "opcua": "wheeltapper_agent.source.opcua:KIND",
    "replay": "wheeltapper_agent.source.replay:KIND",
    "simulator": "wheeltapper_agent.source.simulator:KIND",
    "stdin": "wheeltapper_agent.source.stdin:KIND",
}


def known_kinds() -> list[str]:
    """The names of all kinds that are installed, sorted; nothing is imported."""
    from importlib.metadata import entry_points

    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=SOURCES_GROUP))})


def source_kind(kind: object) -> SourceKind:
    """The kind of source named ``kind``.

    Raises:
        AgentError: ``config.invalid`` (there is none, or two distributions bring it), ``source.extra`` (a library
            that it needs is missing), ``source.plugin`` (what the entry point names is not a kind of source).
    """
    if isinstance(kind, str) and kind in BUILT_IN:
        module, _, name = BUILT_IN[kind].partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise AgentError(
                "source.extra",
                f"sources of kind {kind!r} need {error.name}: pip install 'wheeltapper-agent[{kind}]'",
            ) from error
        return _checked(kind, found)
    from importlib.metadata import entry_points

    points = {point.value: point for point in entry_points(group=SOURCES_GROUP) if point.name == kind}
    if not points:
        raise AgentError("config.invalid", f"there is no source of kind {kind!r}; known are {', '.join(known_kinds())}")
    if len(points) > 1:
        names = ", ".join(map(_distribution, points.values()))
        raise AgentError("config.invalid", f"source kind {kind!r} is brought by {names}: uninstall all but one")
    point = next(iter(points.values()))
    try:
        found = point.load()
    except ImportError as error:
        raise AgentError(
            "source.extra",
            f"sources of kind {kind!r} cannot be loaded from {_distribution(point)}: {error}; install what it needs",
        ) from error
    except Exception as error:
        raise AgentError(
            "source.plugin", f"sources of kind {kind!r} cannot be loaded from {_distribution(point)}: {error}"
        ) from error
    return _checked(str(kind), found)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _checked(kind: str, found: object) -> SourceKind:
    if not isinstance(found, SourceKind):
        raise AgentError("source.plugin", f"source kind {kind!r} is a {type(found).__name__}, not a SourceKind")
    config = found.config
    parameters = getattr(config, "__dataclass_params__", None)
    if not dataclasses.is_dataclass(config) or parameters is None or not parameters.frozen:
        raise AgentError("source.plugin", f"the configuration of source kind {kind!r} must be a frozen dataclass")
    if "kind" not in typing.get_type_hints(config):
        raise AgentError("source.plugin", f"the configuration of source kind {kind!r} lacks the field 'kind'")
    return found
