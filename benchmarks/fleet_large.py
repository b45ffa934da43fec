"""100,000 devices with 100 million records behind them: what lists, filters and pages take.

The database is made by :mod:`fleet_data`; then a real service runs on it, and the routes that read are asked over HTTP,
one request at a time, each time for something else: the first page, pages in the middle and at the end, filters that
many, few and no devices meet. A device's records are in messages of 500. Campaigns are made through the API: sixty
to twenty devices each, one to all.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil
from fleet_data import LargeFleet, device_name, fill, machine_name
from rig import Row, main, row, trained_bundle

from wheeltapper_agent.source.simulator import SimulatorConfig
from wheeltapper_fleet.demo.stage import Stage
from wheeltapper_fleet.ground.paging import write_cursor

REQUESTS: Final = 100
CREATE_SECONDS: Final = 5.0
READ_MS: Final = 100.0
ANSWER_MB: Final = 1.0
_SMALL_CAMPAIGNS: Final = 60
_WAVES: Final = 5


@dataclass
class Asked:
    """What requests for one kind of thing took."""

    name: str
    ms: list[float] = field(default_factory=list)
    longest_bytes: int = 0
    failed: int = 0
    cpu_ms: float = 0.0
    """CPU time of the whole service for one request, on average."""

    @property
    def p99(self) -> float:
        """Milliseconds that 99 of 100 requests do not exceed."""
        return float(np.percentile(self.ms, 99))


def _paths(size: LargeFleet, campaign: str) -> dict[str, Callable[[int], str]]:
    """By name: the path of request number n."""
    count = size.devices

    def device(n: int) -> str:
        return device_name(n * 7919 % count + 1)

    def deep(n: int) -> str:
        return write_cursor(device(n))

    def query(text: str) -> Callable[[int], str]:
        return lambda n: f"{api}/devices?{httpx.QueryParams({'q': text % n if '%' in text else text, 'limit': 100})}"

    api = "/api/v1"
    return {
        "list of devices, first page": lambda n: f"{api}/devices?limit=100",
        "list of devices, any page": lambda n: f"{api}/devices?limit=100&after={deep(n)}",
        "list of devices, 1,000 a page": lambda n: f"{api}/devices?limit=1000&after={deep(n)}",
        "filter: a tag that 2,500 have": lambda n: query('tag.line = "%d"')(n % 40),
        "filter: a tag that four have": lambda n: query('tag.machine = "m-%d"')(n * 97 % (count // 4)),
        "filter: a tag that nobody has": query('tag.line = "x-%d"'),
        "filter: two tags and a site": lambda n: query('site = "north" and tag.line = "%d" and tag.class = "A"')(
            n % 40
        ),
        "filter: offline, not retired": query('not online and state = "active"'),
        "filter: agent older than 1.1": query('attr.agent_version < "1.1"'),
        "filter: a model's release": lambda n: query('release("main") = %d')(n % 3),
        "filter: ids like sim-0*7": query('id like("sim-0*7")'),
        "filter: ids like *77": query('id like("*77")'),
        "filter: not seen for an hour": lambda n: query("last_seen < %d")(int(time.time()) - 3600),
        "a device": lambda n: f"{api}/devices/{device(n)}",
        "why a device runs it": lambda n: f"{api}/devices/{device(n)}/why",
        "alerts, first page": lambda n: f"{api}/alerts?limit=100",
        "campaigns": lambda n: f"{api}/campaigns?limit=100",
        "the campaign to all": lambda n: f"{api}/campaigns/{campaign}",
        "its executions, any page": lambda n: (
            f"{api}/campaigns/{campaign}/executions?limit=100&after={write_cursor(_WAVES - 1, device(n))}"
        ),
        "history of a day": lambda n: f"{api}/devices/{device(n)}/history?pipeline=main",
        "history of 90 days, 2,000 points": lambda n: (
            f"{api}/devices/{device_name(1)}/history?pipeline=main&points=2000&from={time.time() - 90 * 86_400 + n:.0f}"
        ),
        "records of a device": lambda n: f"{api}/devices/{device(n)}/records?limit=1000",
        "what became of its records": lambda n: f"{api}/devices/{device(n)}/delivery",
        "log of a device": lambda n: f"{api}/devices/{device(n)}/log",
        "devices counted by a query": lambda n: query('tag.line = "%d"')(n % 40).replace("/devices", "/device-counts"),
        "devices counted, all": lambda n: f"{api}/device-counts",
        "cases": lambda n: f"{api}/cases?limit=100",
        "silences": lambda n: f"{api}/silences",
        "notifications": lambda n: f"{api}/notifications",
        "its log": lambda n: f"{api}/campaigns/{campaign}/log",
        "releases": lambda n: f"{api}/releases",
        "captures": lambda n: f"{api}/captures",
        "changes (audit)": lambda n: f"{api}/audit",
        "assets": lambda n: f"{api}/assets",
        "default releases": lambda n: f"{api}/default-releases",
        "summary": lambda n: f"{api}/summary",
        "page: shift start": lambda n: "/",
        "page: machines": lambda n: "/machines",
        "page: machines of a site": lambda n: f"/machines?within={('north', 'south', 'east')[n % 3]}",
        "page: a machine": lambda n: f"/machines/{machine_name(n * 7919 % (count // 4))}",
        "page: features of a machine": lambda n: f"/machines/{machine_name(n * 7919 % (count // 4))}/features",
        "page: cases": lambda n: "/cases",
        "page: devices": lambda n: "/devices",
        "page: devices, filtered": lambda n: query('tag.line = "%d"')(n % 40).removeprefix(api),
        "page: devices, any page": lambda n: f"/devices?after={deep(n)}",
        "page: campaigns": lambda n: "/campaigns",
        "page: a new campaign": lambda n: "/campaigns/new",
        "page: models": lambda n: "/models",
        "page: data": lambda n: "/data",
        "page: runs": lambda n: "/data/runs",
        "page: trust": lambda n: "/trust",
        "page: value": lambda n: "/value",
        "page: settings": lambda n: "/settings",
        "page: health of a device": lambda n: f"/devices/{device(n)}/health",
        "page: executions of a device": lambda n: f"/devices/{device(n)}/executions",
        "page: a device": lambda n: f"/devices/{device(n)}",
        "page: the campaign to all": lambda n: f"/campaigns/{campaign}",
        "page: why a device runs it": lambda n: f"/why/{device(n)}",
    }


def _ask(client: httpx.Client, service: psutil.Process, requests: int, name: str, path: Callable[[int], str]) -> Asked:
    asked, cpu = Asked(name), sum(service.cpu_times()[:2])
    for number in range(requests):
        began = time.monotonic()
        response = client.get(path(number))
        asked.ms.append((time.monotonic() - began) * 1000)
        asked.longest_bytes = max(asked.longest_bytes, len(response.content))
        if response.status_code != httpx.codes.OK:
            asked.failed += 1
        if response.status_code != httpx.codes.OK and asked.failed == 1:
            print(f"{path(number)}: {response.status_code} {response.text[:200]}", file=sys.stderr)
    asked.cpu_ms = (sum(service.cpu_times()[:2]) - cpu) * 1000 / requests
    return asked


def _campaigns(stage: Stage, size: LargeFleet) -> tuple[str, float]:
    """Make the campaigns; returns the id of the one to all devices and the seconds that making it took."""
    for number in range(_SMALL_CAMPAIGNS):
        named = [device_name(number * 20 + index) for index in range(1, 20)]
        spec = {"model": stage.model, "release": 1, "waves": [{}], "audience": {"devices": named}}
        stage.client.create_campaign(spec)
    waves = [{"count": 10}, {"percent": 1}, {"percent": 10}, {"percent": 30}, {}]
    assert len(waves) == _WAVES
    with httpx.Client(base_url=stage.url, headers=_bearer(stage), timeout=900.0) as client:
        began = time.monotonic()
        made = client.post("/api/v1/campaigns", json={"spec": {"model": stage.model, "release": 1, "waves": waves}})
        seconds = time.monotonic() - began
    made.raise_for_status()
    return str(made.json()["id"]), seconds


def _bearer(stage: Stage) -> dict[str, str]:
    return {"Authorization": f"Bearer {(stage.data_dir / 'api-token').read_text(encoding='ascii').strip()}"}


def measured(size: LargeFleet, requests: int) -> Iterator[Row]:
    """The figures, in a folder that is removed. Long because it is one story, from an empty folder to the figures."""
    with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as folder:
        stage = Stage(Path(folder))
        try:
            stage.start_fleet()
            bundle = trained_bundle(Path(folder) / "bundle", SimulatorConfig(sample_rate_hz=12_800.0), windows=120)
            stage.client.publish_bundle(bundle, stage.team_key)
            stage.end("fleet")
            fill(f"sqlite:///{stage.data_dir / 'fleet.db'}", size)
            megabytes = sum(file.stat().st_size for file in stage.data_dir.glob("fleet.db*")) / 1e6
            print(
                f"{size.devices} devices, {size.devices * size.records_each} records, {megabytes:.0f} MB",
                file=sys.stderr,
            )
            stage._client = None  # the service starts on other ports
            stage.start_fleet()
            campaign, seconds = _campaigns(stage, size)
            yield row(f"creating a campaign to {size.devices} devices, five waves: s", seconds, CREATE_SECONDS)
            with httpx.Client(base_url=stage.url, timeout=300.0) as client:
                token = _bearer(stage)["Authorization"].partition(" ")[2]
                assert client.post("/sign-in", data={"token": token}).status_code == httpx.codes.SEE_OTHER
                service = psutil.Process(int(stage.serve_info()["pid"]))
                found = [_ask(client, service, requests, *each) for each in _paths(size, campaign).items()]
        finally:
            stage.close()
    for each in sorted(found, key=lambda each: -each.p99):
        print(
            f"{each.name}: p99 {each.p99:.1f} ms, CPU {each.cpu_ms:.1f} ms, {each.longest_bytes / 1000:.0f} kB",
            file=sys.stderr,
        )
    worst, longest = max(found, key=lambda each: each.p99), max(found, key=lambda each: each.longest_bytes)
    for each in found:
        yield row(f"{each.name}: p99 ms", each.p99 if not each.failed else float("inf"), READ_MS)
    yield row(f"slowest of {len(found)} kinds ({worst.name}): p99 ms", worst.p99, READ_MS)
    yield row(f"longest answer ({longest.name}): MB", longest.longest_bytes / 1e6, ANSWER_MB)


def rows(size: LargeFleet | None = None, requests: int = REQUESTS) -> list[Row]:
    """The figures."""
    return list(measured(size or LargeFleet(), requests))


if __name__ == "__main__":
    os.environ.setdefault("SQLITE_TMPDIR", tempfile.gettempdir())
    main(rows, "A large fleet")
