"""Models that no device can run as the manifest says are refused, each with its code, from their bytes alone."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent import tflite_writer as tflite
from tests.agent.bundles import make_bundle
from tests.agent.tflite_writer import Net, Operator, TensorEntry
from tests.legacy import LEGACY, needs_onnx
from wheeltapper_protocols.errors import WireError, brief
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest, encode_manifest
from wheeltapper_protocols.manifest.model_file import check_model_file
from wheeltapper_protocols.manifest.onnx_file import external_files, read_onnx
from wheeltapper_protocols.manifest.tflite_file import read_tflite


def manifest(runtime: Any = "onnx", **changes: Any) -> Manifest:
    return decode_manifest(make_bundle(runtime=runtime, content=b"x", **changes)["manifest.json"])


def refused(content: bytes, runtime: str = "onnx", **changes: Any) -> WireError:
    with pytest.raises(WireError) as raised:
        check_model_file(manifest(runtime, **changes), content)
    return raised.value


def two_outputs(*names: str, kinds: tuple[int, ...] = (1, 1)) -> bytes:
    from onnx import helper

    from tests.agent.onnx_nets import net, value

    nodes = [helper.make_node("Add", ["x", "x"], ["double"]), helper.make_node("Neg", ["x"], ["minus"])]
    return net(
        nodes, [value("x", [None, 4])], [value(name, [None, 4], kind) for name, kind in zip(names, kinds, strict=True)]
    )


def typed(kind: int, shape: list[Any]) -> bytes:
    from onnx import helper

    from tests.agent.onnx_nets import net, value

    nodes = [helper.make_node("Cast", ["x"], ["y"], to=1)]
    return net(nodes, [value("x", shape, kind)], [value("y", shape)])


# --- ONNX -------------------------------------------------------------------------------------------------------------


@needs_onnx
@pytest.mark.parametrize("names", [("double", "minus"), ("minus", "double")])
def test_several_outputs_need_a_name(names: tuple[str, str]) -> None:
    content = two_outputs(*names)
    error = refused(content)
    assert error.code == "runtime.output"
    assert "double" in error.message
    assert "minus" in error.message
    check_model_file(manifest(output="double"), content)
    error = refused(content, output="triple")
    assert error.code == "runtime.output"
    assert "triple" in error.message


@needs_onnx
def test_one_output_may_be_named_rightly() -> None:
    content = two_outputs("double", kinds=(1,))
    check_model_file(manifest(output="double"), content)
    assert refused(content, output="minus").code == "runtime.output"


@needs_onnx
def test_several_inputs() -> None:
    from tests.agent.onnx_nets import sum_net

    error = refused(sum_net(3), output="total")
    assert error.code == "runtime.inputs"
    assert "left, right" in error.message


@needs_onnx
def test_weights_that_old_files_list_among_the_inputs_are_none() -> None:
    from onnx import helper

    from tests.agent.onnx_nets import net, value

    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    content = net(nodes, [value("w", [1]), value("x", [None, 4])], [value("y", [None, 4])], w=np.ones(1, np.float32))
    check_model_file(manifest(), content)
    assert [tensor.name for tensor in read_onnx(content).inputs] == ["x"]


@needs_onnx
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("FLOAT", ""),
        ("FLOAT16", ""),
        ("DOUBLE", ""),
        *(
            (name, "runtime.tensors")
            for name in ("INT32", "INT64", "UINT32", "UINT64", "BOOL", "STRING", "INT8", "BFLOAT16")
        ),
    ],
)
def test_types_of_an_input(kind: str, code: str) -> None:
    from onnx import TensorProto

    content = typed(getattr(TensorProto, kind), [None, 4])
    if not code:
        check_model_file(manifest(), content)
        return
    error = refused(content)
    assert error.code == code
    assert kind.lower() in error.message


@needs_onnx
def test_the_type_of_the_output_that_is_meant() -> None:
    from onnx import TensorProto

    content = two_outputs("double", "minus", kinds=(TensorProto.INT64, TensorProto.FLOAT))
    check_model_file(manifest(output="minus"), content)
    assert refused(content, output="double").code == "runtime.tensors"


@needs_onnx
def test_a_sequence_of_maps_can_be_beside_the_output_that_is_meant() -> None:
    import onnx
    from onnx import TensorProto, helper

    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, []))
    )
    model = onnx.load_from_string(two_outputs("double", kinds=(1,)))
    model.graph.output.append(helper.make_value_info("maps", kind))
    check_model_file(manifest(output="double"), model.SerializeToString())
    error = refused(model.SerializeToString(), output="maps")
    assert error.code == "runtime.tensors"
    assert "sequence" in error.message


@needs_onnx
def test_batches() -> None:
    for batch in (None, 1, "windows"):
        check_model_file(manifest(), typed(1, [batch, 4]))
    error = refused(typed(1, [8, 4]))
    assert error.code == "runtime.shape"
    assert "8 windows" in error.message


def _external(where: str, location: str) -> bytes:
    """A model with one external tensor at the place ``where``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model = onnx.load_from_string(two_outputs("double", kinds=(1,)))
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("w", 1, [4])])
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(constant)
    elif where == "subgraph":
        model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    elif where == "subgraph weights":
        inner.initializer.append(tensor)
        del inner.node[:]
        model.graph.node.append(helper.make_node("Loop", ["m", "c"], ["z"], body=inner))
    elif where == "sparse":
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, dims=[4]))
    elif where == "function":
        model.functions.append(helper.make_function("d", "f", [], ["w"], [constant], [helper.make_opsetid("", 17)]))
    elif where == "training":
        model.training_info.append(onnx.TrainingInfoProto(algorithm=inner))
    return bytes(model.SerializeToString())


@needs_onnx
@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize(
    "where", ["initializer", "attribute", "subgraph", "subgraph weights", "sparse", "function", "training"]
)
def test_weights_in_other_files(where: str, location: str) -> None:
    error = refused(_external(where, location))
    assert error.code == "runtime.external_data"
    assert location in error.message


# --- TensorFlow Lite --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [True, False])
def test_several_signatures_need_a_name(apart: bool) -> None:
    content = tflite.two_signatures(4, apart)
    error = refused(content, "tflite")
    assert error.code == "runtime.signature"
    assert "label, score" in error.message
    check_model_file(manifest("tflite", signature="label"), content)
    error = refused(content, "tflite", signature="score")
    assert error.code == "runtime.output"
    assert "other, twice" in error.message
    for name in ("twice", "b_out"):
        check_model_file(manifest("tflite", signature="score", output=name), content)
    assert refused(content, "tflite", signature="none").code == "runtime.signature"


def test_a_file_without_signatures_has_none_to_name() -> None:
    check_model_file(manifest("tflite"), tflite.gain_net(4))
    assert refused(tflite.gain_net(4), "tflite", signature="serve").code == "runtime.signature"
    assert refused(tflite.sum_net(4), "tflite", output="total").code == "runtime.inputs"


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint8", "bool"])
def test_types_of_a_tflite_input(dtype: str) -> None:
    entries = [TensorEntry("x", (1, 4), dtype), TensorEntry("y", (1, 4), dtype)]
    content = tflite.write(Net(entries, [Operator(tflite.ADD, (0, 0), (1,))], inputs=(0,), outputs=(1,)))
    error = refused(content, "tflite")
    assert error.code == "runtime.tensors"
    assert dtype in error.message


def test_a_signature_is_for_tflite_only() -> None:
    with pytest.raises(ValueError, match="TFLite"):
        manifest("onnx", signature="serve")


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, b"\xff" * 100, b"\x08\x00\x00\x00TFL3"])
def test_no_model(runtime: str, content: bytes) -> None:
    assert refused(content, runtime).code == "runtime.load"


@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    contents = [tflite.two_signatures(2), tflite.gain_net(2, dtype="int8")]
    if not LEGACY:
        contents.append(_external("subgraph", "w"))
    content = bytearray(data.draw(st.sampled_from(contents)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (read_onnx, external_files, read_tflite):
        with contextlib.suppress(WireError):
            read(cut)


# --- the manifest and messages ----------------------------------------------------------------------------------------


def test_the_names_are_written_only_where_they_are() -> None:
    plain = manifest("tflite")
    assert b"signature" not in encode_manifest(plain)
    assert b'"output":' not in encode_manifest(plain)
    named = manifest("tflite", signature="score", output="twice")
    assert decode_manifest(encode_manifest(named)) == named


def test_a_long_error_keeps_its_end() -> None:
    text = (
        "/a/very/long/path/of/a/source.cc:120 " * 40
        + "\nUnsupported model IR version: 99, max supported IR version: 11"
    )
    short = brief(text, 200)
    assert len(short) == 200
    assert short.startswith("/a/very")
    assert short.endswith("Unsupported model IR version: 99, max supported IR version: 11")
    assert brief("short\n text") == "short text"
