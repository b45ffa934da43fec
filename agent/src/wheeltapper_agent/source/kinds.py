"""Finds a kind of source by its name: the agent's own kinds, and those of other distributions.

Another distribution adds a kind by an entry point of the group ``wheeltapper.sources``. Its name is the kind in a
configuration, its value a :class:`~wheeltapper_agent.source.base.SourceKind`.

Invariants:
    * Only the kinds that a configuration names are imported.
    * The agent's own kinds need no installed metadata, and no other distribution can replace them. They are declared as
      entry points too, and a test compares the two lists.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from typing import TYPE_CHECKING, Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceKind

if TYPE_CHECKING:  # importlib.metadata costs 1 MB, which the built-in kinds do not need
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
"""The agent's own kinds, each with the place of its ``SourceKind``."""


def known_kinds() -> list[str]:
    """Return the names of all installed kinds, sorted; none of them is imported."""
    from importlib.metadata import entry_points

    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=SOURCES_GROUP))})


def source_kind(kind: object) -> SourceKind:
    """Return the kind of source named ``kind``.

    Raises:
        AgentError: ``config.invalid``: no distribution has it, or two have it. ``source.extra``: a library that it
            needs is not installed. ``source.plugin``: the entry point does not name a kind of source.
    """
    if isinstance(kind, str) and kind in BUILT_IN:
        return _built_in(kind)
    return _plug_in(kind)


def _built_in(kind: str) -> SourceKind:
    """Return the agent's own kind named ``kind``."""
    module, _, name = BUILT_IN[kind].partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise AgentError(
            "source.extra",
            f"sources of kind {kind!r} need {error.name}; run: pip install 'wheeltapper-agent[{kind}]'",
        ) from error
    return _checked(kind, found)


def _plug_in(kind: object) -> SourceKind:
    """Return the kind named ``kind`` that another distribution declares."""
    from importlib.metadata import entry_points

    points = {point.value: point for point in entry_points(group=SOURCES_GROUP) if point.name == kind}
    if not points:
        raise AgentError(
            "config.invalid", f"there is no source of kind {kind!r}; the installed kinds are {', '.join(known_kinds())}"
        )
    if len(points) > 1:
        names = ", ".join(map(_distribution, points.values()))
        raise AgentError("config.invalid", f"source kind {kind!r} is declared by {names}; uninstall all but one")
    point = next(iter(points.values()))
    try:
        found = point.load()
    except ImportError as error:
        raise AgentError(
            "source.extra",
            f"sources of kind {kind!r} cannot be loaded from {_distribution(point)}: {error}; install what it imports",
        ) from error
    except Exception as error:
        raise AgentError(
            "source.plugin", f"sources of kind {kind!r} cannot be loaded from {_distribution(point)}: {error}"
        ) from error
    return _checked(str(kind), found)


def _distribution(point: EntryPoint) -> str:
    """Return the name of the distribution that declares an entry point."""
    return point.dist.name if point.dist is not None else point.value


def _checked(kind: str, found: object) -> SourceKind:
    """Return ``found`` if it is a usable kind of source; raise ``source.plugin`` if not."""
    if not isinstance(found, SourceKind):
        raise AgentError("source.plugin", f"source kind {kind!r} is a {type(found).__name__}, not a SourceKind")
    config = found.config
    parameters = getattr(config, "__dataclass_params__", None)
    if not dataclasses.is_dataclass(config) or parameters is None or not parameters.frozen:
        raise AgentError("source.plugin", f"the configuration of source kind {kind!r} must be a frozen dataclass")
    if "kind" not in typing.get_type_hints(config):
        raise AgentError("source.plugin", f"the configuration of source kind {kind!r} lacks the field 'kind'")
    return found
