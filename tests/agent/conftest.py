"""Fixtures for the agent's tests: a device that runs release 1, and the server that it knows."""

from __future__ import annotations

import copy
import shutil
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


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Repository]:
    """The folder of a device that has committed release 1 and was ended, and its fleet's repository: to be copied."""
    folder = tmp_path_factory.mktemp("committed")
    made = DeviceServer(Authority(folder / "ca"), Repository())
    device_with_release_1(folder / "device", made).close()
    made.close()
    return folder / "device", made.repository


@pytest.fixture
def device(tmp_path: Path, server: DeviceServer, committed: tuple[Path, Repository]) -> Iterator[Device]:
    folder, repository = committed
    server.repository = copy.deepcopy(repository)
    shutil.copytree(folder, tmp_path / "device", symlinks=True)
    made = Device(tmp_path / "device", server)
    yield made
    made.close()
