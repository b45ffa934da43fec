"""What a campaign that signs 10,000 assignments does to the ingest: how long records wait for their ack meanwhile.

A hundred simulated devices send a message a second each, over MQTT and TLS; 10,000 more are enrolled and away, and the
campaign is to these: what the speaking ones would do for an update of their own is no part of what is measured. The
time is from making a message to the ack after the commit, as the devices see it, first without the campaign and then
from its start until every assignment is signed and handed to the broker.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import httpx
import numpy as np
from fleet_rig import Fleet, fleet, names
from rig import Row, main, row

from wheeltapper_fleet.sim.behaviour import Behaviour
from wheeltapper_fleet.sim.identities import Identities
from wheeltapper_fleet.sim.simulator import Simulation
from wheeltapper_fleet.sim.trust import SharedMetadata

DEVICES = 10_000
SPEAKING = 100
QUIET_SECONDS = 20.0
RATIO = 2.0
_LONGEST_SECONDS = 300.0


class Speaking:
    """Simulated devices in this process; ``waited`` grows while they live."""

    def __init__(self, running: Fleet) -> None:
        identities = Identities(running.identities)
        endpoints, speaking = identities.endpoints, names(SPEAKING)
        self._https = httpx.Client(base_url=endpoints.https_url, verify=identities.https_context(speaking[0]))
        self._simulation = Simulation(
            dict.fromkeys(speaking, ()),
            Behaviour(records_per_second=10.0, batch_seconds=1.0),
            {},
            endpoints,
            identities.tls_maker(endpoints.mqtt_host),
            SharedMetadata(running.identities / "tuf", identities.root, self._https),
        )
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_until_complete(self._simulation.run(3600.0, self._stop))

    @property
    def waited(self) -> list[float]:
        """For each message that was acknowledged: seconds from making it to its ack."""
        return list(self._simulation.figures.ack_seconds)

    def end(self) -> None:
        """Let them leave."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30.0)
        self._https.close()


def rows() -> list[Row]:
    """The figures."""
    with fleet() as running:
        running.enrol(SPEAKING + DEVICES)
        speaking = Speaking(running)
        running.wait_online(SPEAKING)
        time.sleep(5.0)
        begin = len(speaking.waited)
        time.sleep(QUIET_SECONDS)
        quiet = len(speaking.waited)
        client = running.stage.client
        made = client.create_campaign(
            {"model": running.stage.model, "release": 1, "waves": [{}], "audience": {"query": "not online"}}
        )
        client.act(made["id"], "start", made["version"])
        began = time.monotonic()
        while running.states(made["id"])["PENDING"] and time.monotonic() - began < _LONGEST_SECONDS:
            time.sleep(0.5)
        seconds = time.monotonic() - began
        waited = speaking.waited
        speaking.end()
    before, during = np.percentile(waited[begin:quiet], 99), np.percentile(waited[quiet:], 99)
    print(f"{DEVICES} signed in {seconds:.1f} s, {len(waited) - quiet} acks meanwhile", file=sys.stderr)
    return [
        row(f"signing {DEVICES} assignments: s", seconds),
        row("ingest without a campaign: p99 of the ack, ms", float(before) * 1000),
        row("ingest while a campaign signs: p99 of the ack, ms", float(during) * 1000),
        row("ingest p99 while a campaign signs, over without", float(during / before), RATIO),
    ]


if __name__ == "__main__":
    main(rows, "The ingest while a campaign signs")
