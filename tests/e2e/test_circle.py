"""The whole circle by itself, on the real fan: trained at low speed, the speed rises, drift is noticed, recordings
come, a release that knows speed is trained, signed by a person, shadowed and rolled out; then healthy windows raise no
alarm any more, and the imbalance still does.

Real processes: the service with its broker and TLS, two agents, a trainer. The only human touch is the approval.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.database import windows_by_device
from wheeltapper_fleet.client import policy_calls
from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.learning.datasets.importing import Incoming, import_version
from wheeltapper_fleet.learning.datasets.public_sets import import_uci_fan
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_protocols.signal.recording import Recording, write_recording

pytestmark = [pytest.mark.e2e, pytest.mark.data, pytest.mark.timeout(420)]

HEALTHY, IMBALANCED = 3, 1
LOW, HIGH = (40, 45, 50), (70, 75, 80, 85, 90, 95)
THIRDS = {"fan-1": slice(0, 10), "fan-2": slice(10, 20), "later": slice(20, 30)}
"""Which windows of each speed a device plays; those of ``later`` are seen by no training."""
SLOW_WINDOWS, WINDOWS = 100, 6000
"""Windows at low speed before the speed rises, and windows of a file."""
RATE_HZ = 20.0
POLICY = """
name = "fan-speed"
model = "fan-anomaly"
look_seconds = 1
cool_down_seconds = 3600

[when.drift]
devices = 0.5
windows = 50

[captures]
devices = 2
snapshots = 60
at_least = 2
within_seconds = 120

[dataset]
name = "fans"

[run]
recipe = "anomaly"
parameters = { condition = "speed", healthy_fraction = 1.0 }

[campaign]
waves = [{ count = 1 }, {}]
soak_seconds = 1
execution_deadline_seconds = 120
"""


def fan(data_dir: Path, level: int, speeds: tuple[int, ...], part: slice, seed: int, windows: int = 0) -> Recording:
    """Windows of the fan at some speeds, with the speed as a tachometer says it in a fourth channel; over and over
    again until there are ``windows``."""
    random = np.random.default_rng(seed)
    blocks = [import_uci_fan(data_dir / "uci_fan" / "uci_fan_mems_50hz.npz", level, speed) for speed in speeds]
    samples = np.concatenate([block.samples[part] * block.scale for block in blocks])
    samples = np.tile(samples, (-(-windows // len(samples)) if windows else 1, 1, 1))[: windows or None]
    said = np.repeat(speeds, len(blocks[0].samples[part]))
    said = np.resize(said, len(samples))[:, None, None] + random.normal(0, 0.2, (*samples.shape[:2], 1))
    return replace(
        blocks[0],
        samples=np.concatenate([samples, said], axis=2).astype(np.float32),
        scale=np.ones(4),
        t_s=np.arange(len(samples), dtype=np.float64) * np.float64(2),
        channels=("x", "y", "z", "speed"),
        units=("g", "g", "g", "%"),
        meta={"machine": "fan"},
    )


def joined(first: Recording, second: Recording) -> Recording:
    """One recording after the other."""
    samples = np.concatenate([first.samples, second.samples])
    return replace(first, samples=samples, t_s=np.arange(len(samples), dtype=np.float64) * np.float64(2))


class Fans:
    """Two fans with their agents, on a stage."""

    def __init__(self, stage: Stage, data_dir: Path) -> None:
        self.stage, self.data = stage, data_dir
        self.devices = ("fan-1", "fan-2")
        self.where = ["--data-dir", str(stage.data_dir), "--json"]

    def command(self, *arguments: str) -> Any:
        """What a command prints."""
        return json.loads(self.stage.run("wheeltapper_fleet", *arguments, *self.where))

    def file(self, name: str, recording: Recording) -> Path:
        path = self.stage.folder / f"{name}.npz"
        write_recording(recording, path)
        return path

    def config(self, recording: Path) -> dict[str, Any]:
        source = {"kind": "replay", "path": str(recording), "rate_hz": RATE_HZ, "hold_until_model": True}
        return {
            "device": {"state_dir": "state", "profile": "x86-gateway", "status_seconds": 2.0},
            "delivery": {"batch_seconds": 0.5, "resend_seconds": 2.0, "reconnect_max_seconds": 1.0},
            "update": {"fetch_retry_seconds": 0.5, "metadata_retry_seconds": 0.5, "probation_max_shift": 0.0},
            "pipelines": [{"name": "main", "source": source}],
        }

    def begin(self) -> None:
        """Release 1 knows low speeds only; both agents play a fan whose speed rises after a while."""
        stage, healthy = self.stage, fan(self.data, HEALTHY, LOW, slice(0, 20), 0)
        stage.start_fleet()
        bundle = stage.folder / "first"
        train_anomaly([healthy], healthy_fraction=1.0, model=stage.model, out=bundle, warn=lambda text: None)
        store = DatasetStore(stage.data_dir / "datasets")
        import_version(store, "fans", [Incoming(read=lambda: healthy, machine="fan-1", source="low speeds")])
        for seed, device in enumerate(self.devices, 1):
            slow = fan(self.data, HEALTHY, LOW, THIRDS["later"], seed, SLOW_WINDOWS)
            fast = fan(self.data, HEALTHY, HIGH, THIRDS[device], seed, WINDOWS - SLOW_WINDOWS)
            stage.enrol(device, self.config(self.file(device, joined(slow, fast))))
            stage.start_agent(device)
        stage.client.publish_bundle(bundle, stage.team_key)
        made = stage.client.create_campaign({"model": stage.model, "release": 1})
        stage.client.act(made["id"], "start", made["version"])
        stage.client.set_alias(stage.model, "champion", 1)

    def play_unseen(self) -> tuple[int, int]:
        """From now on both agents play windows that no training has seen: healthy ones, then the imbalance.

        Returns:
            The numbers of a window that is of those in any case, and of the first one with the imbalance.
        """
        for device in self.devices:
            self.stage.terminate(device)
        for device in self.devices:
            self.stage.end(device)
        played = max(self.stage.agent_status(device).seq for device in self.devices)  # more records than windows
        healthy = fan(self.data, HEALTHY, HIGH, THIRDS["later"], 8, played + 120)
        worn = fan(self.data, IMBALANCED, HIGH, THIRDS["later"], 9, WINDOWS - played)
        recording = self.file("unseen", joined(healthy, worn))
        for device in self.devices:
            self.stage.reconfigure(device, self.config(recording))
            self.stage.start_agent(device)
        return played, played + 120

    def scored(self, first: int, end: int, release: int) -> int:
        """How many of the windows from ``first`` to before ``end`` each device has scored with ``release``, at least;
        telemetry comes after alerts."""
        found = windows_by_device(self.stage)
        return min(
            sum(first <= index < end and each == release for index, each in found[device]) for device in self.devices
        )

    def alerts_since(self, newest: int) -> list[dict[str, Any]]:
        """Alerts that were raised after the one with the number ``newest``."""
        return [each for each in self.stage.client.alerts() if each["id"] > newest and each["raised"]]

    def newest_alert(self) -> int:
        return max((each["id"] for each in self.stage.client.alerts()), default=0)

    def wait(self, what: str, probe: Callable[[], Any], seconds: float = 120.0) -> Any:
        return wait_for(what, probe, seconds, checks=[self.stage.check_alive])

    def policy(self, stage: str) -> dict[str, Any] | None:
        """The policy, once it is at ``stage``."""
        found = policy_calls.policy(self.stage.client, "fan-speed")
        assert not found["problem"], found["problem"]
        assert found["stage"] == stage or found["stage"] not in ("STOPPED", "COOLING"), found["why"]
        return found if found["stage"] == stage else None


def test_the_circle_closes_by_itself(stage: Stage, data_dir: Path) -> None:
    stage.model = "fan-anomaly"
    fans = Fans(stage, data_dir)
    fans.begin()
    policy_calls.apply_policy(stage.client, POLICY)
    trainer = ["--folder", str(stage.folder / "runs"), "--every", "0.5", "--data-dir", str(stage.data_dir)]
    stage.start("trainer", "wheeltapper_fleet", "trainer", *trainer)

    # The speed rises: healthy windows raise alarms, drift is seen, a candidate waits. Nobody has done anything.
    waiting = fans.wait("a candidate", lambda: fans.policy("APPROVAL"), 180.0)
    false = fans.alerts_since(0)
    assert {each["device"] for each in false} == set(fans.devices)
    assert {each["t_s"] >= SLOW_WINDOWS * 2.0 for each in false} == {True}, "none at the speeds that it was trained at"
    candidate = policy_calls.candidate(stage.client, waiting["state"]["candidate"])
    assert (candidate["dataset"], candidate["policy"]) == ("fans@2", "fan-speed")
    assert all(gate["passed"] for gate in candidate["gates"])

    # The only human touch.
    approved = fans.command("candidate", "approve", candidate["id"], "--key", str(stage.team_key))
    assert approved["release"] == 2

    done = fans.wait("the new champion", lambda: fans.policy("COOLING"), 180.0)
    assert done["why"].startswith("promoted"), done["why"]
    aliases = {each["alias"]: each["release"] for each in stage.client.aliases(stage.model)}
    assert aliases == {"candidate": 2, "champion": 2}
    executions = list(stage.client.executions(done["state"]["campaign"]))
    assert {each["state"] for each in executions} == {"COMMITTED"}

    # What no training has seen: healthy windows are silent now, the imbalance is not.
    before = fans.newest_alert()
    played, healthy = fans.play_unseen()
    fans.wait("the imbalance", lambda: {each["device"] for each in fans.alerts_since(before)} == set(fans.devices))
    assert all(each["t_s"] >= healthy * 2.0 for each in fans.alerts_since(before)), "no healthy window raises an alarm"
    fans.wait("all healthy windows to be stored", lambda: fans.scored(played, healthy, release=2) == 120)

    # Every arrow has its cause, back to the drift.
    [newest] = policy_calls.policy_events(stage.client, "fan-speed", 1)
    causes = policy_calls.event_causes(stage.client, "fan-speed", newest["id"])
    assert [each["kind"] for each in causes[::-1]] == [
        "crossed", "captures_arrived", "dataset_made", "run_queued", "candidate_made", "approved", "campaign_started",
        "campaign_completed", "promoted",
    ]  # fmt: skip
    assert "devices drift" in causes[-1]["detail"]
