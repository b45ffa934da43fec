"""Machines that nobody tuned a recipe on: simulated bearings that run to failure, and process data at 1 Hz.

A rig has its own sample rate, shaft speed, gear mesh, resonances, sensor gain and colour of noise. It runs in, its
load and speed wander, it is knocked now and then, and at some moment one of several faults begins and grows to the end.
Every figure is drawn from the seed, so that a recipe which is right on many seeds is right on machines that it has not
seen.

What is modelled of a bearing follows Randall and Antoni, "Rolling element bearing diagnostics - a tutorial", MSSP 25
(2011) 485-520. ``lubrication`` has no impacts: broadband noise rises. ``gear`` has none either: sidebands of the mesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.decision.bearing import Bearing
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["FAULTS", "Process", "Run", "bearing_run", "process_run"]

FAULTS: Final = ("outer", "inner", "ball", "lubrication", "gear")
_RATES_HZ: Final = (12_000.0, 20_000.0, 25_600.0, 48_000.0)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """A run to failure.

    Args:
        recording: snapshots from the first hour to the failure.
        fault: one of :data:`FAULTS`.
        onset: the first snapshot with a fault, however small.
    """

    recording: Recording
    fault: str
    onset: int


@dataclass(frozen=True)
class Process:
    """Process data at 1 Hz.

    Args:
        recording: windows of ``window_samples`` rows.
        faulty: bool [window].
        healthy: windows at the beginning that are known to be healthy.
    """

    recording: Recording
    faulty: npt.NDArray[np.bool_]
    healthy: int


def _wander(random: np.random.Generator, count: int, deviation: float, memory: float) -> Floats:
    """[count]: an Ornstein-Uhlenbeck process with a standard deviation and a memory in steps."""
    keep = math.exp(-1 / memory)
    steps = random.normal(scale=deviation * math.sqrt(1 - keep * keep), size=count)
    value, found = random.normal(scale=deviation), np.empty(count)
    for index in range(count):
        value = keep * value + steps[index]
        found[index] = value
    return found


def bearing_run(seed: int, snapshots: int | None = None) -> Run:
    """A bearing from its first snapshot to its failure; seeds differ in everything. Two channels, one near the fault.

    This function is long because it draws every property of a rig in one place.
    """
    random = np.random.default_rng([seed, 77])
    count = snapshots or int(random.choice([240, 400, 700, 1100]))
    rate = float(random.choice(_RATES_HZ))
    samples = int(random.choice([1024, 2048]))
    step_s = float(random.choice([10.0, 60.0]))
    fault = FAULTS[seed % len(FAULTS)]
    onset = int(count * random.uniform(0.35, 0.85))
    shaft = random.uniform(15, 50)
    bearing = Bearing(elements=int(random.integers(7, 14)), ball_mm=7.0, pitch_mm=float(random.uniform(30, 45)))
    rings = random.uniform(0.12, 0.42, size=2) * rate
    damping = random.uniform(600, 2000)
    # What wanders without being a fault: load, speed, temperature at the sensor; running-in decays.
    load = np.exp(_wander(random, count, random.uniform(0.02, 0.10), random.uniform(60, 400)))
    speed = shaft * np.exp(_wander(random, count, random.uniform(0.001, 0.015), random.uniform(30, 200)))
    running_in = 1 + random.uniform(0.0, 0.6) * np.exp(-np.arange(count) / (count * random.uniform(0.01, 0.05)))
    at = np.clip((np.arange(count) - onset) / (count - 1 - onset), 0, None)
    curve = random.uniform(2.0, 6.0)
    wear = np.expm1(curve * at) / np.expm1(curve)  # slow at first
    if random.random() < 0.3:  # an abrupt end
        wear = np.where(at > random.uniform(0.5, 0.9), np.maximum(wear, at), 0.15 * wear)
    floor = random.uniform(0.05, 0.3)
    colour = random.uniform(0.0, 0.8)
    meshes = int(random.integers(17, 41))
    harmonics = random.uniform(0.05, 0.6, size=4) * floor * 4
    mesh = random.uniform(0.1, 1.0) * floor * 3
    strike = {"outer": bearing.bpfo_hz, "inner": bearing.bpfi_hz, "ball": bearing.bsf_hz}.get(fault)
    gains = np.array([1.0, random.uniform(0.2, 0.9)])
    knocked = random.random(count) < 0.004
    t = np.arange(samples) / rate
    found = np.empty((count, samples, 2), dtype=np.float32)
    for index in range(count):
        hz, many = speed[index], load[index] * running_in[index]
        turn = 2 * math.pi * hz * t + random.uniform(0, 2 * math.pi)
        tones = sum(a * np.sin((k + 1) * turn + k) for k, a in enumerate(harmonics)) * many
        side = 1 + (2.5 * wear[index] * np.cos(turn) if fault == "gear" else 0.0)
        teeth = mesh * many * (1 + (3 * wear[index] if fault == "gear" else 0.0)) * side * np.sin(meshes * turn)
        noise = random.normal(size=(samples, 2)) * floor * many**0.5
        noise[1:] += colour * noise[:-1]
        if fault == "lubrication":
            noise *= 1 + 6 * wear[index]
        ringing = np.zeros(samples)
        if strike is not None and wear[index] > 0:
            times = np.cumsum(np.abs(1 / strike(hz) * (1 + 0.012 * random.normal(size=int(strike(hz) * t[-1]) + 3))))
            force = 40 * floor * wear[index] * (1 + 0.15 * random.normal(size=times.size))
            if fault != "outer":
                slow = hz if fault == "inner" else bearing.ftf_hz(hz)
                force *= 1 + 0.6 * np.cos(2 * math.pi * slow * times)
            ringing = _rung(t, rate, times - times[0] * random.random(), force, rings, damping)
        if knocked[index]:
            hit = np.array([random.uniform(0, t[-1])])
            ringing = ringing + _rung(t, rate, hit, np.array([floor * random.uniform(10, 60)]), rings, damping)
        common = tones + teeth + ringing
        found[index] = np.stack([common, gains[1] * common], axis=1) + noise
    recording = Recording(
        found, np.ones(2), rate, np.arange(count) * np.float64(step_s), ("a", "b"), ("g", "g"),
        {"machine": f"rig-{seed}"},
    )  # fmt: skip
    return Run(recording, fault, onset)


def _rung(t: Floats, rate: float, times: Floats, force: Floats, rings: Floats, damping: float) -> Floats:
    """[sample]: two resonances struck at ``times`` with ``force``."""
    struck = np.zeros(t.size)
    places = np.round(times * rate).astype(int)
    inside = (places >= 0) & (places < t.size)
    np.add.at(struck, places[inside], force[inside])
    length = min(t.size, int(8 / damping * rate))
    answer = np.exp(-damping * t[:length]) * sum(np.sin(2 * math.pi * ring * t[:length]) for ring in rings)
    return np.asarray(np.convolve(struck, answer)[: t.size], dtype=np.float64)


def process_run(seed: int, window_samples: int = 1, seconds: int = 1150) -> Process:
    """A small plant with eight sensors at 1 Hz: flow, pressure, temperatures, current, two vibrations, a level.

    The first 400 s are healthy. A fault (a valve that closes, cavitation, a leak, a loose coupling, a stuck heater)
    begins after half of the time and lasts for a third of it.
    """
    random = np.random.default_rng([seed, 78])
    demand = _wander(random, seconds, 1.0, random.uniform(30, 200))
    ambient = _wander(random, seconds, 1.0, 600)
    mix = random.normal(size=(8, 2)) * np.array([0.8, 0.5])
    spread = random.uniform(0.5, 2.0, size=8)
    middle = random.uniform(-50, 200, size=8)
    noise = random.normal(size=(seconds, 8)) * random.uniform(0.3, 1.0, size=8)
    values = noise + np.stack([demand, ambient], axis=1) @ mix.T
    start = int(seconds * random.uniform(0.45, 0.55))
    stop = start + int(seconds * random.uniform(0.3, 0.4))
    faulty = np.zeros(seconds, dtype=bool)
    faulty[start:stop] = True
    ramp = np.clip((np.arange(seconds) - start) / random.uniform(5, 60), 0, 1) * faulty
    kind = seed % 4
    if kind == 0:  # some sensors shift
        hit = random.choice(8, size=2, replace=False)
        values[:, hit] += ramp[:, None] * random.uniform(2.0, 5.0, size=2) * random.choice([-1, 1], size=2)
    elif kind == 1:  # two sensors become restless
        hit = random.choice(8, size=2, replace=False)
        values[:, hit] += ramp[:, None] * random.normal(size=(seconds, 2)) * random.uniform(2.0, 4.0)
    elif kind == 2:  # sensors that moved together do not any more
        hit = random.choice(8, size=3, replace=False)
        values[:, hit] += ramp[:, None] * (-2.0 * np.stack([demand, ambient], axis=1) @ mix[hit].T)
        values[:, hit[0]] += ramp * 1.5
    else:  # a slow leak: one sensor drifts away
        hit = random.choice(8, size=1)
        values[:, hit] += (np.clip((np.arange(seconds) - start) / 120, 0, 4) * faulty)[:, None] * 1.5
    values = middle + spread * values
    windows = seconds // window_samples
    kept = windows * window_samples
    names = ("flow", "pressure", "water", "body", "current", "vib1", "vib2", "level")
    recording = Recording(
        values[:kept].reshape(windows, window_samples, 8).astype(np.float32), np.ones(8), 1.0,
        np.arange(windows) * np.float64(window_samples), names, ("",) * 8, {"machine": f"plant-{seed}"},
    )  # fmt: skip
    return Process(recording, faulty[:kept].reshape(windows, window_samples).mean(axis=1) >= 0.5, 400 // window_samples)
