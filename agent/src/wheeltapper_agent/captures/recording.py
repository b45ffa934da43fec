"""Windows of a pipeline become a recording: int16 samples with a scale for each channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["make_recording", "window_bytes"]

_SAMPLE_BYTES: Final = 4  # float32
_INT16_MAX: Final = 32767


def window_bytes(spec: SourceSpec) -> int:
    """Bytes that one window takes in memory, as float32."""
    return spec.window_samples * len(spec.channels) * _SAMPLE_BYTES


def make_recording(windows: Sequence[Window], spec: SourceSpec, meta: Mapping[str, str]) -> Recording:
    """Quantize ``windows`` to int16; each channel is scaled so that its loudest sample uses the whole range.

    Args:
        windows: at least one, all of one shape [sample, channel], all samples finite.
        spec: sample rate, channels and units of the windows.
        meta: what the recording says about itself, e.g. ``{"device": "press-1", "pipeline": "main"}``.

    Returns:
        A recording with one snapshot for each window; its ``samples`` are [snapshot, sample, channel]. Where samples
        came at no fixed rate, its meta says that the rate is nominal; ``t_s`` holds the times as they came.

    Raises:
        AgentError: ``capture.empty``: there is no window.
        RecordingError: ``recording.shape``, ``recording.nan``.
    """
    if not windows:
        raise AgentError("capture.empty", "there is nothing to record: the source gave no window")
    shape = windows[0].samples.shape
    peak = np.zeros(shape[1:])
    for window in windows:  # one at a time: memory has room for the int16 samples, not for a second float32 copy
        if window.samples.shape != shape:
            raise RecordingError("recording.shape", f"a window has shape {window.samples.shape}, the first has {shape}")
        if not np.all(np.isfinite(window.samples)):
            raise RecordingError("recording.nan", "the sensor gave values that are not finite numbers")
        peak = np.maximum(peak, np.abs(window.samples).max(axis=0))
    scale = np.where(peak > 0, peak, 1.0) / _INT16_MAX
    samples = np.empty((len(windows), *shape), dtype=np.int16)
    for row, window in enumerate(windows):
        samples[row] = np.clip(np.rint(window.samples / scale), -_INT16_MAX, _INT16_MAX)
    times = np.array([window.t_s for window in windows], dtype=np.float64)
    said = dict(meta) | ({"sample_rate": "nominal"} if spec.irregular else {})
    return Recording(samples, scale, spec.sample_rate_hz, times, spec.channels, spec.units, said)
