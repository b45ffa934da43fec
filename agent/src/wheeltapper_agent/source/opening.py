"""Opens the source that a pipeline's configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.source.base import Source, SourceContext
from wheeltapper_agent.source.deferred import DeferredSource, as_agent_error
from wheeltapper_agent.source.kinds import source_kind

__all__ = ["make_or_defer_source", "make_source"]


def make_source(pipeline: str, config: Any, state_dir: Path, clock: Clock) -> Source:
    """The source that a pipeline's configuration asks for.

    Raises:
        AgentError: ``source.*``, ``config.*``.
        RecordingError: ``recording.*``.
    """
    context = SourceContext(pipeline, state_dir, clock)
    return source_kind(config.kind).make(config, context)


def make_or_defer_source(pipeline: str, config: Any, state_dir: Path, clock: Clock) -> Source:
    """Likewise; where it cannot be made now for a reason that is not the configuration's, one that is made later.

    Raises:
        AgentError: ``config.*``.
    """

    def make() -> Source:
        return make_source(pipeline, config, state_dir, clock)

    try:
        return make()
    except Exception as error:  # one pipeline's file or plug-in must not keep the agent down
        found = as_agent_error(error)
        if found.code.startswith("config."):
            raise
        return DeferredSource(make, found, pipeline)
