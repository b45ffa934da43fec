from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.fleet.device_api.client import Listener
from tests.fleet.trust.world import World
from wheeltapper_fleet.device_api.app import DeviceApi, device_app
from wheeltapper_fleet.device_api.tls_server import device_server, listening_socket


@pytest.fixture
def listener(world: World) -> Iterator[Listener]:
    """The real devices' API, on a free port of the loopback interface."""
    made = Listener("", 0, world)
    api = DeviceApi(
        world.engine,
        world.ca,
        world.enrolment,
        world.repository,
        world.blobs,
        world.captures,
        failures_per_minute=8,
        enrolments_per_minute=50,
        monotonic=lambda: time.monotonic() + made.ahead_seconds,
    )
    with listening_socket("127.0.0.1", 0) as bound:
        port = int(bound.getsockname()[1])
        server = device_server(device_app(api), "127.0.0.1", port, world.ca.server_files())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            made.url, made.port = f"https://127.0.0.1:{port}", port
            yield made
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()
