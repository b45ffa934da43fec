"""Bad input: a clear code, nothing changed, the old model still running. With real HTTPS and real TUF metadata."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from tests.agent.bundles import MODEL_FILE, make_bundle
from tests.agent.device import Device, device_with_release_1
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer, until
from wheeltapper_agent.model.bundle import Bundle
from wheeltapper_agent.source.simulator import SimulatorConfig
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.journal import Journal
from wheeltapper_protocols.wire.messages import AssignmentRefused


@dataclass
class Bench:
    """One device that refuses everything; ``number`` is the next counter and release."""

    device: Device
    server: DeviceServer
    number: int = 1


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    server = DeviceServer(Authority(folder / "ca"), Repository())
    device = device_with_release_1(folder / "device", server)
    yield Bench(device, server)
    device.close()
    server.close()


@pytest.fixture(scope="module")
def two_releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DeviceServer]]:
    """The folder of a device that stopped with release 2 committed after release 1, to be copied."""
    folder = tmp_path_factory.mktemp("two")
    server = DeviceServer(Authority(folder / "ca"), Repository())
    device = device_with_release_1(folder / "device", server)
    second = server.repository.publish(2, make_bundle(2, gain=0.7))
    device.updater.assign(server.repository.assign(second, 2))
    until(lambda: "COMMITTED" in device.states("e2"), 10, "release 2")
    device.close()
    yield folder / "device", server
    server.close()


def _nothing_changed(device: Device) -> None:
    count = len(device.spool.peek(0, 100_000, ("telemetry",)))
    until(lambda: len(device.spool.peek(0, 100_000, ("telemetry",))) > count + 1, 5, "windows")
    assert device.slots.active("main") is not None
    assert str(device.slots.active("main")).startswith("bearing-1-")
    assert device.scores_with() == 1


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


Plant = Callable[[DeviceServer, int], bytes]
"""Makes the envelope; the number is the counter and the release to use."""


def _assignment(**changes: Any) -> Plant:
    def plant(server: DeviceServer, number: int) -> bytes:
        target = server.repository.publish(number, make_bundle(number))
        return server.repository.assign(target, **({"counter": number} | changes))

    return plant


def _blob(change: Callable[[bytes], bytes], name: str) -> Plant:
    def plant(server: DeviceServer, number: int) -> bytes:
        files = make_bundle(number, gain=0.7)
        raw = server.repository.assign(server.repository.publish(number, files), number)
        path = "/v1/blobs/" + hashlib.sha256(files[name]).hexdigest()
        server.planted[path] = (200, change(files[name]))
        return raw

    return plant


def _unpublished(server: DeviceServer, number: int) -> bytes:
    foreign = Repository()
    return server.repository.assign(foreign.publish(number, make_bundle(number)), number)


def _bundle(manifest_release: int = 0, *rest: Any, **changes: Any) -> Plant:
    def plant(server: DeviceServer, number: int) -> bytes:
        files = make_bundle(manifest_release or number, *rest, **changes)
        return server.repository.assign(server.repository.publish(number, files), number)

    return plant


def _unknown_pipeline(server: DeviceServer, number: int) -> bytes:
    target = server.repository.publish(number, make_bundle(number))
    return server.repository.assign(target, number, pipelines={"other": target})


def _expired_timestamp(server: DeviceServer, number: int) -> bytes:
    server.repository.timestamp_expires = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    return _bundle()(server, number)


def _rolled_back_metadata(server: DeviceServer) -> bytes:
    server.repository.version = 0
    return server.repository.assign(server.repository.publish(2, make_bundle(2)), 2)


CASES: dict[str, tuple[Plant, str, str]] = {
    "another key": (_assignment(key=CryptoSigner.generate_ed25519()), "refused", "assignment.signature"),
    "another device": (_assignment(device="device-2"), "refused", "assignment.device"),
    "an old counter": (_assignment(counter=1), "refused", "assignment.counter"),
    "expired": (_assignment(expires_at=time.time() - 1), "refused", "assignment.expired"),
    "manifest changed by a byte": (_blob(_flip, "manifest.json"), "FAILED", "fetch.hash"),
    "blob truncated": (_blob(lambda content: content[:-5], MODEL_FILE), "FAILED", "fetch.length"),
    "blob too long": (_blob(lambda content: content + b"x" * 10**6, MODEL_FILE), "FAILED", "fetch.too_long"),
    "blob swapped": (_blob(_flip, "golden.npz"), "FAILED", "fetch.hash"),
    "not published": (_unpublished, "REJECTED", "update.not_published"),
    "another window": (_bundle(0, SimulatorConfig(window_samples=2048)), "REJECTED", "update.input_mismatch"),
    "another release": (_bundle(700), "REJECTED", "update.wrong_release"),
    "golden outputs differ": (_bundle(golden_error=0.5), "REJECTED", "self_test.output"),
    "expired timestamp": (_expired_timestamp, "refused", "trust.expired"),
    "unknown pipeline": (_unknown_pipeline, "REJECTED", "update.unknown_pipeline"),
    "garbage": (lambda *_: b"\xff" * 100, "refused", "assignment.malformed"),
    "10 MB": (lambda *_: b"[" * 10_000_000, "refused", "assignment.malformed"),
}
_OWN_DEVICE = {"expired timestamp"}
"""Cases after which a device goes on to try."""


@pytest.mark.parametrize("case", CASES)
def test_bad_input(request: pytest.FixtureRequest, case: str) -> None:
    plant, state, code = CASES[case]
    if case in _OWN_DEVICE:
        bench = Bench(request.getfixturevalue("device"), request.getfixturevalue("server"))
    else:
        bench = request.getfixturevalue("bench")
    device, server = bench.device, bench.server
    bench.number += 1
    counter, execution = device.updater.entry.counter, device.updater.entry.execution
    raw = plant(server, bench.number)
    before = len(device.bodies())
    device.updater.assign(raw)
    until(lambda: len(device.bodies()) > before and device.last() == (state, code), 10, f"{state} {code}")
    if state == "refused":
        device.updater.assign(raw)
    _nothing_changed(device)
    if state == "refused":
        assert device.updater.entry.counter == counter
        assert device.updater.entry.execution == execution
        assert execution is not None
        assert len([body for body in device.bodies()[before:] if isinstance(body, AssignmentRefused)]) == 1
    server.planted.clear()


def test_metadata_rolled_back_are_not_used(device: Device, server: DeviceServer) -> None:
    device.updater.assign(_rolled_back_metadata(server))
    until(lambda: device.last() == ("refused", "trust.version"), 10, "the refusal")
    _nothing_changed(device)
    server.repository.version = 10
    server.repository.sign()
    until(lambda: "COMMITTED" in device.states("e2"), 10, "release 2, once the metadata are right again")


def test_the_root_of_another_repository(tmp_path: Path, server: DeviceServer) -> None:
    device = Device(tmp_path / "device", server, root=Repository().root)
    try:
        device.updater.assign(server.repository.assign(server.repository.publish(1, make_bundle(1)), 1))
        until(lambda: bool(device.bodies()), 10, "the refusal")
        assert device.last() == ("refused", "trust.signature")
        assert device.slots.active("main") is None
    finally:
        device.close()


def test_the_same_release_again_is_committed_at_once(device: Device, server: DeviceServer) -> None:
    target = server.repository.publish(1, make_bundle(1))
    requests = len(server.requests)
    device.updater.assign(server.repository.assign(target, 2))
    until(lambda: "COMMITTED" in device.states("e2"), 10, "the end")
    assert device.states("e2") == ["ASSIGNED", "COMMITTED"]
    assert not [path for path in server.requests[requests:] if "blobs" in path]


def test_cancelled_and_superseded_while_fetching(device: Device, server: DeviceServer) -> None:
    files = make_bundle(2, gain=0.7)
    path = "/v1/blobs/" + hashlib.sha256(files[MODEL_FILE]).hexdigest()
    target = server.repository.publish(2, files)
    server.planted[path] = (503, b"{}")
    device.effects.obtaining.config = UpdateConfig(fetch_attempts=1000, fetch_retry_seconds=0.05, probation_windows=2)
    device.updater.assign(server.repository.assign(target, 2))
    until(lambda: device.states("e2")[-1:] == ["FETCHING"], 10, "fetching")
    device.updater.cancel("e2")
    until(lambda: device.states("e2")[-1:] == ["CANCELLED"], 10, "the cancellation")
    device.updater.assign(server.repository.assign(target, 3))
    until(lambda: device.states("e3")[-1:] == ["FETCHING"], 10, "fetching")
    third = server.repository.publish(3, make_bundle(3, gain=0.8))
    device.updater.assign(server.repository.assign(third, 4))
    until(lambda: "COMMITTED" in device.states("e4"), 10, "release 3")
    assert device.states("e3")[-1] == "SUPERSEDED"
    assert device.scores_with() == 3


def test_a_model_that_fails_on_live_windows_is_rolled_back(
    device: Device, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Bundle.evaluate

    def planted(self: Bundle, samples: Any) -> Any:
        if self.manifest.release == 2 and threading.current_thread().name == "pipeline-main":
            raise ValueError("planted")
        return real(self, samples)

    monkeypatch.setattr(Bundle, "evaluate", planted)
    device.updater.assign(server.repository.assign(server.repository.publish(2, make_bundle(2, gain=0.7)), 2))
    until(lambda: "ROLLED_BACK" in device.states("e2"), 10, "the rollback")
    assert device.states("e2")[-3:] == ["PROBATION", "ROLLING_BACK", "ROLLED_BACK"]
    _nothing_changed(device)


@pytest.mark.parametrize("state", ["FETCHING", "SELF_TEST", "ACTIVATING", "PROBATION", "ROLLING_BACK", "DANCING"])
def test_resumed_after_a_kill_in_any_state(tmp_path: Path, two_releases: tuple[Path, DeviceServer], state: str) -> None:
    folder, server = two_releases
    shutil.copytree(folder, tmp_path / "device", symlinks=True)
    journal = Journal(tmp_path / "device/journal.json")
    entry = journal.read()
    assert entry.execution is not None
    resumed = msgspec.structs.replace(entry.execution, state=state, id="e9")
    journal.write(msgspec.structs.replace(entry, execution=resumed))
    again = Device(tmp_path / "device", server)
    try:
        until(lambda: any(s in ("COMMITTED", "ROLLED_BACK") for s in again.states("e9")), 10, "an end")
        back = state in ("ROLLING_BACK", "DANCING")
        assert again.states("e9")[-1] == ("ROLLED_BACK" if back else "COMMITTED")
        expected = 1 if back else 2
        until(lambda: again.scores_with() == expected, 5, f"release {expected}")
    finally:
        again.close()
