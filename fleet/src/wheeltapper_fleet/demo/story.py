"""What happens in the demo: enrol, capture, train, roll out, refuse a broken release, detect a worn bearing, and give
another kind of machine a model of its own.

Each step waits until the fleet service reports its result, so that the story is the same on a slow machine, only
longer. With ``replay`` the machines are recordings instead of simulations, and the model is trained on their healthy
beginnings.

What this module does not do: start processes (:mod:`stage`), draw (:mod:`view`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wheeltapper_fleet.demo.stage import AgentStatus, Stage, wait_for
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.signal.recording import read_recording
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["PIPELINE", "Story"]

PIPELINE = "main"
MACHINE_SECONDS_A_WINDOW = 10.0
WINDOWS_A_SECOND = 5.0
TIME_SCALE = MACHINE_SECONDS_A_WINDOW * WINDOWS_A_SECOND
SECOND_MODEL = "fan-anomaly"
SECOND_MACHINE = "fan-1"
FAN_SHAFT_HZ = 24.5
HEALTHY_SNAPSHOTS = 60
FAULT_WALL_SECONDS = 40.0
REPLAY_WINDOWS_A_SECOND = 50.0
HEALTHY_FRACTION = 0.1
TERMINAL = [state.value for state in ExecutionState if state.terminal]


def _ignore(text: str) -> None:
    """Ignore a progress message."""


@dataclass
class Story:
    """The demo's story on a :class:`Stage`.

    Args:
        stage: runs the processes.
        devices: how many simulated machines.
        replay: recordings to play instead of simulated machines, one for each device.
        seed: seeds the simulated machines.
        report: called with a sentence after each step.
        steps: the sentences so far.
        started: when the demo began, seconds of the monotonic clock.
        fault: device, onset and failure (machine seconds) of the bearing that wears out.
        second: model, release and device of the second model.
    """

    stage: Stage
    devices: int = 5
    replay: Sequence[Path] = ()
    seed: int = 7
    report: Callable[[str], None] = _ignore
    steps: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    fault: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] = field(default_factory=dict)

    @property
    def device_ids(self) -> list[str]:
        """The ids of the presses' devices."""
        return [f"press-{index}" for index in range(1, (len(self.replay) or self.devices) + 1)]

    @property
    def all_device_ids(self) -> list[str]:
        """The ids of all devices that may be there."""
        return [*self.device_ids, SECOND_MACHINE]

    def _step(self, text: str) -> None:
        self.steps.append(text)
        self.report(text)

    def _simulator(self, index: int, **fault: Any) -> dict[str, Any]:
        return {
            "kind": "simulator",
            "seed": self.seed + index,
            "interval_seconds": MACHINE_SECONDS_A_WINDOW,
            "time_scale": TIME_SCALE,
            **fault,
        }

    def config(self, index: int, **fault: Any) -> dict[str, Any]:
        """The configuration of the agent on machine ``index``."""
        if self.replay:
            source: dict[str, Any] = {
                "kind": "replay",
                "path": str(self.replay[index]),
                "rate_hz": REPLAY_WINDOWS_A_SECOND,
                "hold_until_model": True,
            }
        else:
            source = self._simulator(index, **fault)
        return {
            "device": {"state_dir": "state", "profile": "x86-gateway", "status_seconds": 2.0},
            "delivery": {
                "batch_seconds": 0.3,
                "resend_seconds": 2.0,
                "reconnect_max_seconds": 1.0,
                "flush_seconds": 20.0,
            },
            "update": {"fetch_retry_seconds": 0.5, "metadata_retry_seconds": 0.5},
            "pipelines": [{"name": PIPELINE, "source": source}],
        }

    def enrol(self) -> None:
        """Start the fleet service, enrol every device with a one-time token, and start its agent."""
        self.stage.start_fleet()
        for index, device in enumerate(self.device_ids):
            self.stage.enrol(device, self.config(index), tags={"line": "a" if index % 2 else "b"})
            self.stage.start_agent(device)
        wait_for(
            "every device to be online",
            lambda: sum(device["online"] for device in self.stage.client.devices()) == len(self.device_ids),
            checks=[self.stage.check_alive],
        )
        self._step(f"{len(self.device_ids)} devices enrolled, each with a key of its own")

    def capture(self, snapshots: int = HEALTHY_SNAPSHOTS, devices: Sequence[str] = ()) -> list[Path]:
        """Ask ``devices``, or every press, for a recording of its healthy machine and download the recordings."""
        client = self.stage.client
        commands = {
            client.request_capture(device, PIPELINE, snapshots): device for device in devices or self.device_ids
        }

        def received() -> bool:
            return all(client.capture(command)["sha256"] for command in commands)

        wait_for("the captures", received, 60 + snapshots, checks=[self.stage.check_alive])
        folder = self.stage.folder / "recordings"
        folder.mkdir(exist_ok=True)
        files = []
        for command, device in commands.items():
            file = folder / f"{device}.npz"
            client.fetch_capture(command, file)
            files.append(file)
        self._step(f"{len(files)} healthy recordings captured and uploaded")
        return files

    def train(
        self, recordings: Sequence[Path], name: str, healthy_fraction: float, seed: int = 0, model: str = ""
    ) -> Path:
        """Run ``wheeltapper train anomaly``, which writes a bundle if its gates pass; gives the bundle's folder.

        Devices learn no level of their own: they are heard for ten minutes of machine time, and what so few windows
        spread is less than a healthy machine wanders in an hour.
        """
        bundle = self.stage.folder / "bundles" / name
        bundle.parent.mkdir(exist_ok=True)
        arguments = [item for file in recordings for item in ("--recording", str(file))]
        self.stage.run(
            "wheeltapper_fleet", "train", "anomaly", *arguments, "--healthy-fraction", str(healthy_fraction),
            "--model", model or self.stage.model, "--seed", str(seed), "--baseline", "0", "--out", str(bundle),
            "--json",
        )  # fmt: skip
        self._step(f"{name} trained on {len(recordings)} recordings, quantized to int8, gates passed")
        return bundle

    def publish(self, bundle: Path, key: Path | None = None, *, tested: bool = True) -> int:
        """Sign a bundle with its team's key and publish it; gives the release's number.

        Args:
            bundle: its folder.
            key: the team's; by default that of the stage's model.
            tested: whether it passes the self-test on this computer first; a broken release is published without.
        """
        arguments = ["--bundle", str(bundle), "--key", str(key or self.stage.team_key)]
        arguments += [] if tested else ["--no-self-test"]
        where = ["--data-dir", str(self.stage.data_dir), "--json"]
        info = json.loads(self.stage.run("wheeltapper_fleet", "release", "publish", *arguments, *where))
        self._step(f"release {info['release']} signed and published")
        return int(info["release"])

    def campaign(self, release: int) -> str:
        """Create and start a campaign in two waves; gives its id.

        It pauses by itself if a quarter of its executed devices fail.
        """
        spec = {
            "model": self.stage.model,
            "release": release,
            "pipelines": [PIPELINE],
            "waves": [{"count": 2}, {}],
            "success": {"percent": 100},
            "soak_seconds": 1.0,
            "abort": [{"states": ["FAILED", "REJECTED", "ROLLED_BACK"], "percent": 25, "minimum_executed": 1}],
            "on_abort": "PAUSE",
            "execution_deadline_seconds": 120.0,
        }
        return self._start(spec, f"release {release} in two waves")

    def _start(self, spec: dict[str, Any], what: str) -> str:
        created = self.stage.client.create_campaign(spec)
        self.stage.client.act(created["id"], "start", created["version"])
        self._step(f"campaign {created['id']} started: {what}")
        return str(created["id"])

    def await_campaign(self, campaign: str, state: str, seconds: float = 180.0) -> dict[str, Any]:
        """Wait until a campaign is in ``state``.

        Raises:
            FleetError: ``demo.campaign``: it ended or paused in another state.
        """

        def there() -> dict[str, Any] | None:
            found = self.stage.client.campaign(campaign)
            if found["state"] in {"COMPLETED", "ABORTED", "ROLLED_BACK", "PAUSED"} and found["state"] != state:
                raise FleetError("demo.campaign", f"campaign {campaign} is {found['state']}: {found['reason']}", 500)
            return found if found["state"] == state else None

        found = wait_for(f"campaign {campaign} to be {state}", there, seconds)
        self._step(f"campaign {campaign} is {state}")
        return found

    def break_release(self, bundle: Path) -> Path:
        """Copy a bundle and change its golden outputs, so that devices must refuse it in their self-test."""
        from wheeltapper_fleet.training.bundles import break_golden

        broken = bundle.with_name("broken")
        shutil.copytree(bundle, broken)
        break_golden(broken)
        return broken

    def wear_out(self, index: int = 2, wall_seconds: float = FAULT_WALL_SECONDS) -> None:
        """Let the outer race of one bearing wear from now on, so that it fails in ``wall_seconds``."""
        device = self.device_ids[index]
        records = self.stage.client.device(device)["scores"]
        now = records[-1]["t_s"] if records else 0.0
        onset, failure = now + 2 * TIME_SCALE, now + wall_seconds * TIME_SCALE
        self.fault = {"device": device, "onset_s": onset, "failure_s": failure}
        self.stage.end(device)
        self.stage.reconfigure(device, self.config(index, fault="outer", onset_seconds=onset, failure_seconds=failure))
        self.stage.start_agent(device)
        self._step(f"the outer race of {device}'s bearing begins to wear")

    def await_alert(self, seconds: float = 90.0) -> dict[str, Any]:
        """Wait for the first alert of the worn bearing's device."""

        def there() -> dict[str, Any] | None:
            raised = [alert for alert in self.stage.client.alerts() if alert["raised"]]
            return next((alert for alert in raised if alert["device"] == self.fault["device"]), None)

        alert = wait_for("the alert", there, seconds, checks=[self.stage.check_alive])
        left = (self.fault["failure_s"] - alert["t_s"]) / 60
        moved = ", ".join(reason["feature"] for reason in alert["reasons"][:3])
        self._step(f"alert from {alert['device']}, {left:.0f} machine minutes before its failure: {moved}")
        return alert

    def second_model(self, snapshots: int = HEALTHY_SNAPSHOTS) -> None:
        """Give another machine, a fan, a model of its own: add it, train it, and bring it to the fan's device only."""
        where = ["--keys-dir", str(self.stage.keys_dir), "--data-dir", str(self.stage.data_dir), "--json"]
        added = json.loads(self.stage.run("wheeltapper_fleet", "keys", "add-model", SECOND_MODEL, *where))
        self._step(f"model {SECOND_MODEL} added to the running fleet, with a team key of its own")
        config = self.config(len(self.device_ids), shaft_hz=FAN_SHAFT_HZ)
        self.stage.enrol(SECOND_MACHINE, config, tags={"kind": "fan"})
        self.stage.start_agent(SECOND_MACHINE)
        client = self.stage.client
        wait_for(
            f"{SECOND_MACHINE} to be online",
            lambda: client.device(SECOND_MACHINE)["online"],
            checks=[self.stage.check_alive],
        )
        bundle = self.train(self.capture(snapshots, [SECOND_MACHINE]), "fan", 1.0, model=SECOND_MODEL)
        release = self.publish(bundle, Path(added["key"]))
        spec = {"model": SECOND_MODEL, "release": release, "audience": {"tags": {"kind": "fan"}}}
        campaign = self._start(spec, f"{SECOND_MODEL} {release} to {SECOND_MACHINE}")
        self.await_campaign(campaign, "COMPLETED")
        self.second = {"model": SECOND_MODEL, "release": release, "device": SECOND_MACHINE, "campaign": campaign}

    def play(self) -> None:
        """Run every step, in order."""
        self.enrol()
        if self.replay:
            self._play_replay()
            return
        recordings = self.capture()
        first = self.train(recordings, "first", 1.0)
        self.await_campaign(self.campaign(self.publish(first)), "COMPLETED")
        self.await_campaign(self.campaign(self.publish(self.break_release(first), tested=False)), "PAUSED")
        third = self.train(recordings, "third", 1.0, seed=3)
        self.await_campaign(self.campaign(self.publish(third)), "COMPLETED")
        self.wear_out()
        self.await_alert()
        self.second_model()

    def _play_replay(self) -> None:
        bundle = self.train(self.replay, "first", HEALTHY_FRACTION)
        self.await_campaign(self.campaign(self.publish(bundle)), "COMPLETED", 300.0)

        def ended() -> bool:
            devices = self.stage.client.devices()
            return all(pipeline["source"] == "ended" for device in devices for pipeline in device["pipelines"])

        wait_for("the recordings to end", ended, 600.0, checks=[self.stage.check_alive])
        self._step("every recording has been played to its end")

    def finish(self) -> dict[str, Any]:
        """End the agents and the service; gives the demo's figures, with the records that were sent and stored."""
        for device in self.all_device_ids:
            self.stage.terminate(device)
        for device in self.all_device_ids:
            self.stage.end(device)
        statuses = [self.stage.agent_status(device) for device in self.all_device_ids if self.stage.is_enrolled(device)]
        time.sleep(0.5)
        result = self.result(statuses)
        self.stage.close()
        return result

    def _recordings(self, alerts: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """For each device of a replay: its recording's name, when it ends, and when its first alert was raised."""
        played = {}
        for device, file in zip(self.device_ids, self.replay, strict=bool(self.replay)):
            times = [alert["t_s"] for alert in alerts if alert["device"] == device and alert["raised"]]
            end = float(read_recording(file).t_s[-1])
            played[device] = {"name": file.stem, "end_s": end, "first_alert_s": min(times, default=None)}
        return played

    def result(self, statuses: Sequence[AgentStatus]) -> dict[str, Any]:
        """The demo's figures, from the fleet service's API and the agents' spools."""
        client = self.stage.client
        summary, alerts = client.summary(), client.alerts(100_000)
        stored = {status.device: client.delivery(status.device)["stored"] for status in statuses}
        sent = sum(status.seq for status in statuses)
        kept = sum(stored.get(status.device, 0) for status in statuses)
        campaigns = []
        for campaign in sorted(client.campaigns(), key=lambda campaign: campaign["created_at"]):
            if campaign["spec"]["model"] != self.stage.model:
                continue
            states: Counter[str] = Counter()
            for wave in campaign["executions"].values():
                states.update(wave)
            ended = {state: count for state, count in states.items() if state in TERMINAL}
            campaigns.append(
                {
                    "id": campaign["id"],
                    "state": campaign["state"],
                    "release": campaign["spec"]["release"],
                    "executions": ended,
                    "not_executed": sum(states.values()) - sum(ended.values()),
                }
            )
        return {
            "devices_enrolled": summary["devices_enrolled"],
            "windows": summary["windows"],
            "records_sent": sent,
            "records_stored": kept,
            "records_missing": sent - kept,
            "releases": [each["release"] for each in client.releases() if each["model"] == self.stage.model],
            "campaigns": campaigns,
            "alerts": [
                {
                    "device": alert["device"],
                    "time": alert["at"],
                    "t_s": alert["t_s"],
                    "severity": alert["severity"],
                    "raised": alert["raised"],
                    "reasons": alert["reasons"],
                }
                for alert in sorted(alerts, key=lambda alert: alert["id"])
            ],
            "fault": self.fault or None,
            "second_model": self.second or None,
            "recordings": self._recordings(alerts),
            "steps": self.steps,
            "seconds": round(time.monotonic() - self.started, 1),
        }
