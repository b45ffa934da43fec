"""Executions on a device, from assignment to end: waits, deadlines, shadow, probation, crash loops, full disks."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.agent.bundles import MODEL_FILE, SMALL, make_bundle
from tests.agent.device import Device, device_with_release_1
from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer, until
from tests.agent.update.test_hardening import JumpingClock
from wheeltapper_agent.config import AgentConfig, DeviceConfig
from wheeltapper_agent.ground import files
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model import sandbox
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.config import DeliveryConfig
from wheeltapper_agent.service import Agent
from wheeltapper_agent.source.base import Window
from wheeltapper_agent.update.floors import Floors
from wheeltapper_agent.update.journal import Journal
from wheeltapper_agent.update.shadow import QUEUE_WINDOWS, Shadow
from wheeltapper_agent.update.updater import Updater
from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.manifest.manifest import Shadowing
from wheeltapper_protocols.wire.messages import ExecutionReport, Severity, ShadowReport


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceServer]:
    made = DeviceServer(Authority(tmp_path_factory.mktemp("ca")), Repository())
    yield made
    made.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, server: DeviceServer) -> Path:
    """The state of a device that runs release 1 and was ended cleanly."""
    folder = tmp_path_factory.mktemp("template") / "device"
    device_with_release_1(folder, server).close()
    return folder


@pytest.fixture(autouse=True)
def _release_1(tmp_path: Path, template: Path) -> None:
    shutil.copytree(template, tmp_path / "device", symlinks=True)


@pytest.fixture
def device(tmp_path: Path, server: DeviceServer) -> Iterator[Device]:
    with _restarted(tmp_path / "device", server) as made:
        yield made


@contextmanager
def _restarted(folder: Path, server: DeviceServer, **update: Any) -> Iterator[Device]:
    made = Device(folder, server, **update)
    try:
        yield made
    finally:
        made.close()


def _codes(device: Device, execution: str) -> list[str]:
    found = [body for body in device.bodies() if isinstance(body, ExecutionReport) and body.execution == execution]
    return [body.code for body in found]


def _shadows(device: Device) -> list[ShadowReport]:
    return [body for body in device.bodies() if isinstance(body, ShadowReport)]


def _assign(server: DeviceServer, counter: int, files: dict[str, bytes] | None = None, **changes: Any) -> bytes:
    target = server.repository.publish(counter, files or make_bundle(counter, gain=0.55))
    return server.repository.assign(target, counter, **changes)


def _closed_window() -> str:
    """A window that is not open now, and not within the next two hours."""
    hour = (time.gmtime().tm_hour + 3) % 24
    return f"{hour:02d}:00-{hour:02d}:30"


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_it_waits_for_its_window_whatever_the_clock_does_and_says_so_once(tmp_path: Path, server: DeviceServer) -> None:
    clock = JumpingClock()
    device = Device(tmp_path / "device", server, clock=clock, maintenance_windows=(_closed_window(),))
    try:
        device.updater.assign(_assign(server, 2))
        until(lambda: "update.waiting_window" in _codes(device, "e2"), 10, "the reason")
        clock.offset_seconds = -3600.0
        time.sleep(0.3)
        assert device.states("e2") == ["ASSIGNED", "WAITING", "WAITING"]
        now = time.gmtime()
        opens = ((now.tm_hour + 3) % 24 - now.tm_hour) % 24 * 3600 - now.tm_min * 60 - now.tm_sec
        clock.offset_seconds = opens + 60.0
        until(lambda: "COMMITTED" in device.states("e2"), 10, "the update, once the window is open")
        assert _codes(device, "e2").count("update.waiting_window") == 1
    finally:
        device.close()


def test_it_waits_for_mains_network_and_disk_and_each_change_is_told(tmp_path: Path, server: DeviceServer) -> None:
    supply, route = tmp_path / "supply", tmp_path / "route"
    (supply / "AC").mkdir(parents=True)
    (supply / "AC/type").write_text("Mains")
    (supply / "AC/online").write_text("0")
    (supply / "BAT").mkdir()
    (supply / "BAT/type").write_text("Battery")
    route.write_text("head\nwwan0\t00000000\t0\t3\t0\t0\t1\t00000000\t0\t0\t0\n")
    settings: dict[str, Any] = {"require_mains": True, "power_supply_dir": supply}
    settings |= {"metered_interfaces": ("wwan*",), "route_file": route}
    with _restarted(tmp_path / "device", server, **settings) as device:
        asked = len(server.requests)
        device.updater.assign(_assign(server, 2))
        until(lambda: "update.waiting_mains" in _codes(device, "e2"), 10, "the plug")
        (supply / "AC/online").write_text("1")
        until(lambda: "update.waiting_network" in _codes(device, "e2"), 10, "the network")
        assert not [path for path in server.requests[asked:] if "/blobs/" in path]
        route.write_text("head\neth0\t00000000\t0\t3\t0\t0\t1\t00000000\t0\t0\t0\n")
        until(lambda: "COMMITTED" in device.states("e2"), 10, "the update")
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with _restarted(tmp_path / "device", server, disk_reserve_mb=free / 2**20 * 2) as device:
        device.updater.assign(_assign(server, 3))
        until(lambda: "update.waiting_disk" in _codes(device, "e3"), 10, "the disk")
        device.updater.cancel("e3")
        until(lambda: device.states("e3")[-1] == "CANCELLED", 10, "the cancellation of a wait")


def test_the_room_that_a_release_takes_is_known_from_its_manifest(
    tmp_path: Path, server: DeviceServer, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_bundle(2, gain=0.55)
    room = 16 * 1024 * 1024 + len(files[MODEL_FILE]) + len(files["golden.npz"]) - 1
    monkeypatch.setattr("wheeltapper_agent.update.waiting.free_bytes", lambda _folder: room)
    device.updater.assign(_assign(server, 2, files))
    until(lambda: "update.waiting_disk" in _codes(device, "e2"), 10, "the reason")
    assert device.states("e2")[-1] == "FETCHING"
    room += 1
    until(lambda: "COMMITTED" in device.states("e2"), 10, "the update, with a byte more")


def test_the_deadline_ends_a_wait_also_over_a_restart(tmp_path: Path, server: DeviceServer) -> None:
    window = {"maintenance_windows": (_closed_window(),)}
    with _restarted(tmp_path / "device", server, **window) as device:
        device.updater.assign(_assign(server, 2, deadline=time.time() + 2.0))
        until(lambda: "WAITING" in device.states("e2"), 10, "waiting")
    with _restarted(tmp_path / "device", server, **window) as device:
        until(lambda: device.last() == ("FAILED", "update.deadline"), 10, "the deadline")
        assert "maintenance" in device.bodies()[-1].detail or "not active within" in device.bodies()[-1].detail
        assert str(device.slots.active("main")).startswith("bearing-1-")
        device.updater.assign(_assign(server, 3, deadline=time.time() - 100.0))
        until(lambda: device.states("e3")[-1:] == ["FAILED"], 10, "a deadline that was over before")
    with _restarted(tmp_path / "device", server, deadline_seconds=0.3, **window) as device:
        device.updater.assign(_assign(server, 4))
        until(lambda: device.states("e4")[-1:] == ["FAILED"], 10, "the device's own deadline")


def test_a_clock_that_is_set_back_does_not_put_the_deadline_off(tmp_path: Path, server: DeviceServer) -> None:
    clock = JumpingClock()
    device = Device(
        tmp_path / "device", server, clock=clock, deadline_seconds=1.0, maintenance_windows=(_closed_window(),)
    )
    try:
        device.updater.assign(_assign(server, 2))
        until(lambda: "WAITING" in device.states("e2"), 10, "waiting")
        clock.offset_seconds = -1e6
        until(lambda: device.last() == ("FAILED", "update.deadline"), 10, "the deadline")
    finally:
        device.close()


def test_a_deadline_is_counted_from_the_time_that_was_just_verified(tmp_path: Path, server: DeviceServer) -> None:
    """The clock is days behind, and nothing verified before tells it."""
    for name in ("marks.json", "slots/marks.json", "journal.json"):
        (tmp_path / "device" / name).unlink()
    clock = JumpingClock(-3 * 86_400.0)
    with _restarted(tmp_path / "device", server, clock=clock, maintenance_windows=(_closed_window(),)) as device:
        device.updater.assign(_assign(server, 2, deadline=time.time() + 2.0))
        until(lambda: device.last() == ("FAILED", "update.deadline"), 10, "the deadline")


def test_a_clock_that_is_set_is_no_time_that_passed(tmp_path: Path, server: DeviceServer) -> None:
    """The device boots in 1970 and gets the time later; then the process is killed."""
    window = (_closed_window(),)
    with _restarted(tmp_path / "device", server, maintenance_windows=window) as device:
        device.updater.assign(_assign(server, 2))
        until(lambda: "WAITING" in device.states("e2"), 10, "waiting")
    clock = JumpingClock(60.0 - time.time())
    with _restarted(tmp_path / "device", server, clock=clock, maintenance_windows=("00:00-24:00",)) as device:
        until(lambda: "the clock is wrong" in device.bodies()[-1].detail, 10, "the reason")
        clock.offset_seconds = 0.0
        killed = (tmp_path / "device/journal.json").read_bytes()
        device.updater.stop()
    (tmp_path / "device/journal.json").write_bytes(killed)
    with _restarted(tmp_path / "device", server, maintenance_windows=window) as device:
        time.sleep(1.0)
        assert device.states("e2")[-1] == "WAITING"


def test_a_cancel_may_come_before_its_assignment_and_old_ones_do_not_fill_the_memory(
    server: DeviceServer, device: Device
) -> None:
    for number in range(500):
        device.updater.cancel(f"long-gone-{number}")
    device.updater.cancel("e2")
    device.updater.assign(_assign(server, 2))
    until(lambda: device.states("e2")[-1:] == ["CANCELLED"], 10, "the cancellation")
    assert len(device.updater._inbox.cancels) < 100
    until(lambda: "e2" not in device.updater._inbox.cancels, 5, "forgetting it")


# --- shadow -----------------------------------------------------------------------------------------------------------


def test_the_shadow_compares_both_on_the_same_windows(tmp_path: Path, server: DeviceServer) -> None:
    with _restarted(tmp_path / "device", server, shadow_windows=12) as device:
        device.updater.assign(_assign(server, 2))
        until(lambda: "COMMITTED" in device.states("e2"), 15, "release 2")
        (found,) = _shadows(device)
        assert (found.execution, found.pipeline, found.release, found.active_release) == ("e2", "main", 2, 1)
        assert (found.windows, found.failed, found.code) == (12, 0, "")
        # |in - 0.55 in| against |in - 0.5 in|: nine tenths of the score at every window
        assert found.correlation == pytest.approx(1.0, abs=1e-3)
        assert found.quantiles == pytest.approx([0.9 * one for one in found.active_quantiles], rel=1e-3)
        assert found.agreement == 1.0
        held = device.spool.peek(0, 100_000, ("telemetry",))
        assert len({item.item.window for item in held}) == len(held)  # type: ignore[union-attr]  # telemetry


@pytest.mark.parametrize(("asked", "end"), [(Shadowing(windows=8, min_agreement=0.9), "REJECTED"), (None, "COMMITTED")])
def test_a_release_that_disagrees_is_refused_where_its_manifest_asks_for_agreement(
    tmp_path: Path, server: DeviceServer, asked: Shadowing | None, end: str
) -> None:
    settings: dict[str, Any] = {"shadow_windows": 8, "probation_max_shift": 0.0, "probation_alert_alpha": 0.0}
    with _restarted(tmp_path / "device", server, **settings) as device:
        device.updater.assign(_assign(server, 2, make_bundle(2, gain=-9.0, shadow=asked)))
        until(lambda: device.states("e2")[-1:] == [end], 15, end)
        (found,) = _shadows(device)
        assert (found.agreement or 0.0) < 0.9
        assert found.code == ("shadow.disagrees" if asked else "")
        if asked:
            assert device.last() == ("REJECTED", "shadow.disagrees")
            assert str(device.slots.active("main")).startswith("bearing-1-")


def test_a_busy_device_shadows_nothing_and_goes_on(tmp_path: Path, server: DeviceServer) -> None:
    busy: dict[str, Any] = {"shadow_max_load": 0.0, "shadow_timeout_seconds": 0.5}
    with _restarted(tmp_path / "device", server, **busy) as device:
        device.updater.assign(_assign(server, 2))
        until(lambda: "COMMITTED" in device.states("e2"), 15, "release 2")
        (found,) = _shadows(device)
        assert (found.windows, found.code, found.correlation) == (0, "shadow.timeout", None)
        assert found.skipped > 0
    with _restarted(tmp_path / "device", server, shadow_min_agreement=0.5, **busy) as device:
        device.updater.assign(_assign(server, 3))
        until(lambda: device.last() == ("REJECTED", "shadow.too_few"), 15, "no agreement was shown")


def test_the_pipeline_never_waits_for_its_shadow(tmp_path: Path, server: DeviceServer, device: Device) -> None:
    """A shadow that hangs: windows are left out, counted, and observing takes no time."""
    slot = device.slots.path(str(device.slots.active("main")))
    bundle = load_bundle(slot)
    shadow = Shadow(bundle, 100, 1e9, JumpingClock())
    window = Window(load_window(bundle), 0.0)
    verdict = Verdict(0.1, Severity.NORMAL, alert=False, changed=False, reasons=())
    seen = Observation("main", 0, window, bundle.manifest, None, 0.1, verdict, 0.0)
    for _ in range(QUEUE_WINDOWS + 46):  # its thread was never started
        assert shadow.observe(seen) == ()
    assert shadow.report("e", "main").skipped == 46
    assert shadow.observe(Observation("main", 1, window, None)) == ()


class SetClock:
    """A clock that the test sets."""

    seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def test_a_shadow_is_left_out_while_the_active_model_takes_half_of_the_time(
    server: DeviceServer, device: Device
) -> None:
    bundle = load_bundle(device.slots.path(str(device.slots.active("main"))))
    clock = SetClock()
    shadow = Shadow(bundle, 1000, 1e9, clock)
    shadow.start()
    verdict = Verdict(0.1, Severity.NORMAL, alert=False, changed=False, reasons=())
    window = Window(load_window(bundle), 0.0)

    def offer(batches: int, latency_ms: float) -> int:
        """Ten windows at once every 0.1 s, as a pipeline that gathers gives them."""
        before = shadow.report("e", "main").skipped
        for _ in range(batches):
            clock.seconds += 0.1
            for _ in range(10):
                shadow.observe(Observation("main", 0, window, bundle.manifest, None, 0.1, verdict, latency_ms))
            until(lambda: shadow._queue.empty(), 10, "the shadow")
        return shadow.report("e", "main").skipped - before

    assert offer(12, 1.0) == 0
    assert offer(12, 8.0) >= 50
    offer(6, 1.0)
    assert offer(12, 1.0) == 0
    shadow.stop()


def load_window(bundle: Any) -> Any:
    """A golden window."""
    import io

    import numpy as np

    return np.load(io.BytesIO(bundle.golden))["samples"][0]


# --- probation --------------------------------------------------------------------------------------------------------


def _with_release_2(folder: Path, server: DeviceServer) -> Journal:
    """The journal of the device in ``folder``, once it committed release 2 and ended."""
    with _restarted(folder, server) as device:
        device.updater.assign(_assign(server, 2))
        until(lambda: "COMMITTED" in device.states("e2"), 10, "release 2")
    return Journal(folder / "journal.json")


def _back_in_probation(journal: Journal, **changes: Any) -> None:
    """Make the journal that of a process killed in probation, with ``changes`` of the execution."""
    entry = journal.read()
    assert entry.execution is not None
    execution = msgspec.structs.replace(entry.execution, state="PROBATION", **changes)
    journal.write(msgspec.structs.replace(entry, execution=execution))


def test_scores_that_went_wrong_go_back(tmp_path: Path, server: DeviceServer) -> None:
    with _restarted(tmp_path / "device", server, shadow_windows=30, probation_windows=5) as device:
        device.updater.assign(_assign(server, 2, make_bundle(2, gain=-9.0)))
        until(lambda: "ROLLED_BACK" in device.states("e2"), 15, "the rollback")
        assert device.last() == ("ROLLED_BACK", "probation.score_shift")
        until(lambda: device.scores_with() == 1, 5, "release 1")
        assert device.updater.entry.execution is not None
        assert device.updater.entry.execution.baseline["main"].windows >= 20


def test_a_process_that_dies_in_probation_goes_back(tmp_path: Path, server: DeviceServer) -> None:
    """Three unclean ends in the journal are too many; a clean end does not count."""
    journal = _with_release_2(tmp_path / "device", server)
    for resumes, stopped, end in ((1, False, "COMMITTED"), (2, True, "COMMITTED"), (2, False, "ROLLED_BACK")):
        _back_in_probation(journal, id=f"e-{resumes}-{stopped}", resumes=resumes, stopped=stopped)
        with _restarted(tmp_path / "device", server) as device:
            until(lambda end=end: device.last()[0] == end, 10, end)
            if end == "ROLLED_BACK":
                assert device.last() == ("ROLLED_BACK", "probation.crash_loop")
                until(lambda: device.scores_with() == 1, 5, "release 1")


def test_a_release_that_is_given_up_is_not_even_loaded(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that kills the process while it is loaded: the restart is counted before, and the last one loads none."""
    journal = _with_release_2(tmp_path / "device", server)
    _back_in_probation(journal, id="e9", resumes=0)
    loaded: list[int | None] = []
    real = Pipeline.swap

    def swap(self: Pipeline, bundle: Any) -> None:
        loaded.append(bundle.manifest.release if bundle else None)
        real(self, bundle)

    monkeypatch.setattr(Pipeline, "swap", swap)
    for _ in range(2):  # dies between being counted and being started
        dead = Device(tmp_path / "device", server, started=False)
        dead.spool.close()
        assert journal.read().execution is not None
    with _restarted(tmp_path / "device", server) as device:
        until(lambda: device.last() == ("ROLLED_BACK", "probation.crash_loop"), 10, "the end of the loop")
        assert 2 not in loaded


def test_a_clean_end_in_probation_decides_nothing(tmp_path: Path, server: DeviceServer) -> None:
    """Whether updater or pipeline is stopped first, the next life goes on with the probation."""
    with _restarted(tmp_path / "device", server, probation_windows=1000) as device:
        device.updater.assign(_assign(server, 2))
        until(lambda: device.states("e2")[-1:] == ["PROBATION"] and device.scores_with() == 2, 15, "probation")
        device.pipeline.stop()
        time.sleep(0.3)
        assert device.states("e2")[-1] == "PROBATION"
    found = Journal(tmp_path / "device/journal.json").read().execution
    assert found is not None
    assert (found.state, found.stopped) == ("PROBATION", True)


def test_the_agent_ends_its_updater_before_its_pipelines(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    config = AgentConfig(
        device=DeviceConfig(state_dir=tmp_path / "state"),
        delivery=DeliveryConfig(flush_seconds=0.0),
        pipelines=(PipelineConfig(name="main", source=SMALL),),
    )
    agent = Agent(config, Profile(name="test"), server.identity(tmp_path / "identity"))
    ended: list[str] = []

    def noted(kind: type[Updater] | type[Pipeline]) -> Any:
        real = kind.stop

        def stop(self: Any) -> None:
            ended.append(kind.__name__)
            real(self)

        return stop

    for kind in (Updater, Pipeline):
        monkeypatch.setattr(kind, "stop", noted(kind))
    agent.stop()
    agent.run()
    assert ended == ["Updater", "Pipeline"]


@pytest.mark.parametrize(("windows", "end"), [(1, "ROLLED_BACK"), (5, "COMMITTED")])
def test_a_source_that_ends_in_probation_must_have_shown_enough(
    tmp_path: Path, server: DeviceServer, windows: int, end: str
) -> None:
    with _restarted(tmp_path / "device", server, probation_windows=1000) as device:
        device.updater.assign(_assign(server, 2))
        until(lambda: device.states("e2")[-1:] == ["PROBATION"], 15, "probation")
        if windows == 1:
            device.pipeline.swap(load_bundle(device.slots.path(str(device.slots.active("main")))))
        else:
            until(lambda: device.pipeline.health().windows >= windows, 10, "windows")
        device.pipeline._source.close()
        until(lambda: device.states("e2")[-1] == end, 15, end)
        assert device.last() == (end, "probation.timeout" if windows == 1 else "")


# --- what runs, whatever the links say --------------------------------------------------------------------------------


def _damage(device_folder: Path, which: str = "active") -> None:
    """Flip a bit of the model file in the slot that a link of the pipeline names."""
    path = (device_folder / "slots/pipelines/main" / which).resolve() / MODEL_FILE
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_release_scores_no_windows_that_it_was_not_made_for(tmp_path: Path, server: DeviceServer) -> None:
    """The configuration changed between two starts; neither that release nor the one before it runs."""
    _with_release_2(tmp_path / "device", server)
    with _restarted(tmp_path / "device", server, source=replace(SMALL, sample_rate_hz=3200.0)) as device:
        until(lambda: device.pipeline.status().windows > 3, 10, "windows")
        assert device.pipeline.status().release is None
        assert device.pipeline.status().source == "update.input_mismatch"
        assert device.scores_with() is None
    with _restarted(tmp_path / "device", server) as device:
        until(lambda: device.scores_with() == 2, 10, "release 2 with the configuration of before")
        assert device.pipeline.status().source == "running"


def test_probation_judges_the_release_under_trial_only(tmp_path: Path, server: DeviceServer) -> None:
    """It was damaged on the disk, so that after a restart the one before it runs."""
    _back_in_probation(_with_release_2(tmp_path / "device", server), id="e9")
    _damage(tmp_path / "device")
    with _restarted(tmp_path / "device", server) as device:
        until(lambda: device.last() == ("ROLLED_BACK", "probation.not_active"), 10, "the way back")
        until(lambda: device.scores_with() == 1, 10, "release 1")
        assert str(device.slots.active("main")).startswith("bearing-1-")


def test_a_way_back_below_the_floor_ends_with_no_release(tmp_path: Path, server: DeviceServer) -> None:
    """Another pipeline's release raised the model's floor meanwhile."""
    settings: dict[str, Any] = {"shadow_windows": 30, "probation_windows": 5}
    with _restarted(tmp_path / "device", server, **settings) as device:
        device.floors.raise_to(Floors(rollback_floors={"bearing": 2}))
        assert device.scores_with() == 1  # it may stay where it is
        device.updater.assign(_bad(server, 3))
        until(lambda: device.states("e3")[-1:] == ["FAILED"], 15, "the end")
        assert device.last() == ("FAILED", "update.below_floor")
        assert "probation.score_shift" in device.bodies()[-1].detail
        until(lambda: device.scores_with() is None, 5, "no release")
        assert device.slots.active("main") is None
    with _restarted(tmp_path / "device", server, **settings) as device:
        until(lambda: device.pipeline.status().windows > 3, 10, "windows")
        assert device.pipeline.status().release is None


def test_a_damaged_release_is_mended_by_assigning_it_again(tmp_path: Path, server: DeviceServer) -> None:
    target = server.repository.publish(2, make_bundle(2, gain=0.55))
    with _restarted(tmp_path / "device", server) as device:
        device.updater.assign(server.repository.assign(target, 2))
        until(lambda: "COMMITTED" in device.states("e2"), 10, "release 2")
    _damage(tmp_path / "device")
    with _restarted(tmp_path / "device", server) as device:
        until(lambda: device.scores_with() == 1, 10, "the previous release")
        device.updater.assign(server.repository.assign(target, 3))
        until(lambda: device.states("e3")[-1:] == ["COMMITTED"], 10, "release 2 again")
        assert "PROBATION" in device.states("e3")
        until(lambda: device.scores_with() == 2, 10, "its scores")
        load_bundle(device.slots.path(str(device.slots.active("main"))))
        assert str(device.slots.previous("main")).startswith("bearing-1-")


def test_the_way_back_leads_to_what_ran_not_to_what_was_linked(tmp_path: Path, server: DeviceServer) -> None:
    _with_release_2(tmp_path / "device", server)
    _damage(tmp_path / "device")
    with _restarted(tmp_path / "device", server, shadow_windows=30, probation_windows=25) as device:
        until(lambda: device.scores_with() == 1, 10, "the previous release")
        device.updater.assign(_bad(server, 3))
        until(lambda: device.states("e3")[-1:] == ["PROBATION"], 15, "probation")
        assert str(device.slots.previous("main")).startswith("bearing-1-")
        until(lambda: device.states("e3")[-1:] == ["ROLLED_BACK"], 15, "the rollback")
        until(lambda: device.scores_with() == 1, 5, "release 1")
        assert str(device.slots.active("main")).startswith("bearing-1-")


# --- disks that refuse the way back -----------------------------------------------------------------------------------


def _refusing(code: int) -> Any:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def _bad(server: DeviceServer, counter: int) -> bytes:
    return _assign(server, counter, make_bundle(counter, gain=-9.0))


def test_the_way_back_needs_no_room_and_a_restart_stays_there(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills in probation: neither journal nor links can be written, but renames and unlinks can."""
    settings: dict[str, Any] = {"shadow_windows": 30, "probation_windows": 20}
    with monkeypatch.context() as patch, _restarted(tmp_path / "device", server, **settings) as device:
        device.updater.assign(_bad(server, 2))
        until(lambda: device.states("e2")[-1:] == ["PROBATION"], 15, "probation")
        patch.setattr("wheeltapper_agent.update.journal.write_atomic", _refusing(errno.ENOSPC))
        patch.setattr(os, "symlink", _refusing(errno.ENOSPC))
        until(lambda: device.states("e2")[-1:] == ["ROLLED_BACK"], 15, "the way back")
        assert str(device.slots.active("main")).startswith("bearing-1-")
        found = Journal(tmp_path / "device/journal.json").read().execution
        assert found is not None
        assert found.state == "PROBATION"
    with _restarted(tmp_path / "device", server, **settings) as again:
        until(lambda: again.last() == ("ROLLED_BACK", "probation.not_active"), 10, "the end, journalled at last")
        until(lambda: again.scores_with() == 1, 5, "release 1")


def test_a_read_only_disk_runs_what_was_committed(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restarts cannot be counted, so a loop could not be noticed: what is in probation does not run at all."""
    journal = _with_release_2(tmp_path / "device", server)
    _back_in_probation(journal, id="e9")
    with monkeypatch.context() as patch:
        patch.setattr("wheeltapper_agent.update.journal.write_atomic", _refusing(errno.EROFS))
        patch.setattr(os, "replace", _refusing(errno.EROFS))
        for _ in range(2):
            with _restarted(tmp_path / "device", server) as device:
                until(lambda: device.last() == ("FAILED", "storage.read_only"), 15, "the end")
                until(lambda: device.scores_with() == 1, 5, "release 1, in memory")
                assert str(device.slots.active("main")).startswith("bearing-2-")
    with _restarted(tmp_path / "device", server) as device:  # the disk is mended; it may show what it can
        until(lambda: device.last()[0] == "COMMITTED", 10, "release 2 in an orderly probation")


def test_a_way_back_that_failed_is_finished_at_the_next_start(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the links are refused; the journal says FAILED, and active is still the bad one."""
    settings: dict[str, Any] = {"shadow_windows": 30, "probation_windows": 20}
    with monkeypatch.context() as patch, _restarted(tmp_path / "device", server, **settings) as device:
        device.updater.assign(_bad(server, 2))
        until(lambda: device.states("e2")[-1:] == ["PROBATION"], 15, "probation")
        patch.setattr("wheeltapper_agent.update.slots.Slots._promote_previous", _refusing_agent)
        until(lambda: device.states("e2")[-1:] == ["FAILED"], 15, "the failure")
        until(lambda: device.scores_with() == 1, 5, "release 1, in memory")
        assert str(device.slots.active("main")).startswith("bearing-2-")
    with _restarted(tmp_path / "device", server, **settings) as again:
        until(lambda: str(again.slots.active("main")).startswith("bearing-1-"), 10, "the way back")
        until(lambda: again.scores_with() == 1, 5, "release 1")


def test_a_way_back_that_failed_is_finished_before_the_next_assignment(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes next is refused while the disk refuses, and forgets nothing once it does not."""
    settings: dict[str, Any] = {"shadow_windows": 30, "probation_windows": 20}
    bad = server.repository.publish(2, make_bundle(2, gain=-9.0))
    with monkeypatch.context() as patch, _restarted(tmp_path / "device", server, **settings) as device:
        device.updater.assign(server.repository.assign(bad, 2))
        until(lambda: device.states("e2")[-1:] == ["PROBATION"], 15, "probation")
        patch.setattr("wheeltapper_agent.update.slots.Slots._promote_previous", _refusing_agent)
        until(lambda: device.states("e2")[-1:] == ["FAILED"], 15, "the failure")
        device.updater.assign(_assign(server, 3, make_bundle(3, golden_error=5.0)))
        until(lambda: device.last() == ("refused", "storage.failed"), 10, "the refusal")
        assert str(device.slots.active("main")).startswith("bearing-2-")
        patch.undo()
        until(lambda: device.states("e3")[-1:] == ["REJECTED"], 15, "the next one's own end")
        assert str(device.slots.active("main")).startswith("bearing-1-")
    with _restarted(tmp_path / "device", server, **settings) as again:
        until(lambda: again.scores_with() == 1, 10, "release 1")


def test_a_commit_waits_for_the_journal(tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither reported nor a floor before it is written, so that a restart cannot take it back."""
    real = files.write_atomic
    refused = 0

    def refuse_commits(path: Path, content: bytes, mode: int = 0o600) -> None:
        nonlocal refused
        if b'"state":"COMMITTED"' in content:
            refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content, mode)

    folder = tmp_path / "device"
    with monkeypatch.context() as patch:
        patch.setattr("wheeltapper_agent.update.journal.write_atomic", refuse_commits)
        with _restarted(folder, server) as device:
            device.updater.assign(_assign(server, 2, make_bundle(2, gain=0.55, rollback_floor=2)))
            until(lambda: refused > 3, 15, "the refusals")
            assert device.states("e2")[-1] == "PROBATION"
            assert device.floors.current.rollback_floors == {}
    with _restarted(folder, server) as device:
        until(lambda: device.states("e2")[-1] == "COMMITTED", 15, "the commit")
        assert device.states("e2").count("COMMITTED") == 1
        until(lambda: device.floors.current.rollback_floors == {"bearing": 2}, 5, "the floor")


def _refusing_agent(*_args: Any) -> None:
    from wheeltapper_agent.ground.errors import AgentError

    raise AgentError("storage.failed", "planted")


# --- one after the other ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["PROBATION", "ROLLING_BACK"])
def test_an_assignment_after_activation_waits_for_the_way_back(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    settings: dict[str, Any] = {"shadow_windows": 30, "probation_windows": 20}
    bad = state == "ROLLING_BACK"
    with _restarted(tmp_path / "device", server, **settings) as device:
        real = device.slots.restore

        def slow(pipeline: str, name: str | None) -> None:
            time.sleep(0.5)
            real(pipeline, name)

        monkeypatch.setattr(device.slots, "restore", slow)
        device.updater.assign(_bad(server, 2) if bad else _assign(server, 2))
        until(lambda: device.states("e2")[-1:] == [state], 15, state)
        device.updater.cancel("e2")  # too late: it has no effect
        device.updater.assign(_assign(server, 3))
        until(lambda: "COMMITTED" in device.states("e3"), 20, "the next one")
        assert device.states("e2")[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
        assert _codes(device, "e2")[-1] == ("probation.score_shift" if bad else "update.withdrawn")
        found = [body.execution for body in device.bodies() if isinstance(body, ExecutionReport)]
        assert found == sorted(found)  # one after the other


def _repeat(device: Device, envelopes: tuple[bytes, ...], state: str, seconds: float) -> None:
    """Assign ``envelopes`` every 0.1 s for ``seconds``, while the newest execution is in ``state``."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and device.last()[0] in (state, "refused"):
        for envelope in envelopes:
            device.updater.assign(envelope)
        time.sleep(0.1)


def test_what_changes_nothing_disturbs_no_shadow(tmp_path: Path, server: DeviceServer) -> None:
    """The broker repeats the retained assignment at each connection; whoever owns it may send anything."""
    settings: dict[str, Any] = {"shadow_windows": 60, "shadow_timeout_seconds": 30.0}
    old = _assign(server, 1)
    with _restarted(tmp_path / "device", server, **settings) as device:
        envelope = _assign(server, 2)
        device.updater.assign(envelope)
        until(lambda: device.states("e2")[-1:] == ["SHADOW"], 15, "the shadow")
        _repeat(device, (envelope, old, b"{}"), "SHADOW", 10.0)
        assert device.states("e2")[-1] != "SHADOW"
        until(lambda: device.states("e2")[-1] == "COMMITTED", 10, "its end")
        assert [shadow.windows for shadow in _shadows(device)] == [60]


def test_what_changes_nothing_is_no_reason_to_say_again_why_it_waits(tmp_path: Path, server: DeviceServer) -> None:
    envelope, old = _assign(server, 2), _assign(server, 1)
    with _restarted(tmp_path / "device", server, maintenance_windows=(_closed_window(),)) as device:
        device.updater.assign(envelope)
        until(lambda: "update.waiting_window" in _codes(device, "e2"), 10, "the reason")
        _repeat(device, (envelope, old), "WAITING", 1.0)
        assert device.states("e2") == ["ASSIGNED", "WAITING", "WAITING"]
        device.updater.assign(_assign(server, 3))
        until(lambda: device.states("e2")[-1] == "SUPERSEDED", 10, "one that counts")


def test_what_changes_nothing_starts_no_second_self_test(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    envelope, old = _assign(server, 2), _assign(server, 1)
    real, tried = sandbox.try_candidate, 0
    with _restarted(tmp_path / "device", server) as device:

        def noted(*args: Any) -> Any:
            nonlocal tried
            tried += 1
            device.updater.assign(envelope)
            device.updater.assign(old)
            return real(*args)

        monkeypatch.setattr("wheeltapper_agent.update.obtaining.try_candidate", noted)
        device.updater.assign(envelope)
        until(lambda: "COMMITTED" in device.states("e2"), 15, "release 2")
        assert tried == 1


def test_what_was_fetched_stays_when_the_next_execution_may_need_it(tmp_path: Path, server: DeviceServer) -> None:
    """The same release again goes on where the one before was; another one makes room."""
    files_2 = make_bundle(2, gain=0.55)
    golden = files_2["golden.npz"]
    target, sha256 = server.repository.publish(2, files_2), hashlib.sha256(golden).hexdigest()
    partial = tmp_path / "device/blobs" / f".{sha256}.part"

    def fetched_bytes() -> int:
        return partial.stat().st_size if partial.exists() else 0

    with _restarted(tmp_path / "device", server, fetch_bytes_per_second=len(golden) / 3) as device:
        device.updater.assign(server.repository.assign(target, 2))
        until(lambda: fetched_bytes() > len(golden) / 3, 20, "a part")
        before, asked = fetched_bytes(), len(server.ranges)
        device.updater.assign(server.repository.assign(target, 3))
        until(lambda: "FETCHING" in device.states("e3"), 10, "the next one")
        assert device.states("e2")[-1] == "SUPERSEDED"
        until(lambda: any(server.ranges[asked:]), 10, "the rest of it")
        assert fetched_bytes() >= before
        device.updater.assign(_assign(server, 4, make_bundle(4, gain=0.6)))
        until(lambda: "FETCHING" in device.states("e4"), 10, "another release")
        until(lambda: not partial.exists(), 10, "room")


def test_what_was_left_makes_room_for_the_next_update(
    tmp_path: Path, server: DeviceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "device/blobs" / f".{'a' * 64}.part"
    monkeypatch.setattr("wheeltapper_agent.update.waiting.free_bytes", lambda _folder: 0 if left.exists() else 2**30)
    with _restarted(tmp_path / "device", server) as device:
        time.sleep(0.3)
        left.write_bytes(b"x")
        device.updater.assign(_assign(server, 2))
        until(lambda: "update.waiting_disk" in _codes(device, "e2"), 10, "the reason")
        until(lambda: "COMMITTED" in device.states("e2"), 15, "release 2")


def test_a_start_cleans_up_what_a_kill_left(tmp_path: Path, server: DeviceServer) -> None:
    part, slot = tmp_path / "device/blobs" / f".{'a' * 64}.part", tmp_path / "device/slots/releases/bearing-9-deadbeef"
    part.write_bytes(b"x")
    slot.mkdir()
    with _restarted(tmp_path / "device", server) as device:
        until(lambda: not part.exists() and not slot.exists(), 10, "room")
        until(lambda: device.scores_with() == 1, 10, "release 1")


def test_a_restart_in_fetching_asks_for_nothing_over_a_metered_network(tmp_path: Path, server: DeviceServer) -> None:
    route = tmp_path / "route"
    route.write_text("head\nwwan0\t00000000\t0\t3\t0\t0\t1\t00000000\t0\t0\t0\n")
    settings: dict[str, Any] = {"metered_interfaces": ("wwan*",), "route_file": route}
    with _restarted(tmp_path / "device", server, **settings) as device:
        device.updater.assign(_assign(server, 2))
        until(lambda: "update.waiting_network" in _codes(device, "e2"), 10, "waiting")
    journal = Journal(tmp_path / "device/journal.json")
    entry = journal.read()
    assert entry.execution is not None
    execution = msgspec.structs.replace(entry.execution, state="FETCHING")
    journal.write(msgspec.structs.replace(entry, execution=execution))
    asked = len(server.requests)
    with _restarted(tmp_path / "device", server, **settings) as device:
        until(lambda: _codes(device, "e2").count("update.waiting_network") == 2, 10, "waiting again")
        assert server.requests[asked:] == []
        route.write_text("head\neth0\t00000000\t0\t3\t0\t0\t1\t00000000\t0\t0\t0\n")
        until(lambda: "COMMITTED" in device.states("e2"), 15, "release 2")


def test_of_two_assignments_in_a_row_the_newer_wins(server: DeviceServer, device: Device) -> None:
    first, second = _assign(server, 2), _assign(server, 3)
    device.updater.assign(first)
    device.updater.assign(second)
    until(lambda: "COMMITTED" in device.states("e3"), 15, "the newer one")
    assert device.states("e2")[-1:] in ([], ["SUPERSEDED"])
    device.updater.assign(first)
    until(lambda: device.last() == ("refused", "assignment.counter"), 10, "the older one again")
