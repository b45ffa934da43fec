"""Recordings of machines that never were, and datasets of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wheeltapper_fleet.learning.datasets.importing import Incoming, Made, import_version
from wheeltapper_fleet.learning.datasets.manifest import Label
from wheeltapper_fleet.learning.datasets.splits import Request
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_protocols.signal.recording import Recording

HALVES = Request(by="machine", shares={"train": 0.5, "test": 0.5})


def vibration(seed: int, snapshots: int = 6, rate_hz: float = 1000.0, scale: float = 0.0, **meta: Any) -> Recording:
    """Noise of a machine; with ``scale`` whole numbers, of which that is a count."""
    noise = np.random.default_rng(seed).normal(size=(snapshots, 64, 1))
    samples = (noise / scale).astype(np.int16) if scale else noise.astype(np.float32)
    times = np.arange(float(snapshots)) * 10
    return Recording(samples, np.full(1, scale or 1.0), rate_hz, times, ("de",), ("g",), {"machine": "m", **meta})


def coming(recording: Any, machine: str = "", **given: Any) -> Incoming:
    """One recording that is to become an item."""
    return Incoming(read=lambda: recording, machine=machine, source=given.pop("source", f"of {machine}"), **given)


def fleet(machines: int, each: int = 2) -> Iterable[Incoming]:
    """Some recordings of each of some machines."""
    for machine in range(machines):
        for number in range(each):
            yield Incoming(
                read=functools.partial(vibration, 1000 * machine + number),
                machine=f"machine-{machine:02d}",
                source=f"{machine}-{number}",
                labels=[Label(name="state", value="worn" if number else "healthy")],
            )


def made(folder: Path, incoming: Iterable[Incoming], name: str = "rig", **given: Any) -> tuple[DatasetStore, Made]:
    """A version in a store in ``folder``."""
    store = DatasetStore(folder / "store")
    return store, import_version(store, name, incoming, **given)
