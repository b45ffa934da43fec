"""Sources of windows, one module a kind; which kinds there are: :mod:`wheeltapper_agent.plugins`."""

from __future__ import annotations

from pathlib import Path

from wheeltapper_agent.adapters.sources.replay import ReplaySource
from wheeltapper_agent.config import PipelineConfig
from wheeltapper_agent.plugins import source_kind
from wheeltapper_agent.ports import Clock, Source, SourceContext

__all__ = ["ReplaySource", "make_source"]


def make_source(config: PipelineConfig, state_dir: Path, clock: Clock) -> Source:
    """The source that a pipeline's configuration asks for.

    Raises:
        AgentError: ``source.*``, ``config.*``.
    """
    context = SourceContext(config.name, state_dir, clock)
    return source_kind(config.source.kind).make(config.source, context)
