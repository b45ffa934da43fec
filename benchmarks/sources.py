"""CPU time of the work of sources, each as a ratio to a baseline in the same run.

- Cutting a stream in chunks of 256 samples into windows of 4,096 samples of two channels, without overlap and with
  50 %. The baseline joins a buffer with ``numpy.concatenate`` and slices it.
- The data quality of a window. The baseline is the default features of the same window.
- Reading a JSON payload of 2,048 numbers. The baseline is the standard library's ``json`` and ``numpy.array``.

    python benchmarks/sources.py [--json]
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rig import Row, main, row

from wheeltapper_agent.source.cutter import Framing
from wheeltapper_agent.source.framing import Framer
from wheeltapper_agent.source.mqtt import MqttConfig
from wheeltapper_agent.source.payload import PayloadReader
from wheeltapper_protocols.signal.features import FeatureSet, default_specs
from wheeltapper_protocols.signal.quality import window_quality

_RATE_HZ, _WINDOW, _CHUNK = 12800.0, 4096, 256


def _seconds(work: Callable[[], object], number: int) -> float:
    """Seconds for one call, the least of five runs."""
    return min(timeit.repeat(work, number=number, repeat=5)) / number


def _framed(chunks: list[NDArray[np.float32]], hop: int) -> None:
    framer = Framer(Framing(_RATE_HZ, 2, _WINDOW, hop))
    for index, chunk in enumerate(chunks):
        at_s = index * _CHUNK / _RATE_HZ
        framer.push(chunk, at_s=at_s, monotonic_s=at_s, t_s=at_s)


def _joined(chunks: list[NDArray[np.float32]], hop: int) -> None:
    buffer = np.empty((0, 2), np.float32)
    for chunk in chunks:
        buffer = np.concatenate([buffer, chunk])
        while len(buffer) >= _WINDOW:
            buffer[:_WINDOW].copy()
            buffer = buffer[hop:]


def rows() -> list[Row]:
    """The rows of the table; a ratio below 1 means that ours is faster."""
    random = np.random.default_rng(1)
    samples = random.standard_normal((64 * _WINDOW, 2)).astype(np.float32)
    chunks = [samples[at : at + _CHUNK] for at in range(0, len(samples), _CHUNK)]
    window = samples[:_WINDOW]
    features = FeatureSet(default_specs(_RATE_HZ, ["x", "y"]), _RATE_HZ, _WINDOW, 2)
    payload = json.dumps({"samples": samples[:1024].round(4).tolist()}).encode()
    reader = PayloadReader(MqttConfig(topic="x", channels=("x", "y"), sample_rate_hz=_RATE_HZ, window_samples=_WINDOW))
    found: dict[str, float] = {}
    for name, hop in (("framing", _WINDOW), ("framing at 50 % overlap", _WINDOW // 2)):
        ours, baseline = (_seconds(lambda work=work, hop=hop: work(chunks, hop), 3) for work in (_framed, _joined))  # type: ignore[misc]  # a default binds
        found[f"{name} / concatenate and slice"] = ours / baseline
        found[f"{name}, microseconds a window"] = ours / 64 * 1e6 * hop / _WINDOW
    quality_s = _seconds(lambda: window_quality(window, full_scale=(16.0, 16.0)), 200)
    found["data quality / default features"] = quality_s / _seconds(lambda: features.compute(window[None]), 50)
    found["data quality, microseconds a window"] = quality_s * 1e6
    plain_s = _seconds(lambda: np.array(json.loads(payload)["samples"]), 50)
    found["JSON payload / json and numpy.array"] = _seconds(lambda: reader.read(payload), 50) / plain_s
    return [row(name, value) for name, value in found.items()]


if __name__ == "__main__":
    main(rows, "Sources")
