"""Machines that nobody tuned a recipe on: simulated bearings that run to failure, and process data at 1 Hz.

A rig has its own sample rate, shaft speed, gear mesh, resonances, sensor gain and colour of noise. It runs in, its
load and speed wander, it is knocked now and then, and at some moment one of several faults begins and grows to the end.
Every figure is drawn from the seed, so that a recipe which is right on many seeds is right on machines that it has not
seen. With ``troubled=True`` a rig has what healthy machines have beside wear: long running-in, steps of load, warmth
that creeps, a sensor whose gain changes, bands that come and go, knocks in the beginning, interference of one sample.

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

__all__ = ["FAULTS", "Process", "Run", "Seeded", "bearing_run", "process_run", "seeded_faults"]

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


@dataclass(frozen=True)
class _Troubles:
    """What moves a healthy machine.

    Args:
        loudness: [snapshot], factor on everything.
        gain: [snapshot, channel], of the sensors.
        bands: [snapshot, band], the size of tones that come and go, in units of the floor.
        band_hz: [band], as shares of the sample rate.
        knocked: bool [snapshot]: one hit each.
        spikes: [snapshot], interference: how many single samples.
        colour: [snapshot], what warmth adds to the colour of the noise.
        rattle: [snapshot], the force of a healthy bearing's small impacts, in units of the floor.
    """

    loudness: Floats
    gain: Floats
    bands: Floats
    band_hz: Floats
    knocked: npt.NDArray[np.bool_]
    spikes: npt.NDArray[np.int64]
    colour: Floats
    rattle: Floats


def _troubles(random: np.random.Generator, count: int) -> _Troubles:
    """Draw which troubles a machine has, and when; each is there in about a third of the machines."""
    at = np.arange(count) / count

    def has(chance: float = 0.35) -> bool:
        return bool(random.random() < chance)

    loudness, gain = np.ones(count), np.ones((count, 2))
    if has():
        loudness *= 1 + random.uniform(0.2, 0.8) * np.exp(-at / random.uniform(0.05, 0.2))
    if has():
        loudness *= 1 + random.uniform(-0.15, 0.35) * (1 - np.exp(-at / random.uniform(0.1, 0.4)))
    if has():
        for start in random.uniform(0.05, 0.9, size=random.integers(1, 4)):
            loudness[int(start * count) :] *= random.uniform(0.75, 1.35)
    if has(0.2):
        gain[int(random.uniform(0.1, 0.8) * count) :, random.integers(2)] *= random.uniform(0.8, 1.2)
    bands = np.zeros((count, 2))
    for band in range(2):
        if has():
            log = _wander(random, count, random.uniform(0.3, 0.9), random.uniform(30, 300))
            bands[:, band] = random.uniform(0.3, 1.5) * np.exp(log)
    knocked = random.random(count) < 0.003
    if has():
        knocked |= (random.random(count) < 0.08) & (at < random.uniform(0.03, 0.12))
    spikes = np.zeros(count, dtype=np.int64)
    if has():
        for start in np.flatnonzero(random.random(count) < random.uniform(0.002, 0.01)):
            spikes[start : start + random.integers(1, 4)] = random.integers(1, 5)
    colour, rattle = np.zeros(count), np.zeros(count)
    if has(0.5):
        colour = random.uniform(-0.15, 0.15) * (1 - np.exp(-at / random.uniform(0.05, 0.3)))
    if has(0.6):
        warm = random.uniform(-0.7, 0.5) * (1 - np.exp(-at / random.uniform(0.05, 0.3)))
        rattle = random.uniform(0.5, 3.0) * np.exp(_wander(random, count, random.uniform(0.05, 0.3), 100) + warm)
    return _Troubles(loudness, gain, bands, random.uniform(0.03, 0.4, size=2), knocked, spikes, colour, rattle)


def _disturbed(random: np.random.Generator, samples: Floats, troubles: _Troubles, index: int, floor: float) -> Floats:
    """[sample, channel]: a snapshot with its troubles."""
    t = np.arange(len(samples))
    phases = random.uniform(0, 2 * math.pi, size=2)
    tones = np.sin(2 * math.pi * t[:, None] * troubles.band_hz + phases) @ (floor * troubles.bands[index])
    found = np.asarray((samples + tones[:, None]) * troubles.loudness[index])
    places = random.integers(0, len(samples), size=troubles.spikes[index])
    found[places] += (
        floor * random.uniform(8, 30, size=(len(places), 1)) * random.choice([-1, 1], size=(len(places), 1))
    )
    return np.asarray(found * troubles.gain[index])


@dataclass(frozen=True)
class _Kind:
    """What the machines of a fleet have in common.

    Args:
        rate, samples, step_s: how they are recorded.
        bearing, shaft, meshes, rings, damping, colour: how they are built.
    """

    rate: float
    samples: int
    step_s: float
    bearing: Bearing
    shaft: float
    meshes: int
    rings: Floats
    damping: float
    colour: float


def _kind(fleet: int) -> _Kind:
    random = np.random.default_rng([fleet, 82])
    rate = float(random.choice(_RATES_HZ))
    bearing = Bearing(elements=int(random.integers(7, 14)), ball_mm=7.0, pitch_mm=float(random.uniform(30, 45)))
    return _Kind(
        rate, int(random.choice([1024, 2048])), float(random.choice([10.0, 60.0])), bearing, random.uniform(15, 50),
        int(random.integers(17, 41)), random.uniform(0.12, 0.42, size=2) * rate, random.uniform(600, 2000),
        random.uniform(0.0, 0.8),
    )  # fmt: skip


def bearing_run(seed: int, snapshots: int | None = None, troubled: bool = False, fleet: int | None = None) -> Run:
    """A bearing from its first snapshot to its failure; seeds differ in everything. Two channels, one near the fault.

    With ``fleet`` the machine is one of a kind: recorded and built as the others of that number, but its mounting
    makes it up to ten times as loud, and its resonances and its speed are a little different.

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
    if fleet is not None:
        kind, own = _kind(fleet), np.random.default_rng([fleet, seed, 83])
        rate, samples, step_s, bearing, meshes = kind.rate, kind.samples, kind.step_s, kind.bearing, kind.meshes
        speed *= kind.shaft * own.uniform(0.97, 1.03) / shaft
        rings, damping = kind.rings * own.uniform(0.95, 1.05, size=2), kind.damping * own.uniform(0.8, 1.25)
        shaft, floor = kind.shaft, float(0.03 * np.exp(own.uniform(0, math.log(10))))
        colour = float(np.clip(kind.colour + own.uniform(-0.1, 0.1), 0, 0.9))
    harmonics = random.uniform(0.05, 0.6, size=4) * floor * 4
    mesh = random.uniform(0.1, 1.0) * floor * 3
    strike = {"outer": bearing.bpfo_hz, "inner": bearing.bpfi_hz, "ball": bearing.bsf_hz}.get(fault)
    gains = np.array([1.0, random.uniform(0.2, 0.9)])
    knocked = random.random(count) < 0.004
    extra = np.random.default_rng([seed, 79])
    troubles = _troubles(extra, count) if troubled else None
    if troubles is not None:
        knocked |= troubles.knocked
    t = np.arange(samples) / rate
    found = np.empty((count, samples, 2), dtype=np.float32)
    for index in range(count):
        hz, many = speed[index], load[index] * running_in[index]
        turn = 2 * math.pi * hz * t + random.uniform(0, 2 * math.pi)
        tones = sum(a * np.sin((k + 1) * turn + k) for k, a in enumerate(harmonics)) * many
        side = 1 + (2.5 * wear[index] * np.cos(turn) if fault == "gear" else 0.0)
        teeth = mesh * many * (1 + (3 * wear[index] if fault == "gear" else 0.0)) * side * np.sin(meshes * turn)
        noise = random.normal(size=(samples, 2)) * floor * many**0.5
        noise[1:] += (colour + (troubles.colour[index] if troubles is not None else 0.0)) * noise[:-1]
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
        if troubles is not None and troubles.rattle[index] > 0:
            hits = extra.uniform(0, t[-1], size=extra.poisson(t[-1] * 6 * shaft))
            force = floor * troubles.rattle[index] * extra.exponential(size=hits.size)
            ringing = ringing + _rung(t, rate, hits, force, rings, damping)
        common = tones + teeth + ringing
        snapshot = np.stack([common, gains[1] * common], axis=1) + noise
        found[index] = snapshot if troubles is None else _disturbed(extra, snapshot, troubles, index, floor)
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


def _warmed(random: np.random.Generator, values: Floats, faulty: npt.NDArray[np.bool_], kind: int) -> Floats:
    """[second, sensor]: a plant that warms up, with coarse sensors and single wrong values; ``kind`` 4 loses flow
    slowly, 5 has a valve that sticks and slips, the others have what they have already."""
    seconds = len(values)
    at = np.arange(seconds)
    found = values.copy()
    for sensor in random.choice(8, size=random.integers(1, 4), replace=False):
        warm = 1 - np.exp(-at / random.uniform(200, 1500))
        found[:, sensor] += random.choice([-1, 1]) * random.uniform(2, 8) * warm
    begin = int(np.argmax(faulty))
    if kind == 4:
        lost = np.clip((at - begin) / random.uniform(60, 200), 0, 1) * faulty
        found[:, 0] -= lost * random.uniform(1.5, 4)
        found[:, 1] += lost * random.uniform(-2, 2)
        found[:, 4] -= lost * random.uniform(0.5, 2)
    elif kind == 5:
        stuck = ((at / random.uniform(15, 60)) % 1 - 0.5) * faulty
        found[:, 0] += stuck * random.uniform(3, 6)
        found[:, 1] -= stuck * random.uniform(2, 5)
    found[random.random((seconds, 8)) < 0.001] += random.choice([-1, 1]) * random.uniform(4, 10)
    for sensor in random.choice(8, size=3, replace=False):
        step = random.uniform(0.3, 1.5)
        found[:, sensor] = np.round(found[:, sensor] / step) * step
    return found


def process_run(seed: int, window_samples: int = 1, seconds: int = 1150, troubled: bool = False) -> Process:
    """A small plant with eight sensors at 1 Hz: flow, pressure, temperatures, current, two vibrations, a level.

    The first 400 s are healthy. A fault (a valve that closes, cavitation, a leak, a loose coupling, a stuck heater)
    begins after half of the time and lasts for a third of it. With ``troubled`` the plant is still warming up, sensors
    are coarse, and flow is lost slowly or a valve sticks in some.
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
    kind = seed % (6 if troubled else 4)
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
    elif kind == 3:  # a slow leak: one sensor drifts away
        hit = random.choice(8, size=1)
        values[:, hit] += (np.clip((np.arange(seconds) - start) / 120, 0, 4) * faulty)[:, None] * 1.5
    if troubled:
        values = _warmed(np.random.default_rng([seed, 81]), values, faulty, kind)
    values = middle + spread * values
    windows = seconds // window_samples
    kept = windows * window_samples
    names = ("flow", "pressure", "water", "body", "current", "vib1", "vib2", "level")
    recording = Recording(
        values[:kept].reshape(windows, window_samples, 8).astype(np.float32), np.ones(8), 1.0,
        np.arange(windows) * np.float64(window_samples), names, ("",) * 8, {"machine": f"plant-{seed}"},
    )  # fmt: skip
    return Process(recording, faulty[:kept].reshape(windows, window_samples).mean(axis=1) >= 0.5, 400 // window_samples)


@dataclass(frozen=True)
class Seeded:
    """A test rig whose bearing was damaged on purpose.

    Args:
        healthy: a continuous recording of the bearing before.
        again: healthy too, of another day.
        faulty: recordings of damaged bearings.
    """

    healthy: Recording
    again: Recording
    faulty: tuple[Recording, ...]


def seeded_faults(seed: int, files: int = 12) -> Seeded:
    """A rig at a steady speed, recorded for some seconds each time; damage of the three parts from barely there to
    plain. Load and speed differ by a few per cent between recordings."""
    random = np.random.default_rng([seed, 80])
    rate, samples = 12_000.0, 2048
    shaft = random.uniform(25, 32)
    bearing = Bearing(elements=9, ball_mm=8.0, pitch_mm=float(random.uniform(36, 42)))
    floor, colour = random.uniform(0.03, 0.08), random.uniform(0.0, 0.8)
    rings, damping = random.uniform(0.2, 0.4, size=2) * rate, random.uniform(600, 1500)
    tones = floor * random.uniform(0.2, 1.5, size=5)

    def recorded(windows: int, damage: str, size: float) -> Recording:
        hz = shaft * random.uniform(0.97, 1.02)
        many = random.uniform(0.95, 1.05)
        t = np.arange(windows * samples) / rate
        wander = np.exp(np.repeat(_wander(random, windows, 0.02, 10), samples))
        value = random.normal(size=t.size) * floor
        value[1:] += colour * value[:-1]
        value += sum(a * np.sin(2 * math.pi * (k + 1) * hz * t + k) for k, a in enumerate(tones))
        if damage:
            strike = {"outer": bearing.bpfo_hz, "inner": bearing.bpfi_hz, "ball": bearing.bsf_hz}[damage](hz)
            times = np.cumsum(np.abs(1 / strike * (1 + 0.012 * random.normal(size=int(strike * t[-1])))))
            force = floor * size * (1 + 0.2 * random.normal(size=times.size))
            if damage != "outer":
                slow = hz if damage == "inner" else bearing.ftf_hz(hz)
                force *= 1 + 0.6 * np.cos(2 * math.pi * slow * times)
            value += _rung(t, rate, times, force, rings, damping)
        cut = (value * wander * many).reshape(windows, samples, 1).astype(np.float32)
        t_s = np.arange(windows) * np.float64(samples / rate)
        return Recording(cut, np.ones(1), rate, t_s, ("de",), ("g",), {"machine": f"rig-{seed}"})

    sizes = np.exp(random.uniform(math.log(1.0), math.log(20), size=files))
    faulty = tuple(recorded(58, ("outer", "inner", "ball")[i % 3], float(size)) for i, size in enumerate(sizes))
    return Seeded(recorded(118, "", 0.0), recorded(118, "", 0.0), faulty)
