"""A release that is not published is refused by everyone in the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from wheeltapper_fleet.campaigns.creation import check_releases
from wheeltapper_fleet.campaigns.default_releases import set_default
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.lineage.views import release_devices, release_lineage
from wheeltapper_fleet.promotion.quality import estimated_quality
from wheeltapper_fleet.promotion.service import request_promotion, set_alias
from wheeltapper_fleet.registry.tables import releases

BY: dict[str, Any] = {"who": "ann", "why": "", "now": 1.7e9}


def _publish(engine: Engine, model: str, release: int) -> None:
    values = {"model": model, "release": release, "path": f"releases/{model}/{release}/manifest.json", "length": 1}
    values |= {"sha256": f"{release:064x}", "manifest": {}, "published_at": 1.7e9, "published_by": "ann"}
    with engine.begin() as connection:
        connection.execute(releases.insert().values(values))


def _campaign(engine: Engine) -> None:
    spec = read_spec({"model": "press", "release": 2, "audience": {"tags": {}}, "rollback_to": 9})
    with engine.begin() as connection:
        check_releases(connection, spec)


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: set_alias(engine, "press", "champion", 9, **BY),
        lambda engine: request_promotion(engine, "press", "champion", 9, **BY),
        lambda engine: set_default(engine, "press", 9, pipeline="main", tags={}, **BY),
        lambda engine: release_lineage(engine, "press", 9),
        lambda engine: release_devices(engine, "press", 9),
        lambda engine: estimated_quality(engine, "press", 9, 0.0, 1.0),
        _campaign,
    ],
)
def test_everyone_says_the_same_of_a_release_that_is_not_published(
    engine: Engine, ask: Callable[[Engine], object]
) -> None:
    _publish(engine, "press", 2)
    _publish(engine, "fan", 9)
    with pytest.raises(FleetError) as caught:
        ask(engine)
    assert (caught.value.code, caught.value.status) == ("release.not_found", 404)
    assert caught.value.message == "press has no published release 9"
