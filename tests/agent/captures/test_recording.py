"""Windows become a recording, one at a time: equal to the bit to all at once, in less memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.agent.captures.kit import SPEC, windows
from wheeltapper_agent.captures.recording import make_recording
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording, recording_bytes


def all_at_once(windows: list[Window], spec: SourceSpec) -> Recording:
    """The plain way: all windows in one array."""
    samples = np.stack([window.samples for window in windows])
    peak = np.abs(samples).max(axis=(0, 1)).astype(np.float64)
    scale = np.where(peak > 0, peak, 1.0) / 32767.0
    coded = np.clip(np.rint(samples / scale), -32767, 32767).astype(np.int16)
    times = np.array([window.t_s for window in windows], dtype=np.float64)
    return Recording(coded, scale, spec.sample_rate_hz, times, spec.channels, spec.units, {"a": "b"})


@pytest.mark.parametrize("seed", range(6))
def test_a_recording_is_the_same_to_the_bit_as_one_made_at_once(seed: int) -> None:
    noise = np.random.default_rng(seed)
    spec = SourceSpec(1000.0, 64, ("x", "y", "z"), ("g", "g", "V"))
    samples = noise.standard_normal((7, 64, 3)) * np.array([1e-30, 1.0, 1e30]) * noise.integers(0, 2, 3)
    made = [Window(each.astype(np.float32), float(index)) for index, each in enumerate(samples)]
    assert recording_bytes(make_recording(made, spec, {"a": "b"})) == recording_bytes(all_at_once(made, spec))


def test_windows_that_do_not_belong_together() -> None:
    short = Window(np.zeros((1, 1), dtype=np.float32), 9.0)
    with pytest.raises(RecordingError) as caught:
        make_recording([*windows(2), short], SPEC, {})
    assert caught.value.code == "recording.shape"
    with pytest.raises(RecordingError) as caught:
        make_recording([*windows(2), Window(np.full((10, 1), np.nan, dtype=np.float32), 9.0)], SPEC, {})
    assert caught.value.code == "recording.nan"


MEASURED = """
import sys, time
from pathlib import Path
import numpy as np
from tests.agent.captures.kit import Records, Server
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.captures.recorder import RecordingJob
from wheeltapper_agent.source.base import SourceSpec, Window

MB = 1 << 20
spec = SourceSpec(12800.0, 4096, ("a",), ("g",))
noise = np.random.default_rng(1)
made = Captures("dev", {}, Records(), Server(), SystemClock(), 32 * MB, Path(sys.argv[1]), max_memory_bytes=48 * MB)
job = RecordingJob("auto-0", "main", spec, [], first_window=0)
high = lambda: int(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1]) / 1024
before = high()
for index in range(32 * MB // 16384):
    job.windows.append(Window(noise.standard_normal((4096, 1)).astype(np.float32), float(index)))
made._recorder._write(job)
assert made._folder.used_bytes > 10 * MB
print(high() - before)
"""


def test_a_recording_at_the_cap_takes_a_little_more_than_twice_its_windows(tmp_path: Path) -> None:
    """All windows in one array take six times as much: 192 MB for 32 MB, all that the smallest board grants."""
    line = [sys.executable, "-c", MEASURED, str(tmp_path / "captures")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 80
