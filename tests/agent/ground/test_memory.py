"""Memory that is no longer used returns to the operating system."""

from __future__ import annotations

import os
from pathlib import Path

from wheeltapper_agent.ground.memory import release_memory, start_releasing_memory


def test_memory_is_released() -> None:
    held = [bytearray(1000) for _ in range(50_000)]
    before = _rss_kb()
    del held
    release_memory()
    assert _rss_kb() < before
    assert start_releasing_memory().daemon


def _rss_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
