"""Sources of windows, one module a kind; which kinds there are: :mod:`wheeltapper_agent.plugins`."""

from __future__ import annotations

from pathlib import Path

from wheeltapper_agent.adapters.sources.late import LateSource, why_not_made
from wheeltapper_agent.adapters.sources.replay import ReplaySource
from wheeltapper_agent.config import PipelineConfig
from wheeltapper_agent.plugins import source_kind
from wheeltapper_agent.ports import Clock, Source, SourceContext

__all__ = ["LateSource", "ReplaySource", "make_or_await_source", "make_source"]


def make_source(config: PipelineConfig, state_dir: Path, clock: Clock) -> Source:
    """The source that a pipeline's configuration asks for.

    Raises:
        AgentError: ``source.*``, ``config.*``.
        RecordingError: ``recording.*``.
    """
    context = SourceContext(config.name, state_dir, clock)
    return source_kind(config.source.kind).make(config.source, context)


def make_or_await_source(config: PipelineConfig, state_dir: Path, clock: Clock) -> Source:
    """Likewise; where it cannot be made now for a reason that is not the configuration's, one that is made later.

    Raises:
        AgentError: ``config.*``.
    """

    def make() -> Source:
        return make_source(config, state_dir, clock)

    try:
        return make()
    except Exception as error:  # one pipeline's file or plug-in must not keep the agent down
        found = why_not_made(error)
        if found.code.startswith("config."):
            raise
        return LateSource(make, found, config.name)
