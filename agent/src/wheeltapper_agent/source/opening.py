"""Makes the source that a pipeline's configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.attempt import Attempt
from wheeltapper_agent.source.base import Source, SourceContext
from wheeltapper_agent.source.deferred import DeferredSource, as_agent_error
from wheeltapper_agent.source.kinds import source_kind

__all__ = ["make_or_defer_source", "make_source"]

_OPEN_SECONDS: Final = 10.0
"""How long the start of the agent waits for one source."""


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


def make_or_defer_source(pipeline: str, config: Any, state_dir: Path, clock: Clock) -> DeferredSource:
    """Return what stands for the source of a pipeline, and makes it anew whenever it broke.

    A file or device that is not there, or a plug-in that hangs, must not keep the agent from starting. Only an error in
    the configuration does.

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

    opening = Attempt(make, f"open-{pipeline}")
    if not opening.wait(_OPEN_SECONDS):
        reason = AgentError("source.hangs", f"the source did not open within {_OPEN_SECONDS:g} s; it is waited for")
        return DeferredSource(make, reason, pipeline, clock=clock, opening=opening)
    if opening.error is None:
        return DeferredSource(make, None, pipeline, made=opening.result(), clock=clock)
    reason = as_agent_error(opening.error)
    if reason.code.startswith("config."):
        raise reason from opening.error
    return DeferredSource(make, reason, pipeline, clock=clock)
