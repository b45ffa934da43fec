"""Fixtures of the end-to-end tests: the demo's real processes, in a folder for each test, and a bundle for them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wheeltapper_agent.source.simulator import Machine, SimulatorConfig
from wheeltapper_fleet.demo.stage import Stage
from wheeltapper_fleet.demo.story import MACHINE_SECONDS_A_WINDOW, Story
from wheeltapper_protocols.signal.recording import Recording, write_recording


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose processes are stopped when the test ends."""
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the five presses of a story: trained by the command, once for all processes of these tests.

    Not on captures: a story that captures and trains by itself is in ``test_story.py``.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    bundle = folder / "trained" / "bundles" / "first"
    with (folder / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.exists():
            stage = Stage(folder / "trained")
            stage.folder.mkdir(exist_ok=True)
            story = Story(stage)
            recordings = [healthy(stage.folder / f"{index}.npz", story.seed + index) for index in range(story.devices)]
            story.train(recordings, "first", 1.0)
    return bundle


def healthy(file: Path, seed: int, snapshots: int = 40) -> Path:
    """A recording of a press in health, over most of an hour of machine time, in which load and speed change."""
    config = SimulatorConfig(seed=seed, interval_seconds=MACHINE_SECONDS_A_WINDOW)
    machine, times = Machine(config), [8.0 * index * MACHINE_SECONDS_A_WINDOW for index in range(snapshots)]
    samples = np.stack([machine.window(index, time) for index, time in enumerate(times)])
    channels, units = ("horizontal", "vertical"), ("g", "g")
    recording = Recording(
        samples.astype(np.float32), np.ones(2), config.sample_rate_hz, np.array(times), channels, units, {}
    )
    write_recording(recording, file)
    return file


@pytest.fixture
def bundle(trained: Path, stage: Stage) -> Path:
    """A copy of :func:`trained` for this test."""
    copy = stage.folder / "bundles" / "first"
    shutil.copytree(trained, copy)
    return copy
