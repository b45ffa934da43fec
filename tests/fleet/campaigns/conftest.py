"""The fleet that tests of campaigns work with."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tests.fleet.campaigns.world import World


@pytest.fixture
def world(engine: Engine) -> World:
    """Five enrolled devices, dev-0 to dev-4, and two releases of the model ``bearing``."""
    world = World(engine)
    world.populate(5)
    return world
