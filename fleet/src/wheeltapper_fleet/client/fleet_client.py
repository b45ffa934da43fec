"""A client of the admin API.

Example:
    >>> found = find_fleet(Path("wheeltapper-data"))
    >>> with FleetClient(found.url, found.token) as client:
    ...     [device["id"] for device in client.devices()]
    ['press-1', 'press-2']

Invariants:
    * Every refusal of the server is raised as :class:`FleetError` with the server's own code.
    * A server that cannot be reached is raised as ``client.unreachable``.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from wheeltapper_fleet.client.access_calls import AccessCalls
from wheeltapper_fleet.client.campaign_calls import CampaignCalls
from wheeltapper_fleet.client.capture_calls import CaptureCalls
from wheeltapper_fleet.client.device_calls import DeviceCalls
from wheeltapper_fleet.client.lineage_calls import LineageCalls
from wheeltapper_fleet.client.promotion_calls import PromotionCalls
from wheeltapper_fleet.client.release_calls import ReleaseCalls
from wheeltapper_fleet.client.requests import PREFIX, quoted, refusal, unreachable
from wheeltapper_fleet.client.run_calls import RunCalls
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["FleetAccess", "FleetClient", "find_fleet"]


@dataclass(frozen=True)
class FleetAccess:
    """The URL of a fleet service's admin API, and an API token for it."""

    url: str
    token: str = field(repr=False)


def find_fleet(data_dir: Path, wait_seconds: float = 0.0) -> FleetAccess:
    """Find the fleet service that runs on a data folder, by the folder's ``serve.json`` and ``api-token``.

    Args:
        data_dir: the folder.
        wait_seconds: how long to wait for a service that starts, if the folder has the keys of one.

    Raises:
        FleetError: ``client.not_running``.
    """
    deadline = time.monotonic() + wait_seconds
    while (data_dir / "keys").is_dir() and not (data_dir / "serve.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        served = json.loads((data_dir / "serve.json").read_text(encoding="utf-8"))
        return FleetAccess(str(served["admin_url"]), (data_dir / "api-token").read_text(encoding="ascii").strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        start = f"`wheeltapper serve --data-dir {shlex.quote(str(data_dir))}`"
        message = f"no fleet service runs on {data_dir}: start it with {start}, or give --url"
        raise FleetError("client.not_running", message, 503) from error


class FleetClient(
    DeviceCalls,
    CaptureCalls,
    ReleaseCalls,
    LineageCalls,
    PromotionCalls,
    CampaignCalls,
    AccessCalls,
    RunCalls,
):
    """One method for each route of the admin API. Use it in a ``with`` statement, or close it.

    Every method raises FleetError with the server's code when the server refuses, and ``client.unreachable`` when the
    server does not answer. What the dicts contain is in the rooms' ``schemas.py``.

    Args:
        base_url: e.g. ``http://127.0.0.1:8080``.
        token: the API token.
        verify: whether to verify the server's TLS certificate, or the path of the CA to verify it with.
    """

    def healthz(self) -> dict[str, Any]:
        """Whether every part of the service works: ``ok``, and the names of the parts ``failing``."""
        return dict(self._send("GET", "/healthz", ok=(200, 503)).json())

    def alerts(self, limit: int = 200) -> list[dict[str, Any]]:
        """The newest ``limit`` alerts, newest first."""
        return list(islice(self.items("/alerts", {"limit": min(limit, MAX_LIMIT)}), limit))

    def processes(self) -> list[dict[str, Any]]:
        """The processes of the service that ran in the last week, by name."""
        return list(self.items("/processes"))

    def delivery(self, device: str) -> dict[str, Any]:
        """How many records of a device are ``stored``, ``missing``, ``dropped``, ``refused``."""
        return dict(self._get(f"/devices/{quoted(device)}/delivery"))

    def summary(self) -> dict[str, Any]:
        """The fleet in numbers."""
        return dict(self._get("/summary"))

    def events(self) -> Iterator[tuple[str, Any]]:
        """Live changes as (kind, value) until the stream ends; the kind is device, campaign, alert or reset."""
        kind = ""
        try:
            with self._http.stream("GET", f"{PREFIX}/events", timeout=httpx.Timeout(10.0, read=60.0)) as response:
                if response.status_code != 200:
                    response.read()
                    raise refusal(response)
                for line in response.iter_lines():
                    if line.startswith("event: "):
                        kind = line[7:]
                    elif line.startswith("data: "):
                        yield kind, json.loads(line[6:])
        except httpx.HTTPError as error:
            raise unreachable(error) from error
