"""Makes the source that a pipeline's configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.source.base import Source, SourceContext
from wheeltapper_agent.source.deferred import DeferredSource, as_agent_error
from wheeltapper_agent.source.kinds import source_kind

__all__ = ["make_or_defer_source", "make_source"]


def make_source(pipeline: str, config: Any, state_dir: Path, clock: Clock) -> Source:
    """Return the source of a pipeline.

    Args:
        pipeline: its name.
        config: the configuration of the source: an instance of its kind's dataclass.
        state_dir: where the source may keep a file.
        clock: the device's.

    Raises:
        AgentError: ``source.*``, ``config.*``.
        RecordingError: ``recording.*``.
    """
    context = SourceContext(pipeline, state_dir, clock)
    return source_kind(config.kind).make(config, context)


def make_or_defer_source(pipeline: str, config: Any, state_dir: Path, clock: Clock) -> Source:
    """Return the source of a pipeline, or one that stands for it until it can be made.

    A file or device that is not there must not keep the agent from starting. Only an error in the configuration does.

    Args:
        pipeline: its name.
        config: the configuration of the source: an instance of its kind's dataclass.
        state_dir: where the source may keep a file.
        clock: the device's.

    Raises:
        AgentError: ``config.*``.
    """

    def make() -> Source:
        return make_source(pipeline, config, state_dir, clock)

    try:
        return make()
    except Exception as error:  # the other pipelines run without this one's file or plug-in
        reason = as_agent_error(error)
        if reason.code.startswith("config."):
            raise
        return DeferredSource(make, reason, pipeline)
