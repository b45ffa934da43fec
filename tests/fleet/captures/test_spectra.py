"""Spectra of recordings: against signals whose spectra are known."""

from __future__ import annotations

import io
import math
import wave
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.ui.recordings import BPFO_HZ, RATE_HZ, worn
from wheeltapper_fleet.captures import diagnosis
from wheeltapper_fleet.captures.diagnosis import MOST_SAMPLES, at_work, one_snapshot, some_snapshots, sound
from wheeltapper_fleet.captures.spectra import (
    MOST_POINTS,
    Band,
    carrier_band,
    envelope_spectrum,
    fault_lines,
    shape,
    spectrum,
    velocity_mm_s,
    waterfall_row,
    waveform,
)
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.signal.recording import Recording


def sine(hz: float, amplitude: float = 1.0, samples: int = 4096, rate_hz: float = RATE_HZ) -> Any:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz))[None, :]


def test_a_sine_is_a_line_of_its_height() -> None:
    found = spectrum(sine(1000.0, 2.5), RATE_HZ)
    place = int(np.argmax(found.amplitude))
    assert found.hz[place] == pytest.approx(1000.0, abs=found.resolution_hz)
    assert found.amplitude[place] == pytest.approx(2.5, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(
    hz=st.floats(5.0, 6000.0),
    low=st.floats(0.0, 6000.0),
    width=st.floats(10.0, 6400.0),
    samples=st.integers(64, 6000),
)
def test_however_one_looks_no_line_is_lost(hz: float, low: float, width: float, samples: int) -> None:
    """What is drawn has at most so many points, and its greatest is the greatest of all bins in the view."""
    made = sine(hz, samples=samples)
    whole = np.abs(np.fft.rfft((made[0] - made[0].mean()) * np.hanning(samples + 1)[:-1]))
    scale = 2.0 / np.hanning(samples + 1)[:-1].sum()
    found = spectrum(made, RATE_HZ, Band(low, low + width))
    bin_hz = RATE_HZ / samples
    last = min(len(whole), math.ceil((low + width) / bin_hz) + 1)
    first = min(math.floor(low / bin_hz), last - 2)
    assert 1 <= len(found.hz) <= MOST_POINTS
    assert np.all(np.diff(found.hz) > 0)
    assert found.amplitude.max() == pytest.approx(whole[first:last].max() * scale)


def test_the_envelope_has_the_frequency_that_modulates() -> None:
    """A carrier at 3 kHz whose amplitude swings by 40 % at 75 Hz: the squared envelope is modulated by 0.8 / 1.08."""
    time_s = np.arange(4096) / RATE_HZ
    made = ((1 + 0.4 * np.sin(2 * np.pi * 75 * time_s)) * np.sin(2 * np.pi * 3000 * time_s))[None, :]
    found = envelope_spectrum(made, RATE_HZ, Band(2000, 4000))
    place = int(np.argmax(found.amplitude))
    assert found.hz[place] == pytest.approx(75.0, abs=found.resolution_hz)
    assert found.amplitude[place] == pytest.approx(0.8 / 1.08, rel=0.05)


def test_a_worn_outer_race_stands_out_and_nothing_else_does() -> None:
    bad, good = worn(2.0), worn(0.0)
    carrier = carrier_band(bad, RATE_HZ)
    assert carrier.low_hz < 3100 < carrier.high_hz, "the band of the resonance is found"
    lines = {"bpfo": BPFO_HZ, "bpfi": 157.9, "bsf": 137.5 * 1.01, "ftf": 11.6}
    found = {each.fault: each for each in fault_lines(bad, RATE_HZ, carrier, lines)}
    strengths = {name: each.strength or 0.0 for name, each in found.items()}
    assert strengths["bpfo"] > 3.0
    assert max(strengths, key=lambda name: strengths[name]) == "bpfo"
    assert found["bpfo"].found_hz == pytest.approx(BPFO_HZ, abs=RATE_HZ / 4096)
    assert found["ftf"].strength is None, "eleven Hz are less than four bins of a window"
    quiet = {each.fault: each.strength or 0.0 for each in fault_lines(good, RATE_HZ, carrier, lines)}
    assert max(quiet.values()) < 1.6


def test_velocity_and_shape() -> None:
    """A sine of 1 g at 100 Hz has 9.80665 / (2 pi 100) / sqrt 2 m/s RMS, a crest of sqrt 2, a kurtosis of 1.5."""
    made = sine(100.0)
    assert velocity_mm_s(made, RATE_HZ, "g") == pytest.approx(9806.65 / (2 * math.pi * 100) / math.sqrt(2), rel=0.01)
    assert velocity_mm_s(made, RATE_HZ, "mm/s") is None
    found = shape(made[0])
    assert found["crest"] == pytest.approx(math.sqrt(2), rel=0.01)
    assert found["kurtosis"] == pytest.approx(1.5, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 9000))
def test_a_waveform_keeps_every_peak(samples: int) -> None:
    made = np.random.default_rng(samples).standard_normal(samples)
    found = waveform(made, RATE_HZ)
    assert len(found.at_s) <= MOST_POINTS
    assert (found.low.min(), found.high.max()) == (made.min(), made.max())
    assert np.all(found.low <= found.high)


@pytest.mark.parametrize("made", [np.zeros((2, 512)), np.full((2, 512), np.nan), np.ones((1, 2)), np.ones((3, 1))])
def test_silence_and_nonsense_give_finite_curves(made: Any) -> None:
    carrier = carrier_band(made, RATE_HZ)
    for found in (spectrum(made, RATE_HZ), envelope_spectrum(made, RATE_HZ, carrier)):
        assert np.isfinite(found.amplitude).all()
    assert np.isfinite(waterfall_row(made, RATE_HZ, 5000.0, 50)).all()
    assert all(
        each.strength is None or math.isfinite(each.strength)
        for each in fault_lines(made, RATE_HZ, carrier, {"bpfo": 100.0})
    )


def test_a_row_of_a_waterfall_has_each_line_in_its_place() -> None:
    row = waterfall_row(sine(2050.0), RATE_HZ, 4000.0, 40)
    assert int(np.argmax(row)) == 20
    assert row.shape == (40,)


@pytest.mark.parametrize(("rate_hz", "faster"), [(12_800.0, 1), (1000.0, 3), (20.0, 150)])
def test_a_sound_is_as_loud_as_can_be_and_fast_enough_to_be_heard(rate_hz: float, faster: float) -> None:
    samples = (1000 * np.sin(np.arange(4096) / 5)).astype(np.int16).reshape(4, 1024, 1)
    t_s = np.arange(4, dtype=np.float64) * 1e3
    made, times = sound(Recording(samples, np.array([0.001]), rate_hz, t_s, ("x",), ("g",)), 0)
    assert times == faster
    with wave.open(io.BytesIO(made)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, round(rate_hz * faster))
        values = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    assert len(values) == min(4096, 1024 * max(1, int(60 * rate_hz / 1024)))
    assert 0.85 < np.abs(values).max() / 32767 < 0.95


@pytest.mark.parametrize(("snapshots", "samples"), [(1, 2 * MOST_SAMPLES), (3, MOST_SAMPLES // 2), (40, 64), (1, 1)])
def test_of_a_recording_a_bounded_part_is_transformed(snapshots: int, samples: int) -> None:
    t_s = np.arange(snapshots, dtype=np.float64) * 1e6
    made = np.zeros((snapshots, samples, 1), dtype=np.int16)
    recording = Recording(made, np.array([0.5]), RATE_HZ, t_s, ("x",), ("g",))
    some = some_snapshots(recording, 0)
    assert 0 < some.size <= MOST_SAMPLES
    assert 0 < one_snapshot(recording, 0, snapshots).size <= MOST_SAMPLES
    assert 0 < len(sound(recording, 0)[0]) < 5 * MOST_SAMPLES


def test_more_readers_than_there_are_turns_wait_and_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "WAIT_SECONDS", 0.01)
    with at_work(), at_work():
        with pytest.raises(FleetError) as refused, at_work():
            pass
        assert (refused.value.code, refused.value.status) == ("capture.busy", 503)
    with at_work():
        pass
