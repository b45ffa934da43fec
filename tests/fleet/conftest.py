"""Fixtures for the rooms of the fleet service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.api.harness import AdminServer
from tests.fleet.trust.world import World


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pgserver = pytest.importorskip("pgserver", reason="pip install pgserver to test on PostgreSQL")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Keys, CA, repository, database and services in a folder."""
    made = World.create(tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdminServer]:
    """A real admin server on loopback, over a real database, repository and blob store."""
    with AdminServer(tmp_path / "data") as running:
        yield running
