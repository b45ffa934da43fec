"""A whole agent beside a real local broker: what the fleet hears when the sensor's data are bad and the broker dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.servers import until
from tests.agent.sources.broker import PlainBroker
from tests.agent.test_agent_end_to_end import World
from wheeltapper_protocols.messages import PipelineStatus


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_bad_data_and_a_dead_broker_are_reported(tmp_path: Path, world: World) -> None:
    (tmp_path / "plain").mkdir()
    broker = PlainBroker(tmp_path / "plain")
    head = world.config.read_text().split("[[pipelines]]")[0].replace("[delivery]", "status_seconds = 0.3\n[delivery]")
    world.config.write_text(
        f'{head}[[pipelines]]\nname = "press"\nquality = {{ stuck_samples = 5 }}\n[pipelines.source]\nkind = "mqtt"\n'
        f'port = {broker.port}\ntopic = "press"\nsample_rate_hz = 100\nwindow_samples = 10\nfull_scale = [16.0]\n'
        "retry_first_seconds = 0.1\nretry_max_seconds = 0.3\n"
    )

    def press() -> PipelineStatus:
        return (
            world.fleet.statuses[-1].pipelines.get("press", PipelineStatus())
            if world.fleet.statuses
            else PipelineStatus()
        )

    try:
        done = world.command("enroll", "--server", world.server.url, "--config", str(world.config), "--json")
        assert done.returncode == 0, done.stderr
        world.start()
        client = broker.client()
        values: list[float | None] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        until(
            lambda: bool(client.publish("press", json.dumps({"samples": values}))) and press().windows > 2,
            30,
            "windows",
        )
        assert press().source == "running"
        for bad in ([None, *values[1:]], [1.5] * 10, [*values[:9], 16.5]):
            client.publish("press", json.dumps({"samples": bad}), qos=1).wait_for_publish(10)

        def counted() -> bool:
            found = press().quality
            return found is not None and (found.missing, found.incomplete, found.stuck, found.clipped) == (1, 1, 10, 1)

        until(counted, 20, "the counts")
        broker.kill()
        until(lambda: press().source == "source.unreachable", 20, "the dead broker")
        broker.start()
        until(lambda: press().source in ("waiting", "running"), 20, "the broker again")
        client.loop_stop()
        assert world.stop() == 0
        shown = json.loads(world.command("status", "--config", str(world.config), "--json").stdout)
        assert shown["pipelines"]["press"]["quality"]["stuck"] == 10
        windows = world.fleet.windows()
        assert [record.window for record in windows] == list(range(len(windows)))
    finally:
        broker.kill()
