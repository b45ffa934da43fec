"""Fixture of the end-to-end tests: the real processes of the demo, in a folder for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wheeltapper_fleet.demo.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose processes are stopped when the test ends."""
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.close()
