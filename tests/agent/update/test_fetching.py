"""Blobs over a line that breaks: the rest is asked for, whatever the server makes of that; no faster than allowed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tests.agent.bundles import MODEL_FILE, make_bundle
from tests.agent.device import Device
from tests.agent.servers import DeviceServer, until
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.link.https import HttpsClient
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.slots import Slots

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/v1/blobs/{SHA256}"


@pytest.fixture
def client(tmp_path: Path, server: DeviceServer) -> HttpsClient:
    identity = server.identity(tmp_path / "identity")
    server.repository.blobs[SHA256] = CONTENT
    return HttpsClient(server.url, tls_context(identity.ca, identity.certificate, identity.key), 5.0)


@pytest.fixture
def store(tmp_path: Path, client: HttpsClient) -> BlobStore:
    return BlobStore(tmp_path / "blobs", client)


def _broken_off(store: BlobStore, server: DeviceServer, after: int = 100_000) -> None:
    server.break_after = after
    with pytest.raises(AgentError) as refused:
        store.fetch(SHA256, len(CONTENT))
    assert refused.value.code in ("fetch.unreachable", "fetch.length")
    server.break_after = None


def test_only_the_rest_is_fetched_also_after_a_restart(
    tmp_path: Path, server: DeviceServer, client: HttpsClient, store: BlobStore
) -> None:
    _broken_off(store, server)
    kept = (tmp_path / "blobs" / f".{SHA256}.part").stat().st_size
    assert 0 < kept <= 100_000
    again = BlobStore(tmp_path / "blobs", client)
    assert again.missing_bytes(SHA256, len(CONTENT)) == len(CONTENT) - kept
    assert again.fetch(SHA256, len(CONTENT)).read_bytes() == CONTENT
    assert server.ranges == [(PATH, f"bytes={kept}-")]
    assert (again.gained_bytes, again.missing_bytes(SHA256, len(CONTENT))) == (len(CONTENT) - kept, 0)
    asked = len(server.requests)
    again.fetch(SHA256, len(CONTENT))
    assert len(server.requests) == asked


def test_a_server_that_ignores_the_range(server: DeviceServer, store: BlobStore) -> None:
    _broken_off(store, server)
    server.range_answer = "ignore"
    assert store.fetch(SHA256, len(CONTENT)).read_bytes() == CONTENT
    assert len(server.ranges) == 1


@pytest.mark.parametrize(("answer", "code"), [("refuse", "fetch.length"), ("elsewhere", "fetch.range")])
def test_a_server_that_has_no_such_rest(server: DeviceServer, store: BlobStore, answer: str, code: str) -> None:
    _broken_off(store, server)
    server.range_answer = answer
    with pytest.raises(AgentError) as refused:
        store.fetch(SHA256, len(CONTENT))
    assert refused.value.code == code
    assert store.fetch(SHA256, len(CONTENT)).read_bytes() == CONTENT  # from the beginning, without a range
    assert len(server.ranges) == 1


def test_a_rest_of_other_bytes_is_thrown_away(server: DeviceServer, store: BlobStore) -> None:
    _broken_off(store, server)
    server.planted[PATH] = (200, bytes(len(CONTENT)))
    with pytest.raises(AgentError) as refused:
        store.fetch(SHA256, len(CONTENT))
    assert refused.value.code == "fetch.hash"
    server.planted.clear()
    assert store.fetch(SHA256, len(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [b"", b"x" * 300_000, b"x" * 400_000, b"x" * 17])
def test_a_damaged_rest_on_the_disk_costs_an_attempt_at_most(
    tmp_path: Path, server: DeviceServer, store: BlobStore, damage: bytes
) -> None:
    (tmp_path / "blobs" / f".{SHA256}.part").write_bytes(damage)
    if damage:
        with pytest.raises(AgentError) as refused:
            store.fetch(SHA256, len(CONTENT))
        assert refused.value.code == "fetch.hash"
    assert store.fetch(SHA256, len(CONTENT)).read_bytes() == CONTENT


def test_an_answer_without_end(server: DeviceServer, store: BlobStore, tmp_path: Path) -> None:
    server.planted[PATH] = (200, CONTENT + b"more")
    with pytest.raises(AgentError) as refused:
        store.fetch(SHA256, len(CONTENT))
    assert refused.value.code == "fetch.too_long"
    assert not (tmp_path / "blobs" / f".{SHA256}.part").exists()


def test_no_faster_than_allowed(tmp_path: Path, client: HttpsClient) -> None:
    waited: list[float] = []
    slow = BlobStore(tmp_path / "slow", client, bytes_per_second=100_000.0)
    began = time.monotonic()
    slow.fetch(SHA256, len(CONTENT), waited.append)  # that it asks for the wait is what counts
    took = time.monotonic() - began
    assert waited[-1] >= (len(CONTENT) - 2 * 25_000) / 100_000.0 - took
    assert len(waited) >= len(CONTENT) // 25_000


def test_a_wait_can_be_broken_off_and_keeps_what_came(tmp_path: Path, client: HttpsClient) -> None:
    store = BlobStore(tmp_path / "slow", client, bytes_per_second=100_000.0)
    count = 0

    def pause(_seconds: float) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError):
        store.fetch(SHA256, len(CONTENT), pause)
    assert store.missing_bytes(SHA256, len(CONTENT)) < len(CONTENT)
    assert store.fetch(SHA256, len(CONTENT), lambda _: None).read_bytes() == CONTENT


def test_what_a_slot_holds_is_not_fetched(tmp_path: Path, server: DeviceServer, device: Device) -> None:
    """The next release has the same model file as the active one; the store of blobs was lost."""
    device.close()
    for path in (tmp_path / "device/blobs").iterdir():
        path.unlink()
    again = Device(tmp_path / "device", server)
    try:
        files = make_bundle(2)
        asked = len(server.requests)
        again.updater.assign(server.repository.assign(server.repository.publish(2, files), 2))
        until(lambda: "COMMITTED" in again.states("e2"), 10, "release 2")
        fetched = [path.rpartition("/")[2] for path in server.requests[asked:] if "/blobs/" in path]
        assert hashlib.sha256(files["manifest.json"]).hexdigest() in fetched
        assert hashlib.sha256(files[MODEL_FILE]).hexdigest() not in fetched
    finally:
        again.close()


def test_a_slot_that_lies_is_not_believed(tmp_path: Path, server: DeviceServer, device: Device) -> None:
    files = make_bundle(1)
    sha256 = hashlib.sha256(files[MODEL_FILE]).hexdigest()
    slots = Slots(tmp_path / "device/slots")
    found = slots.find(sha256, len(files[MODEL_FILE]))
    assert found is not None
    found.unlink()
    found.write_bytes(bytes(len(files[MODEL_FILE])))
    identity = server.identity(tmp_path / "identity2")
    client = HttpsClient(server.url, tls_context(identity.ca, identity.certificate, identity.key), 5.0)
    store = BlobStore(tmp_path / "other", client, slots.find)
    assert store.fetch(sha256, len(files[MODEL_FILE])).read_bytes() == files[MODEL_FILE]
    assert device.slots.find("0" * 64, 1) is None


def test_a_line_that_breaks_again_and_again_is_not_given_up_while_it_brings_something(
    server: DeviceServer, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts are allowed; each brings a piece, so four and more do not end it."""
    server.range_answer = "honour"
    files = make_bundle(2, gain=0.6)
    target = server.repository.publish(2, files)
    path = "/v1/blobs/" + hashlib.sha256(files["golden.npz"]).hexdigest()
    whole = files["golden.npz"]
    size = len(whole) // 5
    answers = [whole[: size * part] for part in range(1, 5)]
    real = server.get

    def planted(asked: str) -> tuple[int, bytes]:
        return (200, answers.pop(0)) if asked == path and answers else real(asked)

    monkeypatch.setattr(server, "get", planted)
    device.updater.assign(server.repository.assign(target, 2))
    until(lambda: "COMMITTED" in device.states("e2"), 15, "release 2")
    assert len([one for one, _ in server.ranges if one == path]) == 4


def test_a_blob_that_is_short_for_good_is_given_up(tmp_path: Path, server: DeviceServer) -> None:
    """Each second answer seems to bring something, and is thrown away again."""
    made = Device(tmp_path / "device", server, fetch_attempts=4)
    try:
        files = make_bundle(1)
        path = "/v1/blobs/" + hashlib.sha256(files["golden.npz"]).hexdigest()
        server.planted[path] = (200, files["golden.npz"][:-5])
        made.updater.assign(server.repository.assign(server.repository.publish(1, files), 1))
        until(lambda: made.states("e1")[-1:] == ["FAILED"], 10, "the end")
        assert made.last() == ("FAILED", "fetch.length")
        assert server.requests.count(path) == 4
    finally:
        made.close()
