"""Models that nobody here made, through the port; what they must give comes from their publishers or from oracles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.agent.model.tensor_runs import run_all
from tests.legacy import needs_onnx
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.runtimes import load_model

pytestmark = pytest.mark.data
BOARD = Profile(name="test")
HISTOGRAM = "normal_id_01_00000000_hist_librosa.bin"
TFLITE = {
    "ad01_fp32.tflite": (640,),
    "ad01_int8.tflite": (640,),
    "hello_world_int8.tflite": (1,),
    "kws_ref_model.tflite": (49, 10, 1),
    "micro_speech_quantized.tflite": (1960,),
    "trained_lstm_int8.tflite": (28, 28),
}


def tflite(data_dir: Path, name: str) -> Any:
    return load_model((data_dir / "models" / name).read_bytes(), "tflite", BOARD)


def noise(windows: int, shape: tuple[int, ...], scale: float = 1.0) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0, scale, (windows, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", sorted(TFLITE))
def test_every_tflite_model_runs(data_dir: Path, name: str) -> None:
    model = tflite(data_dir, name)
    values = noise(3, TFLITE[name])
    together = model.run(values)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    for row in (2, 0, 1):
        np.testing.assert_array_equal(model.run(values[row : row + 1])[0], together[row])


def test_every_model_of_the_folder_is_here(data_dir: Path) -> None:
    assert {path.name for path in (data_dir / "models").glob("*.tflite")} == set(TFLITE)
    assert [path.name for path in (data_dir / "models").glob("*.onnx")] == ["mnist.onnx"]


def test_the_sine_that_a_model_learnt(data_dir: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 50, dtype=np.float32)[:, None]
    found = tflite(data_dir, "hello_world_int8.tflite").run(angle)
    assert np.abs(found - np.sin(angle)).max() < 0.2
    assert np.abs(found - np.sin(angle)).mean() < 0.06


def test_a_sequence_model_begins_each_window_anew(data_dir: Path) -> None:
    model = tflite(data_dir, "trained_lstm_int8.tflite")
    values = np.abs(noise(40, (28, 28), 0.4)).clip(0, 1)
    alone = [model.run(row[None])[0] for row in values]
    np.testing.assert_array_equal(model.run(values[::-1])[::-1], np.stack(alone))
    np.testing.assert_allclose(model.run(values).sum(axis=1), 1.0, atol=0.05)


def test_probabilities_of_keywords(data_dir: Path) -> None:
    for name in ("kws_ref_model.tflite", "micro_speech_quantized.tflite"):
        found = tflite(data_dir, name).run(noise(5, TFLITE[name], 20.0))
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=0.05)


def test_int8_and_float_of_one_model_agree(data_dir: Path) -> None:
    """MLPerf Tiny's anomaly detector on log-mel-like frames: the published errors differ by 6 %."""
    values = noise(50, (640,), 3.0) - 20.0
    errors = [
        float(np.mean((tflite(data_dir, name).run(values) - values) ** 2))
        for name in ("ad01_fp32.tflite", "ad01_int8.tflite")
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


@pytest.mark.parametrize(("name", "wanted"), [("ad01_fp32.tflite", 9.707099), ("ad01_int8.tflite", 10.265210)])
def test_the_published_error_of_mlperf_tiny(data_dir: Path, name: str, wanted: float) -> None:
    """The mean squared error over 196 windows of 5 frames of one ToyCar recording."""
    found = next(iter(data_dir.rglob(HISTOGRAM)), None)
    if found is None:
        pytest.skip(f"the data folder does not hold {HISTOGRAM}")
    frames = np.fromfile(found, dtype="<f4").reshape(200, 128)
    windows = np.stack([frames[first : first + 5].ravel() for first in range(196)])
    errors = np.mean((tflite(data_dir, name).run(windows) - windows) ** 2)
    assert float(errors) == pytest.approx(wanted, rel=1e-3)


@needs_onnx
def test_mnist(data_dir: Path) -> None:
    model = load_model((data_dir / "models/mnist.onnx").read_bytes(), "onnx", BOARD)
    ring = np.zeros((28, 28), np.float32)
    y, x = np.mgrid[:28, :28]
    ring[np.abs(np.hypot(x - 13.5, y - 13.5) - 7.5) < 1.5] = 255.0
    stroke = np.zeros((28, 28), np.float32)
    stroke[5:23, 13:15] = 255.0
    found = model.run(np.stack([ring, stroke])[:, None])
    assert found.argmax(axis=1).tolist() == [0, 1]


@needs_onnx
def test_the_28_operators(data_dir: Path) -> None:
    from tests.agent.onnx_nets import load_tensor

    folders = sorted((data_dir / "models/onnx_ops").iterdir())
    assert len(folders) == 28
    for folder in folders:
        model = load_model((folder / "model.onnx").read_bytes(), "onnx", BOARD)
        cases = folder / "test_data_set_0"
        inputs = [load_tensor((cases / f"input_{k}.pb").read_bytes()) for k in range(len(model.inputs))]
        outputs = [load_tensor((cases / f"output_{k}.pb").read_bytes()) for k in range(len(model.outputs))]
        assert len(list(cases.iterdir())) == len(inputs) + len(outputs), folder.name
        for expected, found in zip(outputs, run_all(model, inputs, raw=True), strict=True):
            assert (expected.dtype, expected.shape) == (found.dtype, found.shape), folder.name
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0, err_msg=folder.name)


@needs_onnx
def test_the_wrong_input_is_refused(data_dir: Path) -> None:
    model = load_model((data_dir / "models/mnist.onnx").read_bytes(), "onnx", BOARD)
    for values in (noise(1, (784,)), noise(1, (3, 28, 28)), noise(0, (1, 28, 28))):
        with pytest.raises(AgentError) as raised:
            model.run(values)
        assert raised.value.code == "runtime.shape"
