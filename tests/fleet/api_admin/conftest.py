"""A real admin server on loopback, over a real database, repository and blob store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.api_admin.harness import AdminServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdminServer]:
    with AdminServer(tmp_path / "data") as running:
        yield running
