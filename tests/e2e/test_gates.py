"""Telemetry gates with the real service, broker and simulated devices: a worse release stops its wave and says why, a
good one passes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.ground.die_with_parent import die_with_parent

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FACTOR = 60.0
DEVICES, WAVE = 36, 12
CRASHING = 'fault = [{ kind = "roll_back", share = 0.34, releases = [2] }]'
WORSE = 'fault = [{ kind = "degrade", share = 1.0, releases = [4], latency_factor = 3.0, score_shift = 0.5 }]'


@dataclass
class FastStage(Stage):
    """A stage whose processes live by a clock that goes :data:`FACTOR` times as fast, once :attr:`begin` is set."""

    begin: float = 0.0
    devices: list[str] = field(default_factory=list)

    def start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        if not self.begin:
            return super().start(name, module, *arguments)
        script = str(Path(__file__).with_name("fast_clock.py"))
        command = die_with_parent(sys.executable, "-P", script, str(FACTOR), str(self.begin), *arguments)
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes[name] = process
        return process

    def cli(self, *arguments: str) -> str:
        return self.run("wheeltapper_fleet", *arguments, "--data-dir", str(self.data_dir))

    def simulate(self, seconds: float) -> list[str]:
        options = ["--devices", str(DEVICES), "--seconds", str(seconds), "--faults", str(self.folder / "faults.toml")]
        options += ["--rate", "0.1", "--batch-seconds", "60", "--update-seconds", "20"]
        return ["simulate", "--data-dir", str(self.data_dir), "--state-dir", str(self.folder / "sim"), *options]

    def campaign(self, release: int, *gates: dict[str, Any], **fields: Any) -> str:
        spec = {"model": self.model, "release": release, "success": {"percent": 10}, "gates": list(gates), **fields}
        made = self.client.create_campaign(spec)
        return str(self.client.act(made["id"], "start", made["version"])["id"])

    def ended(self, campaign: str) -> dict[str, Any] | None:
        """The campaign, once it does not run any more."""
        found = self.client.campaign(campaign)
        return found if found["state"] not in ("SCHEDULED", "RUNNING") else None

    def page(self, path: str) -> str:
        token = (self.data_dir / "api-token").read_text(encoding="utf-8").strip()
        with httpx.Client(base_url=self.url, trust_env=False, timeout=20) as http:
            assert http.post("/sign-in", data={"token": token}).status_code == 303
            return " ".join(http.get(path).text.split())


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FastStage]:
    """The service with four releases and simulated devices with the faults of a table; then the clock goes faster."""
    stage = FastStage(tmp_path)
    try:
        stage.start_fleet()
        for release in range(1, 5):
            bundle = tmp_path / f"bundle-{release}"
            write_bundle(bundle, stage.model, release, (PASSED,))
            stage.client.publish_bundle(bundle, stage.team_key)
        (tmp_path / "faults.toml").write_text(request.param, encoding="utf-8")
        stage.run("wheeltapper_fleet", *stage.simulate(0))
        stage.end("fleet")
        stage.begin, stage._client = time.time(), None
        stage.start_fleet()
        stage.start("devices", "wheeltapper_fleet", *stage.simulate(280 * FACTOR))
        wait_for(
            "all devices to be online",
            lambda: stage.client.summary()["devices_online"] == DEVICES,
            60.0,
            checks=[stage.check_alive],
        )
        yield stage
    finally:
        stage.close()


@pytest.mark.parametrize("stage", [CRASHING], indirect=True, ids=[""])
def test_a_release_that_crashes_is_stopped_and_the_page_says_why(stage: FastStage) -> None:
    gate = {"kind": "crash_free", "min_share": 0.9}
    good = stage.campaign(1, gate, waves=[{"count": WAVE}, {}])
    done = wait_for("the good release to be everywhere", lambda: stage.ended(good), 60.0, checks=[stage.check_alive])
    assert (done["state"], [each["verdict"] for each in done["gates"]]) == ("COMPLETED", ["PASS"])
    bad = stage.campaign(2, gate, waves=[{"count": DEVICES - 2}, {}])
    stopped = wait_for("the gate to stop the bad one", lambda: stage.ended(bad), 60.0, checks=[stage.check_alive])
    assert (stopped["state"], stopped["gates"][0]["verdict"]) == ("PAUSED", "BROKEN")
    assert stopped["reason"].startswith("a gate is broken: crash_free: ")
    assert re.search(r"\d+ of \d+ kept the release \(at least 90 %\)", stopped["reason"])
    assert stopped["executions"]["2"] == {"PENDING": 2}, "the next wave was not begun"
    shown = stage.cli("campaign", "show", bad)
    assert "BROKEN" in shown
    assert "kept the release (at least 90 %)" in shown
    page = stage.page(f"/campaigns/{bad}")
    assert 'data-verdict="BROKEN"' in page
    assert "kept the release (at least 90 %)" in page


@pytest.mark.slow
@pytest.mark.parametrize("stage", [WORSE], indirect=True, ids=[""])
def test_a_release_that_is_slower_and_scores_higher_is_stopped_by_telemetry(stage: FastStage) -> None:
    gates = [
        {"kind": "latency", "max_increase": 0.2, "observe_seconds": 300},
        {"kind": "score_shift", "max_shift": 0.1, "observe_seconds": 300},
    ]
    first = stage.campaign(1)
    wait_for("the first release to be everywhere", lambda: stage.ended(first), 60.0, checks=[stage.check_alive])
    time.sleep(600 / FACTOR)  # a whole bucket of telemetry of it
    good = stage.campaign(3, *gates, waves=[{"count": WAVE}, {}])

    def passed() -> bool:
        return bool(stage.client.campaign(good)["waves"][0]["state"] == "PASSED")

    wait_for("the wave of a good release to pass", passed, 90.0, checks=[stage.check_alive])
    assert "PASS: latency:" in stage.cli("campaign", "log", good)
    wait_for("the good release to be everywhere", lambda: stage.ended(good), 90.0, checks=[stage.check_alive])
    bad = stage.campaign(4, *gates, waves=[{"count": WAVE}, {}])
    stopped = wait_for("the gate to stop the bad one", lambda: stage.ended(bad), 90.0, checks=[stage.check_alive])
    assert stopped["state"] == "PAUSED"
    assert stopped["reason"].startswith("a gate is broken: ")
    assert stopped["executions"]["2"] == {"PENDING": DEVICES - WAVE}, "the next wave was not begun"
    broken = [each["sentence"] for each in stopped["gates"] if each["verdict"] == "BROKEN"]
    assert broken
    assert broken[0] in stage.page(f"/campaigns/{bad}")
