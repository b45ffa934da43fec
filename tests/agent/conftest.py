"""Fixtures for the agent's tests: a device that runs release 1, and the server that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.device import Device, device_with_release_1
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DeviceServer]:
    made = DeviceServer(Authority(tmp_path / "ca"), Repository())
    yield made
    made.close()


@pytest.fixture
def device(tmp_path: Path, server: DeviceServer) -> Iterator[Device]:
    made = device_with_release_1(tmp_path / "device", server)
    yield made
    made.close()
