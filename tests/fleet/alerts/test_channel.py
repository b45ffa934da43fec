"""An alert names the channel that its reasons point to, and goes to the point which that channel measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, insert

from tests.fleet.alerts.world import Works
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.alerts.channel import KnownChannels, channel_of, known_channels
from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.tables import releases
from wheeltapper_protocols.wire.messages import Reason

MANIFEST: dict[str, Any] = {
    "input": {"channels": ["x", "y", "y.upper"]},
    "features": [{"name": "x.rms", "channel": 0}, {"name": "strange name", "channel": 1}],
    "bearing": {"channel": 1},
}


@pytest.mark.parametrize(
    ("shares", "channel"),
    [
        ({"x.rms": 0.6, "y.rms": 0.4}, "x"),
        ({"x.rms": 0.4, "y.rms": 0.3, "y 10-20 Hz": 0.3}, "y"),
        ({"x.rms": 0.5, "y.rms": 0.5}, None),
        ({"strange name": 1.0}, "y"),
        ({"y.upper.rms": 1.0}, "y.upper"),
        ({"x.rms": 0.4, "no channel": 0.6}, None),
        ({"x.rms": 0.6, "outer race (BPFO 104.6 Hz, 3 harmonics)": 0.0}, "x"),
        ({"outer race (BPFO 104.6 Hz, 3 harmonics)": 0.0}, "y"),
        ({"xy.rms": 1.0}, None),
        ({"x.rms": float("nan")}, "y"),
        ({}, None),
    ],
)
def test_the_channel_that_most_points_to(shares: dict[str, float], channel: str | None) -> None:
    reasons = [{"feature": name, "share": share} for name, share in shares.items()]
    assert channel_of(reasons, known_channels(MANIFEST)) == channel


@pytest.mark.parametrize("manifest", [None, [], {}, {"input": {"channels": 3}, "features": [{"channel": 9}, 7]}])
def test_what_cannot_be_read_names_no_channel(manifest: object) -> None:
    assert channel_of([{"feature": "x.rms", "share": 1.0}, "x"], known_channels(manifest)) is None
    assert known_channels(manifest) == KnownChannels()


def moved(**shares: float) -> list[Reason]:
    return [Reason(feature=name.replace("_", "."), value=2.0, usual=1.0, share=share) for name, share in shares.items()]


def publish(engine: Engine, release: int = 1) -> None:
    row = {"model": "m", "release": release, "path": "p", "sha256": "0" * 64, "length": 1, "manifest": MANIFEST}
    with engine.begin() as connection:
        connection.execute(insert(releases).values(**row, published_at=0.0, published_by="ann"))


def test_an_alert_goes_to_the_point_of_its_channel(engine: Engine) -> None:
    works = Works(engine)
    publish(engine)
    works.alert(100.0, reasons=moved(x_rms=0.4, y_rms=0.35, y_kurtosis=0.25))
    works.alert(200.0, reasons=moved(x_rms=0.7, y_rms=0.3))
    works.alert(300.0, release=9, reasons=moved(y_rms=0.7, x_rms=0.3))
    works.alert(400.0, reasons=moved(x_rms=0.5, y_rms=0.5))
    works.turn(1000.0)
    found = [(each.channel, each.point) for each in reversed(list_alerts(engine).items)]
    assert found == [("y", "rear"), ("x", "front"), (None, "rear"), (None, "front")]


def test_a_release_is_read_once(engine: Engine) -> None:
    works = Works(engine)
    publish(engine)
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    for turn in range(3):
        for number in range(4):
            works.alert(100.0 * turn + number, reasons=moved(x_rms=1.0))
        works.turn(1000.0 + turn)
    assert sum("releases.manifest" in each for each in said) == 1


def test_the_page_says_the_channel(server: AdminServer, tmp_path: Path) -> None:
    works = Works(server.engine)
    publish(server.engine)
    works.alert(100.0, reasons=moved(y_rms=1.0))
    works.turn(5000.0)
    text = httpx.get(f"{server.url}/fragments/alerts", cookies={COOKIE: server.sign_in()}, trust_env=False).text
    assert "channel y · rear" in " ".join(text.split())
