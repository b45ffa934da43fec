"""The output that is meant is the one that is used; weights from other files never are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.agent import tflite_writer as tflite
from tests.agent.bundles import make_bundle, write_bundle
from tests.legacy import needs_onnx
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.runtimes import load_model
from wheeltapper_agent.model.tensors import Tensor, encode
from wheeltapper_protocols.errors import ProtocolError

BOARD = Profile(name="test")


def values(windows: int = 3, width: int = 4) -> NDArray[np.float32]:
    return np.linspace(-3, 3, windows * width, dtype=np.float32).reshape(windows, width)


@needs_onnx
@pytest.mark.parametrize("names", [("latent", "score"), ("score", "latent")])
def test_the_named_output_of_an_onnx_model_whatever_the_order(names: tuple[str, str]) -> None:
    from onnx import helper

    from tests.agent.onnx_nets import net, value

    nodes = [helper.make_node("Add", ["x", "x"], ["score"]), helper.make_node("Neg", ["x"], ["latent"])]
    content = net(nodes, [value("x", [None, 4])], [value(name, [None, 4]) for name in names])
    np.testing.assert_allclose(load_model(content, "onnx", BOARD, output="score").run(values()), 2 * values())
    np.testing.assert_allclose(load_model(content, "onnx", BOARD, output="latent").run(values()), -values())
    for output in (None, "other"):
        with pytest.raises(AgentError) as raised:
            load_model(content, "onnx", BOARD, output=output).run(values())
        assert raised.value.code == "runtime.output"


@needs_onnx
def test_a_classifier_with_its_labels_first(tmp_path: Path) -> None:
    from onnx import helper

    from tests.agent.onnx_nets import INT64, net, value

    nodes = [
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        helper.make_node("Softmax", ["x"], ["p"]),
    ]
    content = net(nodes, [value("x", [None, 4])], [value("label", [None], INT64), value("p", [None, 4])])
    found = load_model(content, "onnx", BOARD, output="p").run(values())
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)
    with pytest.raises(ProtocolError) as raised:
        load_bundle(write_bundle(tmp_path, make_bundle(runtime="onnx", content=content)))
    assert raised.value.code == "runtime.output"
    assert "label, p" in raised.value.message


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(
    ("signature", "output", "gain"),
    [
        ("label", None, 0.1),
        ("label", "y", 0.1),
        ("score", "twice", 2.0),
        ("score", "b_out", 2.0),
        ("score", "other", 0.1),
    ],
)
def test_the_named_signature_of_a_tflite_model(apart: bool, signature: str, output: str | None, gain: float) -> None:
    content = tflite.two_signatures(4, apart)
    model = load_model(content, "tflite", BOARD, output=output, signature=signature)
    for _ in range(2):
        np.testing.assert_allclose(model.run(values()), gain * values(), rtol=1e-6)


def test_two_signatures_are_refused_when_a_bundle_is_loaded(tmp_path: Path) -> None:
    files = make_bundle(runtime="tflite", content=tflite.two_signatures(26))
    with pytest.raises(ProtocolError) as raised:
        load_bundle(write_bundle(tmp_path / "unnamed", files))
    assert raised.value.code == "runtime.signature"
    files = make_bundle(runtime="tflite", content=tflite.two_signatures(26), signature="score", output="twice")
    bundle = load_bundle(write_bundle(tmp_path / "named", files))
    np.testing.assert_allclose(bundle.model.run(values(2, 26)), 2 * values(2, 26), rtol=1e-6)


@needs_onnx
@pytest.mark.parametrize("inside", [True, False], ids=["relative", "absolute"])
def test_weights_of_other_files_are_not_read(tmp_path: Path, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    from tests.agent.bundles import gain_model

    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.float32(7.0).tobytes())
    model = onnx.load_from_string(gain_model())
    gain = model.graph.initializer[0]
    for name in ("raw_data", "float_data"):
        gain.ClearField(name)
    gain.data_location = onnx.TensorProto.EXTERNAL
    gain.external_data.add(key="location", value="weights.bin" if inside else str(tmp_path / "weights.bin"))
    content = model.SerializeToString()
    with pytest.raises(AgentError) as raised:
        load_model(content, "onnx", BOARD)
    assert raised.value.code == "runtime.external_data"
    with pytest.raises(ProtocolError) as refused:
        load_bundle(write_bundle(tmp_path / "bundle", make_bundle(runtime="onnx", content=content)))
    assert refused.value.code == "runtime.external_data"
    assert "weights.bin" in refused.value.message


@needs_onnx
def test_the_cause_of_a_refusal_is_not_cut_off() -> None:
    import onnx
    from onnx import helper

    from tests.agent.bundles import gain_model
    from tests.agent.onnx_nets import net, value

    newer = onnx.load_from_string(gain_model())
    newer.ir_version = 99
    with pytest.raises(AgentError, match=r"Unsupported model IR version: 99, max supported IR version: \d+"):
        load_model(newer.SerializeToString(), "onnx", BOARD)
    nodes = [helper.make_node("Wheeltap" * 60, ["x"], ["y"], domain="org.nowhere")]
    model = onnx.load_from_string(net(nodes, [value("x", [None, 4])], [value("y", [None, 4])]))
    model.opset_import.append(helper.make_opsetid("org.nowhere", 1))
    with pytest.raises(AgentError, match="not a registered function/op"):
        load_model(model.SerializeToString(), "onnx", BOARD)


def test_the_cause_of_a_tflite_refusal() -> None:
    with pytest.raises(AgentError, match="Wheeltap"):
        load_model(tflite.custom_net(4), "tflite", BOARD)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_whole_numbers_are_rounded(dtype: str) -> None:
    assert encode(Tensor("x", (None,), dtype), np.array([0.9, 1.4, 2.5], np.float32)).tolist() == [1, 1, 2]


def test_half_precision_saturates() -> None:
    held = encode(Tensor("x", (None,), "float16"), np.array([1e6, -1e6, np.inf, np.nan, 2.0], np.float32))
    assert held.dtype == np.float16
    assert held[:3].tolist() == [65504.0, -65504.0, 65504.0]
    assert np.isnan(held[3])


@needs_onnx
@pytest.mark.parametrize("kind", ["INT32", "INT64"])
def test_an_integer_input_is_refused(tmp_path: Path, kind: str) -> None:
    from onnx import TensorProto, helper

    from tests.agent.onnx_nets import net, value

    nodes = [helper.make_node("Cast", ["x"], ["y"], to=1)]
    content = net(nodes, [value("x", [None, 26], getattr(TensorProto, kind))], [value("y", [None, 26])])
    files: dict[str, Any] = make_bundle(runtime="onnx", content=content)
    with pytest.raises(ProtocolError) as raised:
        load_bundle(write_bundle(tmp_path, files))
    assert raised.value.code == "runtime.tensors"
