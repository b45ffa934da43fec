"""The runtimes behind their port: conversions, shapes, state, choice; and every model of the data folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.agent import tflite_writer as tflite
from tests.agent.bundles import gain_model, make_bundle, write_bundle
from tests.agent.model.tensor_runs import run_all
from tests.legacy import LEGACY, needs_onnx
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model import inference
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.runtimes import load_model
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_agent.model.tensors import Tensor, decode, encode, fitted, with_specs
from wheeltapper_protocols.manifest.manifest import TensorSpec

BOARD = Profile(name="test")
TFLITE = "tflite-runtime" if LEGACY else "ai-edge-litert"


def ramp(windows: int, width: int) -> NDArray[np.float32]:
    return np.linspace(-3, 3, windows * width, dtype=np.float32).reshape(windows, width)


# --- conversion -------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["int8", "uint8", "int16"]),
    st.floats(1e-3, 10.0),
    st.integers(0, 100),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
)
def test_quantised_values_saturate_and_are_else_half_a_step_off(
    dtype: str, scale: float, zero_point: int, values: list[float]
) -> None:
    tensor = Tensor("x", (None,), dtype, scale, zero_point)
    real = np.array(values, dtype=np.float32)
    held = encode(tensor, real)
    assert held.dtype == dtype
    limits = np.iinfo(dtype)
    low, high = ((limit - zero_point) * scale for limit in (limits.min, limits.max))
    wanted = np.clip(real.astype(np.float64), low, high)
    assert np.all(np.abs(decode(tensor, held) - wanted) <= scale * 0.5001 + np.abs(wanted) * 1e-5)


def test_halves_go_to_even_as_in_the_standard() -> None:
    tensor = Tensor("x", (None,), "int8", 1.0, 0)
    assert encode(tensor, np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)).tolist() == [0, 2, 2, 0, -2]


def test_what_integers_cannot_hold() -> None:
    tensor = Tensor("x", (None,), "int8", 0.1, 7)
    assert encode(tensor, np.array([np.inf, -np.inf, np.nan, 3e38], np.float32)).tolist() == [127, -128, 7, 127]
    with pytest.raises(AgentError) as raised:
        encode(replace(tensor, scale=0.0), np.zeros(1, np.float32))
    assert raised.value.code == "runtime.tensors"
    labels = Tensor("label", (None,), "int64")
    assert decode(labels, np.array([3, 4])).tolist() == [3.0, 4.0]


def test_float32_is_not_copied() -> None:
    values = ramp(2, 3)
    assert encode(Tensor("x", (None, 3), "float32"), values) is values
    assert decode(Tensor("x", (None, 3), "float32"), values) is values


@pytest.mark.parametrize(
    ("shape", "given_shape", "fits"),
    [
        ((None, 4), (3, 4), True),
        ((1, 4), (1, 4), True),
        ((1, 4, 1), (1, 4), True),
        ((1, 1, 4), (1, 4, 1), True),
        ((1, 4), (1, 5), False),
        ((1, 2, 2), (1, 4), False),
        ((None, 4), (4,), False),
    ],
)
def test_shapes(shape: tuple[int | None, ...], given_shape: tuple[int, ...], fits: bool) -> None:
    tensor = Tensor("x", shape, "float32")
    if fits:
        assert fitted(tensor, np.zeros(given_shape)).size == np.prod(given_shape)
        return
    with pytest.raises(AgentError) as raised:
        fitted(tensor, np.zeros(given_shape))
    assert raised.value.code == "runtime.shape"


@pytest.mark.parametrize(
    ("tensor", "spec"),
    [
        (Tensor("x", (1,), "float32"), TensorSpec(name="x", scale=0.1)),
        (Tensor("x", (1,), "uint8"), TensorSpec(name="x", scale=0.1, zero_point=-1)),
        (Tensor("x", (1,), "int8"), TensorSpec(name="x", scale=0.1, zero_point=128)),
        (Tensor("x", (1,), "int8", 0.2, 0), TensorSpec(name="x", scale=0.1)),
    ],
)
def test_a_spec_that_cannot_be(tensor: Tensor, spec: TensorSpec) -> None:
    with pytest.raises(AgentError) as raised:
        with_specs([tensor], [spec])
    assert raised.value.code == "runtime.tensors"


# --- TensorFlow Lite --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [1, 5])
def test_tflite_float_and_int8(windows: int) -> None:
    values = ramp(windows, 8)
    plain = load_model(tflite.gain_net(8, 0.7), "tflite", BOARD)
    assert plain.provider.startswith(f"{TFLITE}/")
    np.testing.assert_allclose(plain.run(values), values * np.float32(0.7), rtol=1e-6)
    small = load_model(tflite.gain_net(8, 0.7, "int8", limit=4.0), "tflite", BOARD)
    assert (small.inputs[0].dtype, small.inputs[0].shape) == ("int8", (None, 8))
    np.testing.assert_allclose(small.run(values), values * 0.7, atol=1.1 * 4.0 / 127)


def test_a_window_that_is_not_a_number_stays_one() -> None:
    small = load_model(tflite.gain_net(4, 0.7, "int8", limit=4.0), "tflite", BOARD)
    values = ramp(3, 4)
    values[1, 2] = np.nan
    found = small.run(values)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


def test_tflite_several_inputs_and_outputs() -> None:
    found = load_model(tflite.sum_net(3), "tflite", BOARD)
    assert [tensor.name for tensor in (*found.inputs, *found.outputs)] == ["left", "right", "total", "twice"]
    left, right = ramp(1, 3), np.ones((1, 3), np.float32)
    total, twice = run_all(found, [left, right])
    np.testing.assert_allclose(total, left + 1)
    np.testing.assert_allclose(twice, 2 * total)
    for arrays in ([left], [left, right[:, :2]]):
        with pytest.raises(AgentError) as raised:
            run_all(found, arrays)
        assert raised.value.code == "runtime.shape"
    with pytest.raises(AgentError) as raised:
        found.run(left)
    assert raised.value.code == "runtime.shape"


def test_a_model_that_counts_is_refused() -> None:
    with pytest.raises(AgentError) as raised:
        load_model(tflite.counting_net(3), "tflite", BOARD)
    assert raised.value.code == "runtime.stateful"
    assert "VAR_HANDLE" in raised.value.message


def test_memory_that_the_graph_does_not_show_is_found_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    from wheeltapper_agent.model import tflite as runtime_tflite

    monkeypatch.setattr(runtime_tflite, "_VARIABLE_OPS", frozenset())
    content = tflite.counting_net(3)
    with pytest.raises(AgentError) as raised:
        load_model(content, "tflite", BOARD)
    # An old runtime already refuses to read a variable that nothing was written to.
    assert raised.value.code in (("runtime.run",) if LEGACY else ("runtime.stateful",))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (tflite.custom_net(4), "runtime.load"),
        (b"not a model", "runtime.load"),
        (b"", "runtime.load"),
        (tflite.gain_net(8)[:8], "runtime.load"),
    ],
)
def test_a_tflite_file_that_cannot_be_used(content: bytes, code: str) -> None:
    with pytest.raises(AgentError) as raised:
        load_model(content, "tflite", BOARD)
    assert raised.value.code == code


# --- ONNX -------------------------------------------------------------------------------------------------------------


@needs_onnx
def test_onnx_integers_by_the_manifest() -> None:
    from tests.agent.onnx_nets import int8_net

    specs = [TensorSpec(name="samples", scale=0.5, zero_point=3), TensorSpec(name="result", scale=0.25, zero_point=-5)]
    for batch in (None, 1):
        found = load_model(int8_net(4, batch), "onnx", BOARD, specs)
        values = ramp(3, 4)
        np.testing.assert_allclose(found.run(values), 2 * np.rint(values / 0.5) * 0.5, atol=1e-6)
    plain = load_model(int8_net(4), "onnx", BOARD)
    with pytest.raises(AgentError) as raised:
        plain.run(values)
    assert raised.value.code == "runtime.tensors"
    raw = run_all(plain, [np.array([[3, 4, 5, 6]], np.int8)], raw=True)[0]
    assert raw.tolist() == [[-5, -1, 3, 7]]
    with pytest.raises(AgentError) as raised:
        run_all(plain, [values[:1]], raw=True)
    assert raised.value.code == "runtime.tensors"
    with pytest.raises(AgentError) as raised:
        load_model(int8_net(4), "onnx", BOARD, [TensorSpec(name="sample", scale=0.5)])
    assert raised.value.code == "runtime.tensors"


@needs_onnx
def test_onnx_several_inputs_and_fixed_batches() -> None:
    from tests.agent.onnx_nets import fixed_net, sum_net

    total, twice = run_all(load_model(sum_net(3), "onnx", BOARD), [ramp(2, 3), ramp(2, 3)])
    np.testing.assert_allclose(total, 2 * ramp(2, 3))
    np.testing.assert_allclose(twice, 4 * ramp(2, 3))
    one = load_model(fixed_net(3, 1), "onnx", BOARD)
    np.testing.assert_allclose(one.run(ramp(5, 3)), 2 * ramp(5, 3))
    four = load_model(fixed_net(3, 4), "onnx", BOARD)
    np.testing.assert_allclose(four.run(ramp(4, 3)), 2 * ramp(4, 3))
    for windows in (0, 3, 5):
        with pytest.raises(AgentError) as raised:
            four.run(ramp(windows, 3))
        assert raised.value.code == "runtime.shape"


@needs_onnx
def test_an_onnx_file_that_cannot_be_used() -> None:
    from tests.agent.onnx_nets import unknown_net

    for content in (unknown_net(), gain_model()[:-20], b"\x00" * 100, b""):
        with pytest.raises(AgentError) as raised:
            load_model(content, "onnx", BOARD)
        assert raised.value.code == "runtime.load"


# --- choice -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(inference, "_ANNOUNCED", set())
    caplog.set_level(logging.INFO)
    return caplog


def test_the_profile_orders_and_what_is_missing_is_passed_over(runtime_log: pytest.LogCaptureFixture) -> None:
    other = "ai-edge-litert" if LEGACY else "tflite-runtime"
    board = replace(BOARD, runtimes=(other, TFLITE))
    for _ in range(2):
        assert load_model(tflite.gain_net(2), "tflite", board).provider.startswith(TFLITE)
    assert runtime_log.text.count(f"the runtime {other} cannot be used") == 1
    assert runtime_log.text.count(f"models run on {TFLITE}") == 1


@pytest.mark.parametrize(
    ("runtime", "runtimes", "code", "hint"),
    [
        ("tflite", ("tflite-runtime" if not LEGACY else "ai-edge-litert",), "runtime.missing", "wheeltapper-agent["),
        ("onnx", ("tflite-runtime",), "runtime.missing", "onnxruntime"),
        ("caffe", ("onnxruntime",), "runtime.unknown", "onnx"),
    ],
)
def test_no_runtime(runtime: str, runtimes: tuple[str, ...], code: str, hint: str) -> None:
    with pytest.raises(AgentError) as raised:
        load_model(tflite.gain_net(2), runtime, replace(BOARD, runtimes=runtimes))
    assert raised.value.code == code
    assert hint in raised.value.message


@needs_onnx
def test_onnx_falls_back_to_the_cpu_and_says_so(runtime_log: pytest.LogCaptureFixture) -> None:
    board = replace(BOARD, providers=("TensorrtExecutionProvider", "CPUExecutionProvider"))
    for _ in range(2):
        assert load_model(gain_model(), "onnx", board).provider == "onnxruntime/CPUExecutionProvider"
    assert runtime_log.text.count("onnxruntime does not offer TensorrtExecutionProvider") == 1


def test_tflite_falls_back_from_a_delegate_and_says_so(runtime_log: pytest.LogCaptureFixture) -> None:
    board = replace(BOARD, providers=("delegate:/usr/lib/libno_such_delegate.so",))
    found = load_model(tflite.gain_net(2), "tflite", board)
    assert found.provider == f"{TFLITE}/XNNPACK"
    assert runtime_log.text.count("cannot use /usr/lib/libno_such_delegate.so") == 1


# --- bundles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", [pytest.param("onnx", marks=needs_onnx), "tflite"])
def test_a_bundle_of_either_runtime_passes_its_self_test(tmp_path: Path, runtime: Any) -> None:
    bundle = load_bundle(write_bundle(tmp_path, make_bundle(runtime=runtime)))
    assert self_test(bundle)["output_error"] < 1e-4


def test_a_model_of_another_width_does_not_fit_the_features(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, make_bundle(runtime="tflite", content=tflite.gain_net(3))))
    with pytest.raises(AgentError) as raised:
        self_test(bundle)
    assert raised.value.code == "runtime.shape"


def test_a_dynamic_batch_is_fitted_like_a_fixed_one() -> None:
    for batch in (None, 1, 2):
        tensor = Tensor("x", (batch, 640, 1), "float32")
        values = np.arange(2 * 640, dtype=np.float32).reshape(2, 640)[: batch or 2]
        assert fitted(tensor, values).shape == (len(values), 640, 1)
    with pytest.raises(AgentError, match="takes"):
        fitted(Tensor("x", (None, 640, 1), "float32"), np.zeros((2, 320), np.float32))
    with pytest.raises(AgentError, match="takes"):
        fitted(Tensor("x", (None, 4), "float32"), np.zeros((4, 2), np.float32))


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "uint16"])
def test_whole_numbers_saturate(dtype: str) -> None:
    held = encode(
        Tensor("x", (None,), dtype, scale=1.0, zero_point=0), np.array([1e30, -1e30, np.nan, 7.0], np.float32)
    )
    limits = np.iinfo(dtype)
    assert held[0] > limits.max * 0.999
    assert held[1] == (limits.min if limits.min < 0 else 0)
    assert held[2:].tolist() == [0, 7]


def test_a_zero_point_of_sixteen_bits_can_be_declared() -> None:
    assert TensorSpec(name="x", scale=1.0, zero_point=32768).zero_point == 32768
    found = msgspec.json.decode(b'{"name": "x", "scale": 1.0, "zero_point": 65535}', type=TensorSpec)
    assert found.zero_point == 65535
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"name": "x", "scale": 1.0, "zero_point": 65536}', type=TensorSpec)


@needs_onnx
def test_an_onnx_model_with_random_numbers_is_refused() -> None:
    from onnx import helper

    from tests.agent.onnx_nets import net, value

    nodes = [helper.make_node("RandomNormalLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["y"])]
    with pytest.raises(AgentError) as raised:
        load_model(net(nodes, [value("x", [None, 4])], [value("y", [None, 4])]), "onnx", BOARD)
    assert raised.value.code == "runtime.stateful"


@needs_onnx
def test_onnx_takes_windows_with_axes_of_one_more_or_less() -> None:
    from onnx import helper

    from tests.agent.onnx_nets import net, value

    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    content = net(nodes, [value("x", [None, 4, 1])], [value("y", [None, 4, 1])])
    assert load_model(content, "onnx", BOARD).run(ramp(3, 4)).shape == (3, 4, 1)
