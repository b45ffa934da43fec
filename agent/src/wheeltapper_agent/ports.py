"""The names that source plug-ins of other distributions import; see docs/agent/sources.md.

The agent itself imports these names from the rooms that own them.
"""

from __future__ import annotations

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.source.base import (
    Source,
    SourceContext,
    SourceKind,
    SourceSpec,
    Window,
    malformed_payloads,
    pending_windows,
    source_faults,
    source_room,
)
from wheeltapper_agent.source.stream import Reader, Sink, StreamSource
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = [
    "Clock",
    "Reader",
    "Sink",
    "Source",
    "SourceContext",
    "SourceKind",
    "SourceSpec",
    "StreamConfig",
    "StreamSource",
    "Window",
    "malformed_payloads",
    "pending_windows",
    "source_faults",
    "source_room",
]
