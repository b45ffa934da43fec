"""Kept so that source plug-ins written for version 0.1 still import; new ones use :mod:`wheeltapper_agent.ports`."""

from __future__ import annotations

from wheeltapper_agent.source.stream import Reader, Sink, StreamSource

__all__ = ["Reader", "Sink", "StreamSource"]
