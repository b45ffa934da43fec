"""Servers that answer ever so slowly, and never to the end: nothing waits for them longer than it said."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.bundles import make_bundle
from tests.agent.device import Device
from tests.agent.servers import Authority, DeviceServer, until
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.rate import MinimumRate
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_agent.update import blobs
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.floors import FloorStore
from wheeltapper_agent.update.tuf_client import TufClient

_TIMEOUT_SECONDS = 0.5
_BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
_SHA256 = "ab" * 32


class Dribbler:
    """Answers each request with ``first``, then with ``again`` every ``every_seconds``, to no end."""

    def __init__(self, authority: Authority, first: bytes, again: bytes, every_seconds: float = 0.05) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.pair("localhost"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answer = first, again, every_seconds
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        context = ssl.create_default_context(cafile=str(authority.path))
        self.client = HttpsClient(f"https://127.0.0.1:{self._listener.getsockname()[1]}", context, _TIMEOUT_SECONDS)

    def _serve(self) -> None:
        first, again, every_seconds = self._answer
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(10_000)
                connection.sendall(first)
                while not self.over.wait(every_seconds):
                    connection.sendall(again)

    def close(self) -> None:
        self.over.set()
        self._listener.close()


@pytest.fixture
def dribbler(tmp_path: Path) -> Iterator[Callable[..., HttpsClient]]:
    authority, made = Authority(tmp_path / "dribbler"), list[Dribbler]()

    def make(*args: Any) -> HttpsClient:
        made.append(Dribbler(authority, *args))
        return made[-1].client

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["interim answers", "head", "line before a chunk", "trailer"],
)
def test_no_wait_is_longer_than_the_time_out(dribbler: Any, first: bytes, again: bytes) -> None:
    client, began = dribbler(first, again), time.monotonic()
    with pytest.raises(HttpsError) as refused:
        list(client.stream("/x"))
    assert refused.value.code == "fetch.unreachable"
    assert time.monotonic() - began < 2 * _TIMEOUT_SECONDS


@pytest.mark.parametrize(
    ("status", "code"), [(b"200 OK", "fetch.slow"), (b"500 Not now", "fetch.status")], ids=["answer", "error"]
)
def test_what_is_taken_whole_has_an_end(dribbler: Any, status: bytes, code: str) -> None:
    client, began = dribbler(_BEGUN.replace(b"200 OK", status), b"x"), time.monotonic()
    with pytest.raises(HttpsError) as refused:
        client.request("PATCH", "/x", 10**6, b"a piece of a recording")
    assert refused.value.code == code
    assert time.monotonic() - began < 5 * _TIMEOUT_SECONDS


def test_a_long_answer_may_take_many_time_outs(tmp_path: Path, dribbler: Any) -> None:
    client = dribbler(_BEGUN.replace(b"60000", b"20"), b"x", 0.1)
    assert b"".join(client.stream("/x")) == b"x" * 20


def test_each_piece_of_a_blob_asks_whether_to_go_on(tmp_path: Path, dribbler: Any) -> None:
    class StopError(Exception):
        pass

    def pause(_seconds: float) -> None:
        raise StopError

    store, began = BlobStore(tmp_path / "blobs", dribbler(_BEGUN, b"x")), time.monotonic()
    with pytest.raises(StopError):
        store.fetch(_SHA256, 60_000, pause)
    assert time.monotonic() - began < 2 * _TIMEOUT_SECONDS


def test_a_blob_that_comes_too_slowly_is_left_and_what_came_is_kept(
    tmp_path: Path, dribbler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "SLOW_WINDOW_SECONDS", 0.4)
    client = dribbler(_BEGUN, b"x" * 10)  # 200 bytes a second
    with pytest.raises(AgentError) as refused:
        BlobStore(tmp_path / "blobs", client, least_bytes_per_second=1000.0).fetch(_SHA256, 60_000)
    assert refused.value.code == "fetch.slow"
    kept = (tmp_path / f"blobs/.{_SHA256}.part").stat().st_size
    assert 40 <= kept <= 400


def test_the_least_rate_is_looked_at_once_in_a_window() -> None:
    rate = MinimumRate(100.0, 60.0)
    assert rate.enough(0, 59.0)  # a line that is dead for a while
    assert rate.enough(6_100, 2.0)
    assert all(rate.enough(1, 0.5) for _ in range(119))
    assert not rate.enough(1, 0.5)
    assert MinimumRate(0.0, 60.0).enough(0, 1000.0)


def test_metadata_have_a_time(tmp_path: Path, server: DeviceServer, dribbler: Any) -> None:
    client, began = dribbler(_BEGUN, b"{"), time.monotonic()
    with pytest.raises(AgentError) as refused:
        TufClient(tmp_path / "tuf", server.repository.root, client, SystemClock(), FloorStore(()), 1.0).refresh(0.0)
    assert refused.value.code == "fetch.slow"
    assert 1.0 <= time.monotonic() - began < 2.0


@pytest.mark.parametrize("path", ["/v1/blobs/", "/v1/tuf/timestamp.json"])
@pytest.mark.parametrize("how", ["cancel", "deadline", "stop"])
def test_an_update_that_trickles_in_can_be_ended(
    tmp_path: Path, server: DeviceServer, device: Device, monkeypatch: pytest.MonkeyPatch, path: str, how: str
) -> None:
    device.close()
    allowed = 1.0 if how == "deadline" else 0.0
    again = Device(tmp_path / "device", server, http_timeout_seconds=60.0, deadline_seconds=allowed)
    try:
        real, seen = server.get, len(server.requests)

        def get(asked: str) -> tuple[int, bytes]:
            # The first look at the repository, before ASSIGNED, is quick.
            if asked.startswith(path) and server.requests[seen:].count(asked) == (1 if "blobs" in path else 2):
                server.trickles = path
            return real(asked)

        monkeypatch.setattr(server, "get", get)

        again.updater.assign(server.repository.assign(server.repository.publish(2, make_bundle(2, gain=0.7)), 2))
        until(lambda: bool(server.trickles), 10, "the trickle")
        assert again.states("e2")[-1] == "FETCHING"
        began = time.monotonic()
        if how == "stop":
            again.updater.stop()
            assert not again.updater._thread.is_alive()
        else:
            if how == "cancel":
                again.updater.cancel("e2")
            until(lambda: again.states("e2")[-1] in ("CANCELLED", "FAILED"), 10, "the end")
            assert again.last()[1] == {"cancel": "update.cancelled", "deadline": "update.deadline"}[how]
        assert time.monotonic() - began < 3.0
    finally:
        again.close()


def test_the_agent_ends_while_it_looks_at_the_repository(server: DeviceServer, device: Device) -> None:
    server.trickles = "/v1/tuf/timestamp.json"
    asked = server.requests.count(server.trickles)
    device.updater.assign(server.repository.assign(server.repository.publish(2, make_bundle(2)), 2))
    until(lambda: server.requests.count(server.trickles) > asked, 5, "the look")
    began = time.monotonic()
    device.updater.stop()
    assert not device.updater._thread.is_alive()
    assert time.monotonic() - began < 2.0


def test_a_full_disk_is_not_taken_for_a_broken_line(tmp_path: Path, server: DeviceServer) -> None:
    identity, content = server.identity(tmp_path / "identity"), b"content"
    sha256 = hashlib.sha256(content).hexdigest()
    server.repository.blobs[sha256] = content
    client = HttpsClient(server.url, tls_context(identity.ca, identity.certificate, identity.key), 5.0)
    store = BlobStore(tmp_path / "blobs", client)
    (tmp_path / f"blobs/.{sha256}.part").symlink_to("/dev/full")
    with pytest.raises(AgentError) as refused:
        store.fetch(sha256, len(content))
    assert refused.value.code == "storage.full"
