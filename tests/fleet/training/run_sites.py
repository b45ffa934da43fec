"""Recipes of other distributions that tests of runs need, and a dataset that the smallest recipe learns from."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from wheeltapper_fleet.learning.datasets.importing import Incoming, import_version
from wheeltapper_fleet.learning.datasets.splits import Request
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.training.recipes import GROUP
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["LIFE_RECIPE", "RECIPE", "coolant", "held_out", "install", "pumps", "temperature"]

RECIPE = 'recipe = "slow-signal"\nmodel = "bearing-anomaly"\nseed = 3\n[data]\ndataset = "coolant"\n'
LIFE_RECIPE = (
    'recipe = "remaining-life"\nmodel = "pump-life"\n[data]\ndataset = "pumps"\n[parameters]\nmodel = "nets"\n'
    "cap = 60.0\nwarn_at = 10.0\nwindow_samples = 16\nleast_samples = 8\nepochs = 6\n"
)
_STRANGE = """
import os, signal, time
import msgspec

class Parameters(msgspec.Struct):
    do: str = "sleep"

class Strange:
    name = "strange"
    parameters = Parameters

    def train(self, recordings, parameters, job):
        job.progress("strange work")
        if parameters.do == "sleep":
            time.sleep(600)
        if parameters.do == "die":
            print("goodbye", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        job.shown.loss("net 1", [1.0, 0.5])
        job.shown.metric("Pr\u00e4zision@10", 0.25)
        job.warn("half of a character: \\udc80")
        raise ValueError("no such thing: \\0 \\udc80")

RECIPE = Strange()
"""


def install(folder: Path) -> Path:
    """A distribution with the recipe ``strange`` as pip leaves it; for ``PYTHONPATH``."""
    info = folder / "strange_recipes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-recipes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nstrange = strange_recipes:RECIPE\n")
    (folder / "strange_recipes.py").write_text(_STRANGE)
    return folder


def temperature(seed: int, samples: int = 300) -> Recording:
    """An hourly temperature."""
    noise = np.random.default_rng(seed).normal(size=(samples, 1, 1)).astype(np.float32)
    times = np.arange(float(samples)) * 3600
    return Recording(noise, np.ones(1), 1 / 3600, times, ("t",), ("degC",), {"machine": f"m{seed}"})


def coolant(store: DatasetStore) -> None:
    """The dataset ``coolant`` with two machines."""
    coming = [
        Incoming(read=functools.partial(temperature, seed), machine=f"m{seed}", source=f"m{seed}") for seed in range(2)
    ]
    import_version(store, "coolant", coming)


def held_out(store: DatasetStore, name: str = "halls", machines: int = 6) -> None:
    """A dataset of machines on two sites, of which every second pair is held out."""
    coming = [
        Incoming(
            read=functools.partial(temperature, seed),
            machine=f"m{seed}",
            source=f"m{seed}",
            split="test" if seed % 4 > 1 else "train",
            condition={"site": "north" if seed % 2 else "south"},
        )
        for seed in range(machines)
    ]
    import_version(store, name, coming, request=Request(by="source"))


def pump(seed: int) -> Recording:
    """A pump whose pressure falls in its last sixty samples."""
    random = np.random.default_rng(seed)
    life = int(random.integers(80, 130))
    wear = np.maximum(0.0, 1 - np.arange(life)[::-1] / 60)
    series = (np.outer(wear, [4.0, -5.0]) + random.normal(scale=0.5, size=(life, 2)))[:, None].astype(np.float32)
    return Recording(series, np.ones(2), 1.0, np.arange(float(life)), ("a", "b"), ("", ""), {"machine": f"p{seed}"})


def pumps(store: DatasetStore) -> None:
    """The dataset ``pumps``: lives of fifteen machines."""
    coming = [Incoming(read=functools.partial(pump, seed), machine=f"p{seed}", source=f"p{seed}") for seed in range(15)]
    import_version(store, "pumps", coming)
