"""The demo with real run-to-failure recordings, played fast: an alert before the end, none in the first quarter."""

from __future__ import annotations

from pathlib import Path

import pytest

from wheeltapper_fleet.demo.stage import Stage
from wheeltapper_fleet.demo.story import Story
from wheeltapper_fleet.training.importers import import_femto
from wheeltapper_protocols.signal.recording import read_recording, write_recording

pytestmark = [pytest.mark.e2e, pytest.mark.data, pytest.mark.timeout(420)]

RUNS = ["Bearing1_2", "Bearing2_1", "Bearing2_2", "Bearing3_1"]


def test_real_bearings(stage: Stage, data_dir: Path) -> None:
    recordings = []
    for run in RUNS:
        target = stage.folder / f"{run}.npz"
        write_recording(import_femto(data_dir / "femto" / f"Learning_set__{run}.npz"), target)
        recordings.append(target)
    story = Story(stage, replay=recordings)
    story.play()
    result = story.finish()

    assert result["records_missing"] == 0
    raised = [alert for alert in result["alerts"] if alert["raised"]]
    warned = 0
    for device, file in zip(story.device_ids, recordings, strict=True):
        t_s = read_recording(file).t_s
        life = float(t_s[-1] - t_s[0])
        times = [(alert["t_s"] - float(t_s[0])) / life for alert in raised if alert["device"] == device]
        assert all(time >= 0.25 for time in times), (
            f"{device} ({file.stem}): false alert at {min(times):.2f} of its life"
        )
        warned += any(time < 1.0 for time in times)
    assert warned >= 3
