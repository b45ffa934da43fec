"""One campaign to all of many simulated devices: how long until every execution ended, and what the fleet needs for it.

The devices are simulated in a process of their own, on the same cores: MQTT over TLS with a certificate each, every
signature verified, each state reported (eight reports a device), a telemetry record each ten seconds. A device takes
about 10 s for its update. The cost a device is the CPU time of service and broker during the campaign, without what
they need in the same time while nothing happens but telemetry.
"""

from __future__ import annotations

import sys
import time

from fleet_rig import TERMINAL, Fleet, fleet
from rig import Row, main, row

SIZES = (100, 1_000, 10_000)
SECONDS = 120.0
RSS_MB = 500.0
FLAT = 1.2
IDLE_SECONDS = 10.0


def campaign(running: Fleet, devices: int, release: int) -> tuple[float, float]:
    """Take ``release`` to all devices; returns the seconds until every execution ended, and the cost in CPU seconds."""
    client = running.stage.client
    made = client.create_campaign({"model": running.stage.model, "release": release, "waves": [{}]})
    cpu = running.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    idle = (running.cpu_seconds() - cpu) / IDLE_SECONDS
    cpu, began = running.cpu_seconds(), time.monotonic()
    client.act(made["id"], "start", made["version"])
    while True:
        states = running.states(made["id"])
        if set(states) <= TERMINAL and states.total() == devices:
            break
        running.stage.check_alive()
        if time.monotonic() - began > 10 * SECONDS:
            print(f"given up: {dict(states)}", file=sys.stderr)
            break
        time.sleep(0.5)
    seconds = time.monotonic() - began
    return seconds, running.cpu_seconds() - cpu - idle * seconds


def rows(sizes: tuple[int, ...] = SIZES, *, on_mosquitto: bool = False) -> list[Row]:
    """The figures, on the embedded broker or on Mosquitto."""
    found, costs = [], []
    what = "campaign on Mosquitto" if on_mosquitto else "campaign"
    for size in sizes:
        with fleet(on_mosquitto=on_mosquitto) as running:
            running.enrol(size)
            simulator = running.simulator(size)
            online = running.wait_online(size)
            seconds, cpu = campaign(running, size, 1)
            figures = simulator.end()
            peaks = running.peak_rss_mb()
        costs.append(cpu / size)
        print(
            f"{size} devices: online in {online:.1f} s, campaign {seconds:.1f} s, {peaks} MB", figures, file=sys.stderr
        )
        found.append(row(f"{what} to {size} devices: CPU ms a device", cpu / size * 1000))
        if size == sizes[-1]:
            found.append(row(f"{what} to {size} devices: seconds until every execution ended", seconds, SECONDS))
            found.append(
                row(f"{what} to {size} devices: peak RSS of service and broker, MB", sum(peaks.values()), RSS_MB)
            )
            found.append(row(f"{what} to {size} devices: connections a second", size / online))
    if len(costs) > 1:
        growth = max(later / min(costs[: index + 1]) for index, later in enumerate(costs))
        found.append(row("cost a device, at a larger size over a smaller one at most", growth, FLAT))
        found.append(row("cost a device, the dearest over the cheapest size", max(costs) / min(costs)))
    return found


if __name__ == "__main__":
    main(rows, "A campaign to the whole fleet")
