"""What plug-ins for sources import; see docs/agent/sources.md. The agent itself imports from its rooms."""

from __future__ import annotations

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.source.base import Source, SourceContext, SourceKind, SourceSpec, Window
from wheeltapper_agent.source.stream import Reader, StreamSource

__all__ = ["Clock", "Reader", "Source", "SourceContext", "SourceKind", "SourceSpec", "StreamSource", "Window"]
