"""CPU time for one window in the whole agent, compared with a hand-written loop.

The agent is a real process: enrolled, connected over TLS, with a paced source, features, model, decision, data quality,
drift, spool, delivery and acks. The loop is what an engineer would write first: the same recording and features, a bare
session of the same runtime; it scores each window when it comes and decides, stores and sends nothing. Both run **at
the same time** and at the same rate, so that other load on the machine disturbs both. The kernel's CPU clock of each
process (user and system time of all threads) is the measure.

There are three models: the default recipe's int8 autoencoder on features, a classifier on features, and a small
convolutional model on raw samples. At 100 windows a second, and for one model also at 10, the agent gathers windows for
some tenths of a second (``gather_seconds``); the table also has the cost without gathering.

    python benchmarks/agent_window.py

It needs the repository's tests for two of its bundles.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from rig import REPOSITORY, Row, agent_beside, cpu_seconds, main, row, simulated, trained_bundle, wait_for_windows

from wheeltapper_agent.source.simulator import Machine, SimulatorConfig
from wheeltapper_protocols.manifest.manifest import Classification, Gate, Input, RawInput, decode_manifest
from wheeltapper_protocols.signal.features import FeatureSet, default_specs
from wheeltapper_protocols.signal.recording import read_recording, write_recording

sys.path.append(str(REPOSITORY))
from tests.agent.bundles import write_bundle
from tests.agent.task_bundles import graph, linear, standard_scoring, task_bundle

_FAST_HZ: Final = 100.0
_SLOW_HZ: Final = 10.0
_SIZES: Final = (2048, 4096)
_WARM_UP: Final = 0.15
"""Share of the loop's windows that are not measured."""
_PASSED: Final = Gate(name="golden", value=0.0, limit=0.0, passed=True, detail="made by hand")


# --- the loop, in a process of its own ----------------------------------------------------------------------------


def loop(bundle: Path, recording_file: Path, rate_hz: float, windows: int) -> None:
    """Score ``windows`` windows at ``rate_hz`` and print the CPU seconds for one."""
    score = _scoring(bundle)
    recording = read_recording(recording_file)
    warm = int(windows * _WARM_UP)
    began_at, began = time.monotonic(), 0.0
    for index in range(windows):
        if index == warm:
            began = time.process_time()
        time.sleep(max(0.0, began_at + index / rate_hz - time.monotonic()))
        score(recording.physical(slice(index, index + 1)))
    print((time.process_time() - began) / (windows - warm))


def _scoring(bundle: Path) -> Callable[[Any], object]:
    import onnxruntime

    manifest = decode_manifest((bundle / "manifest.json").read_bytes())
    shape = manifest.input
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession((bundle / manifest.model_file).read_bytes(), options)
    if manifest.scoring is None:
        return lambda samples: session.run(None, {"input": np.ascontiguousarray(samples.transpose(0, 2, 1))})
    features = FeatureSet(manifest.features, shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    center = np.array(manifest.scoring.center, dtype=np.float32)
    scale = np.array(manifest.scoring.scale, dtype=np.float32)
    return lambda samples: session.run(None, {"input": (features.compute(samples) - center) / scale})


# --- the models ---------------------------------------------------------------------------------------------------


def _autoencoder(folder: Path, config: SimulatorConfig) -> Path:
    return trained_bundle(folder, config)


def _form(config: SimulatorConfig) -> dict[str, Any]:
    channels, units = ["horizontal", "vertical"], ["g", "g"]
    shape = Input(
        sample_rate_hz=config.sample_rate_hz, window_samples=config.window_samples, channels=channels, units=units
    )
    classes = Classification(classes=["normal", "worn"], normal=["normal"])
    return {"model": "bearing-anomaly", "task": "classification", "input": shape, "classification": classes} | {
        "gates": [_PASSED]
    }


def _samples(config: SimulatorConfig) -> Any:
    machine = Machine(config)
    return np.stack([machine.window(index, index * 10.0) for index in range(16)])


def _classifier(folder: Path, config: SimulatorConfig) -> Path:
    """A classifier with two classes on the default features: a linear layer and a softmax."""
    samples = _samples(config)
    specs = default_specs(config.sample_rate_hz, ("horizontal", "vertical"))
    table = FeatureSet(specs, config.sample_rate_hz, config.window_samples, 2).compute(samples)
    weights = np.zeros((len(specs), 2))
    weights[0] = (-1.0, 1.0)
    model = linear(weights, np.array([4.0, -4.0]), "Softmax")
    return write_bundle(
        folder, task_bundle(model, samples[:4], features=specs, scoring=standard_scoring(table), **_form(config))
    )


def _convolutional(folder: Path, config: SimulatorConfig) -> Path:
    """A classifier with two classes on raw samples: two strided convolutions and a mean, with random weights."""
    from onnx import helper

    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["a"], strides=[8]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], strides=[4]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "last"], ["g"]),
        helper.make_node("Softmax", ["g"], ["output"]),
    ]
    constants = {
        "first": random.normal(0, 0.1, (8, 2, 32)).astype(np.float32),
        "second": random.normal(0, 0.1, (16, 8, 8)).astype(np.float32),
        "last": random.normal(0, 0.1, (16, 2)).astype(np.float32),
    }
    model = graph(nodes, constants, [None, 2, config.window_samples], [None, 2])
    raw = RawInput(channels=[0, 1], center=[0.0, 0.0], scale=[1.0, 1.0], layout="channel_sample")
    return write_bundle(folder, task_bundle(model, _samples(config)[:4], raw=raw, **_form(config)))


_MODELS: Final[dict[str, Callable[[Path, SimulatorConfig], Path]]] = {
    "autoencoder": _autoencoder,
    "classifier": _classifier,
    "convolutional": _convolutional,
}


# --- both at once -------------------------------------------------------------------------------------------------


def _seconds(
    bundle: Path, folder: Path, config: SimulatorConfig, rate_hz: float, windows: int, **pipeline: object
) -> tuple[float, float]:
    """CPU seconds for one window, of the agent and of the loop."""
    recording = folder / "recording.npz"
    write_recording(simulated(config, int(windows * 1.2 + 6 * rate_hz)), recording)
    source = {"kind": "replay", "path": str(recording), "rate_hz": rate_hz, "hold_until_model": True}
    line = [sys.executable, __file__, "loop", str(bundle), str(recording), str(rate_hz), str(windows)]
    with agent_beside(bundle, source, **pipeline) as agent:
        wait_for_windows(agent, int(windows * _WARM_UP))
        cpu, before = cpu_seconds(agent.pid), agent.windows()
        theirs = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120).stdout
        return (cpu_seconds(agent.pid) - cpu) / (agent.windows() - before), float(theirs)


def rows() -> list[Row]:
    """The figures."""
    found: list[Row] = []
    for model, make in _MODELS.items():
        for samples in _SIZES:
            with tempfile.TemporaryDirectory(prefix="wheeltapper-bench-") as name:
                config = SimulatorConfig(window_samples=samples)
                bundle = make(Path(name, "bundle"), config)
                ours, theirs = _seconds(bundle, Path(name), config, _FAST_HZ, 1200)
                title = f"{model}, {samples} samples, {_FAST_HZ:g} a second"
                found.append(row(f"{title}: CPU a window, agent over loop", ours / theirs, at_most=1.25))
                found.append(row(f"{title}: CPU a window, agent (us)", ours * 1e6))
                if model == "autoencoder" and samples == _SIZES[-1]:
                    title = f"{model}, {samples} samples, {_SLOW_HZ:g} a second"
                    ours, theirs = _seconds(bundle, Path(name), config, _SLOW_HZ, 200)
                    found.append(row(f"{title}: CPU a window, agent over loop", ours / theirs, at_most=1.25))
                    ours, theirs = _seconds(bundle, Path(name), config, _SLOW_HZ, 200, gather_seconds=0.0)
                    found.append(row(f"{title}, nothing gathered: the same", ours / theirs))
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["loop"]:
        loop(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
    else:
        main(rows, "CPU a window through the whole agent")
