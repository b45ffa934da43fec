"""The story with brokers of their own: three nodes of NATS, one of which is killed in the middle, and Mosquitto."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.fleet.broker.external import HOSTS, MosquittoAlone, NatsCluster
from wheeltapper_fleet import tables
from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.demo.story import PIPELINE, Story

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def offline(stage: Stage, device: str) -> bool:
    return not stage.client.device(device)["online"]


@pytest.mark.parametrize("make", [NatsCluster, MosquittoAlone], ids=["nats", "mosquitto"])
def test_enrolled_told_committed_and_refused(
    stage: Stage, bundle: Path, make: type[NatsCluster | MosquittoAlone]
) -> None:
    """Two devices enrol, their telemetry is stored, a release is committed, nothing is lost; who is revoked is out."""
    stage.make_keys()
    broker = make(stage.folder / "broker", stage.data_dir)
    try:
        stage.serve_options = ["--config", str(broker.settings)]
        story = Story(stage, devices=2)
        story.enrol()
        story.publish(bundle)
        if isinstance(broker, NatsCluster):
            broker.kill(HOSTS[0])  # where the service is connected, and perhaps one of the devices
        spec = {"model": stage.model, "release": 1, "pipelines": [PIPELINE], "waves": [{"count": 1}, {}]}
        created = stage.client.create_campaign(spec)
        stage.client.act(created["id"], "start", created["version"])
        story.await_campaign(created["id"], "COMPLETED")

        protocol = "3.1.1" if isinstance(broker, NatsCluster) else "5"
        for device in story.device_ids:
            assert f", MQTT {protocol}\n" in (stage.folder / "logs" / f"{device}.log").read_text(encoding="utf-8")

        revoked = story.device_ids[0]
        stage.client.revoke(revoked)
        log_file = Path(stage.folder / "logs" / f"{revoked}.log")
        before = len(log_file.read_text(encoding="utf-8"))
        wait_for("the revoked device to be offline", lambda: offline(stage, revoked), 30.0)
        time.sleep(4.0)  # it tries again and again
        assert offline(stage, revoked)
        assert ": connected to" not in log_file.read_text(encoding="utf-8")[before:]
        assert not offline(stage, story.device_ids[1])
        story.finish()
        sent = stage.agent_status(story.device_ids[1])
        with sa.create_engine(f"sqlite:///{stage.data_dir / 'fleet.db'}").connect() as connection:
            query = sa.select(tables.spools.c.contiguous).where(tables.spools.c.epoch == sent.epoch)
            assert connection.execute(query).scalar_one() == sent.seq
    finally:
        broker.stop()
