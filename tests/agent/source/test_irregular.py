"""Streams at no fixed rate: windows of one sample upward, each with its own time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.agent.source.rig import RunningSource, open_source
from tests.agent.task_bundles import RAW_INPUT
from tests.protocols.manifest.test_model_file import manifest
from wheeltapper_agent.captures.recording import make_recording
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import check_input
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.cutter import Framing
from wheeltapper_agent.source.irregular import IrregularFramer
from wheeltapper_agent.source.stdin import LineReader, StdinConfig
from wheeltapper_agent.source.stream import StreamSource
from wheeltapper_protocols.decision.reasons import UsualBand
from wheeltapper_protocols.manifest.manifest import (
    Anomaly,
    Input,
    Manifest,
    RawInput,
    decode_manifest,
    encode_manifest,
)


def framer(window: int = 1, hop: int = 0) -> IrregularFramer:
    return IrregularFramer(Framing(1.0, 1, window, hop, irregular=True))


def push(made: IrregularFramer, *times: float) -> list[Window]:
    """Push samples of which each is its own time."""
    values = np.array(times)
    return made.push_times(values[:, None], values, at_s=0.0, monotonic_s=None)


def test_each_sample_is_a_window_with_its_own_time() -> None:
    found = push(framer(), 3.0, 3.5, 90.0, 4000.0)
    assert [window.t_s for window in found] == [3.0, 3.5, 90.0, 4000.0]
    assert [window.samples.tolist() for window in found] == [[[3.0]], [[3.5]], [[90.0]], [[4000.0]]]
    assert not any(window.gap_samples for window in found)


@given(
    st.lists(st.floats(1, 1e6), max_size=60).map(sorted),
    st.integers(1, 5),
    st.integers(1, 8),
    st.lists(st.integers(0, 60), max_size=6).map(sorted),
)
def test_windows_do_not_depend_on_how_the_stream_was_divided(
    times: list[float], window: int, hop: int, cuts: list[int]
) -> None:
    made = framer(window, hop)
    found: list[Window] = []
    for first, end in zip([0, *cuts], [*cuts, len(times)], strict=True):
        if times[first:end]:
            found += push(made, *times[first:end])
    wanted = [times[at : at + window] for at in range(0, max(0, len(times) - window + 1), hop)]
    assert [each.samples[:, 0].tolist() for each in found] == [np.array(each, np.float32).tolist() for each in wanted]
    assert [each.t_s for each in found] == [each[0] for each in wanted]


def test_an_old_sample_is_left_out_and_a_clock_that_was_set_back_is_followed() -> None:
    made = framer(2)
    assert push(made, 100.0, 90.0, 101.0)[0].samples[:, 0].tolist() == [100.0, 101.0]
    assert made.late_samples == 1
    found = push(made, 102.0, 10.0, 11.0, 12.0, 13.0, 14.0)
    assert [window.samples[:, 0].tolist() for window in found] == [[13.0, 14.0]]
    assert (made.late_samples, found[0].late_samples, found[0].gap_samples) == (4, 3, 1)


def test_what_is_no_sample_of_the_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        framer().push(np.zeros((1, 2)), at_s=1.0, monotonic_s=None)
    with pytest.raises(ValueError, match="time"):
        push(framer(), -1.0)
    assert framer().push(np.zeros((2, 1)), at_s=7.0, monotonic_s=None)[1].t_s == 7.0


def test_a_source_gives_them_and_says_that_its_rate_is_nominal() -> None:
    config = StdinConfig(
        sample_rate_hz=0.1,
        window_samples=1,
        irregular=True,
        samples_key="",
        time_key="t",
        channels=("temp", "flow"),
    )
    reading, writing = os.pipe()
    source = StreamSource(LineReader(config, reading), config, SystemClock(), "main", wait_when_full=True)
    with RunningSource(source) as taken, open(writing, "w") as pipe:
        for t_s in (100.0, 100.1, 160.0, 161.0):
            pipe.write(f'{{"t": {t_s}, "temp": {20 + t_s}, "flow": 1}}\n')
        pipe.flush()
        found, spec = taken.until(4), source.spec
    assert [window.t_s for window in found] == [100.0, 100.1, 160.0, 161.0]
    assert spec.irregular
    recording = make_recording(found, spec, {"device": "d"})
    assert recording.meta["sample_rate"] == "nominal"
    assert recording.t_s.tolist() == [100.0, 100.1, 160.0, 161.0]


def test_only_sources_of_payloads_have_no_rate(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="irregular"):
        open_source(tmp_path, 'kind = "modbus"\nirregular = true\n')


def raw_release(shape: Input) -> Manifest:
    """A release that reads the samples of one channel."""
    raw = RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat")
    return manifest(input=shape, features=[], scoring=None, raw=raw, anomaly=Anomaly(output="score", threshold=1.0))


def test_a_release_is_for_a_source_with_a_rate_or_for_one_without() -> None:
    shape = Input(sample_rate_hz=0.1, window_samples=1, channels=["x"], units=["C"], irregular=True)
    made = raw_release(shape)
    assert decode_manifest(encode_manifest(made)) == made
    assert b"irregular" not in encode_manifest(raw_release(RAW_INPUT))
    check_input(made, SourceSpec(0.7, 1, ("x",), ("C",), irregular=True))
    with pytest.raises(AgentError, match="no fixed rate"):
        check_input(made, SourceSpec(0.1, 1, ("x",), ("C",)))
    with pytest.raises(ValueError, match="no spectrum"):
        replace(made, bearing=None, bands=[UsualBand(channel=0, low_hz=0.0, high_hz=0.01, rms=1.0)])
