"""The kind ``simulator``: a simulated bearing; see :mod:`wheeltapper_agent.adapters.simulator`."""

from __future__ import annotations

from wheeltapper_agent.adapters.simulator import SimulatorSource
from wheeltapper_agent.config import SimulatorConfig
from wheeltapper_agent.ports import SourceContext, SourceKind

__all__ = ["KIND"]


def _make(config: SimulatorConfig, context: SourceContext) -> SimulatorSource:
    return SimulatorSource(config, context.state_dir / f"simulator-{context.pipeline}.json", context.clock)


KIND = SourceKind(SimulatorConfig, _make)
