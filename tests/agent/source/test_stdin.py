"""JSON lines: through a real pipe into a real process, and lines made to hurt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.agent.source.rig import RunningSource, concatenated
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.source.payload import MAX_PAYLOAD_BYTES
from wheeltapper_agent.source.stdin import LineReader, StdinConfig
from wheeltapper_agent.source.stream import StreamSource

CONFIG = StdinConfig(sample_rate_hz=100, window_samples=10)
PROGRAM = """
import sys
from pathlib import Path
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.source.opening import make_source
from wheeltapper_agent.config import load_config
source = make_source('main', load_config(Path(sys.argv[1])).pipelines[0].source, Path("."), SystemClock())
for window in source.windows(0):
    print(window.samples[:, 0].tolist(), window.t_s)
print(source.state, source.dropped, source.malformed_payloads)
"""


def test_a_real_pipe(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        '[device]\nstate_dir = "s"\n[[pipelines]]\nname = "main"\n[pipelines.source]\nkind = "stdin"\ntime_key = "t"\n'
        "sample_rate_hz = 100\nwindow_samples = 10\nqueue_windows = 2\n"
    )
    lines = [json.dumps({"t": 50 + k / 10, "samples": list(range(10 * k, 10 * k + 10))}) for k in range(300)]
    lines[3] = "cheese"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a.toml")],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = done.stdout.splitlines()
    assert said[-1] == "ended 0 1"  # a pipe waits: nothing is dropped
    assert len(said) == 301
    assert said[0] == "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] 50.0"
    assert said[3].startswith("[nan, nan")


def test_long_lines_are_skipped_and_the_rest_goes_on() -> None:
    reading, writing = os.pipe()
    source = StreamSource(LineReader(CONFIG, reading), CONFIG, SystemClock(), "main", wait_when_full=True)
    with RunningSource(source) as taken, open(writing, "wb") as pipe:
        good = b'{"samples": [0,1,2,3,4,5,6,7,8,9]}\n'
        pipe.write(good + b"\n  \n" + b"[" * (MAX_PAYLOAD_BYTES + 200_000) + b"\n" + good + good[:-1])
        pipe.close()
        assert taken.ended.wait(20)
        np.testing.assert_array_equal(concatenated(taken.windows)[:, 0], np.tile(np.arange(10), 3))
        assert source.malformed_payloads == 1
    os.close(reading)
