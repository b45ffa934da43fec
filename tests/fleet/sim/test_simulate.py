"""Two hundred simulated devices against the real service: every execution ends, as the fault table says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet.demo.stage import Stage, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DEVICES = 200
TABLE = """
fault = [
  { kind = "fail_self_test", share = 0.1 },
  { kind = "refuse", share = 0.05 },
  { kind = "roll_back", share = 0.05 },
  { kind = "disk_full", share = 0.05 },
  { kind = "lie", share = 0.05 },
  { kind = "vanish", share = 0.1, state = "FETCHING", seconds = 4 },
  { kind = "vanish", share = 0.05, state = "STAGED" },
  { kind = "kill", share = 0.1, seconds = 2 },
  { kind = "answer_twice", share = 0.1 },
  { kind = "answer_late", share = 0.05, seconds = 5 },
  { kind = "duplicate", share = 0.2 },
  { kind = "reorder", share = 0.2 },
  { kind = "corrupt", share = 0.1 },
  { kind = "alarm", share = 0.1, after_seconds = 5 },
]
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        stage.start_fleet()
        write_bundle(tmp_path / "bundle", stage.model, 1, (PASSED,))
        stage.client.publish_bundle(tmp_path / "bundle", stage.team_key)
        yield stage
    finally:
        stage.close()


class Simulated:
    """``wheeltapper simulate`` in a process; its progress is read as it comes."""

    def __init__(self, stage: Stage, *options: str) -> None:
        command = [sys.executable, "-P", "-m", "wheeltapper_fleet", "simulate", "--data-dir", str(stage.data_dir)]
        command += ["--state-dir", str(stage.folder / "sim"), "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.progress: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.progress.extend(self.process.stderr)

    def end(self) -> dict[str, Any]:
        """Ask it to end, and return its figures."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.progress
        return dict(json.loads(out))


def ended(stage: Stage, campaign: str) -> Counter[str]:
    """Executions by state, once all are in a terminal one; else none."""
    found: Counter[str] = Counter()
    for states in stage.client.campaign(campaign)["executions"].values():
        found.update(states)
    terminal = {"COMMITTED", "FAILED", "REJECTED", "ROLLED_BACK", "CANCELLED", "SUPERSEDED"}
    return found if set(found) <= terminal else Counter()


def test_a_campaign_to_two_hundred_devices_ends_as_the_fault_table_says(stage: Stage) -> None:
    table = stage.folder / "faults.toml"
    table.write_text(TABLE, encoding="utf-8")
    simulated = Simulated(
        stage, "--devices", str(DEVICES), "--seconds", "280", "--faults", str(table), "--rate", "1",
        "--batch-seconds", "2", "--update-seconds", "4",
    )  # fmt: skip
    try:
        wait_for(
            "all devices to be online",
            lambda: stage.client.summary()["devices_online"] == DEVICES,
            120.0,
            checks=[stage.check_alive],
        )
        spec = {"model": stage.model, "release": 1, "success": {"percent": 1}, "execution_deadline_seconds": 25.0}
        made = stage.client.create_campaign(spec)
        stage.client.act(made["id"], "start", made["version"])
        seen = wait_for("every execution to end", lambda: ended(stage, made["id"]) or None, 120.0)
    finally:
        figures = simulated.end()
    assert seen == Counter(figures["expected"]["1"])
    assert seen == {"COMMITTED": 140, "REJECTED": 30, "ROLLED_BACK": 10, "FAILED": 20}
    assert figures["verified_assignments"] >= DEVICES
    assert figures["records"] == figures["acked"] + figures["unacknowledged"] + figures["dropped"]
    assert figures["acked"] > DEVICES * 8
    assert figures["unreadable"] == 0
    assert figures["connected"] == DEVICES - 10, "ten vanished for good"
