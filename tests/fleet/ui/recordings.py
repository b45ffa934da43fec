"""Recordings of a bearing whose outer race is damaged, kept as the fleet keeps them."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet import tables
from wheeltapper_fleet.assets.schemas import ImportedAsset
from wheeltapper_fleet.assets.service import import_assets
from wheeltapper_protocols.signal.recording import Recording, recording_bytes

__all__ = ["BPFO_HZ", "RATE_HZ", "SHAFT_HZ", "a_bearing", "keep", "worn"]

RATE_HZ = 12_800.0
SHAFT_HZ = 29.17
BPFO_HZ = 9 / 2 * SHAFT_HZ * (1 - 7.94 / 39.04)
BEARING: dict[str, Any] = {"rolling_elements": 9, "ball_diameter_mm": 7.94, "pitch_diameter_mm": 39.04}


def worn(strength: float, snapshots: int = 6, samples: int = 4096, seed: int = 0) -> npt.NDArray[np.float32]:
    """[snapshot, sample]: noise, the shaft, and a resonance at 3.1 kHz that the fault strikes."""
    random = np.random.default_rng(seed)
    time_s = np.arange(samples) / RATE_HZ
    made = np.empty((snapshots, samples), dtype=np.float32)
    for snapshot in range(snapshots):
        phase = random.uniform(0, 1)
        since = ((time_s + phase) % (1 / BPFO_HZ))[None, :]
        ringing = np.exp(-since * 900) * np.sin(2 * np.pi * 3100 * since)
        shaft = 0.2 * np.sin(2 * np.pi * SHAFT_HZ * (time_s + phase))
        made[snapshot] = strength * ringing[0] + shaft + 0.1 * random.standard_normal(samples)
    return made


def keep(
    server: AdminServer, name: str, x: npt.NDArray[np.float32], at: float, device: str = "gw-1", **changes: Any
) -> None:
    """Keep a recording of the channels ``x`` and ``y`` (noise) that was received at ``at`` (Unix seconds)."""
    noise = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    values: dict[str, Any] = {
        "samples": np.stack([x, 0.1 * noise], axis=2),
        "scale": np.ones(2),
        "channels": ("x", "y"),
    }
    values |= {"sample_rate_hz": RATE_HZ, "t_s": np.arange(len(x), dtype=np.float64) * 10, "units": ("g", "g")}
    content = recording_bytes(Recording(**(values | changes)))
    sha256 = hashlib.sha256(content).hexdigest()
    (server.data_dir / "captures" / f"{sha256}.npz").write_bytes(content)
    row = {"command": name, "device": device, "pipeline": "main", "sha256": sha256, "length": len(content)}
    server.insert(tables.captures, **row, snapshots=len(x), received_at=at)


def a_bearing(server: AdminServer, **attributes: Any) -> None:
    """A press whose front point has a bearing at a fixed speed and a class, and is measured by the channel ``x``."""
    known = {"bearing": BEARING, "speed": {"kind": "fixed", "rpm": SHAFT_HZ * 60}} | attributes
    tree: list[dict[str, Any]] = [
        {"id": "works", "kind": "site"},
        {"id": "press", "kind": "machine", "parent": "works", "attributes": known},
        {"id": "front", "kind": "point", "parent": "press", "mapping": {"device": "gw-1", "channel": "x"}},
    ]
    import_assets(server.engine, [ImportedAsset.model_validate(each) for each in tree], False, time.time() - 1e6)
    server.add_device("gw-1")
