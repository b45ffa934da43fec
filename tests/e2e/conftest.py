"""The end-to-end tests' stage: the real processes of the demo in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wheeltapper_fleet.demo.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage that leaves no process behind."""
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.close()
