"""Whether a model's file is one that a device can run as the manifest says. Pure.

The fleet asks this before a release is signed and before it is published, the device before it loads one. So a release
that every device would refuse is refused where it is made, with the same code.

Invariants:
    * Which input, output and signature run is never a guess: there is one, or the manifest names it.
    * No byte outside of the model's file is read when it is loaded.
    * Inputs and outputs are floating-point numbers, or quantised with a known scale; nothing is cut to whole numbers.

What this module does not do: run the model, or know which operators a runtime has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.manifest import Manifest, TensorSpec
from wheeltapper_protocols.manifest.model_tensor import ModelGraph, ModelTensor
from wheeltapper_protocols.manifest.onnx_file import external_files, read_onnx
from wheeltapper_protocols.manifest.tflite_file import MAIN, has_external_buffers, read_tflite

__all__ = ["check_model_file", "chosen_graph", "chosen_output"]

_FLOATS: Final = ("float32", "float16", "float64")
_QUANTISED: Final = ("int8", "uint8", "int16", "uint16")


def check_model_file(manifest: Manifest, content: bytes) -> None:
    """Check the model's file of a bundle against its manifest.

    Args:
        manifest: of the bundle.
        content: the bytes of ``manifest.model_file``.

    Raises:
        WireError: ``runtime.load`` (no such file), ``runtime.external_data`` (weights in other files),
            ``runtime.signature``, ``runtime.inputs``, ``runtime.output`` (several, and none is named, or one is named
            that there is not), ``runtime.tensors`` (a type that cannot be used), ``runtime.shape`` (made for several
            windows a call).
    """
    graph = chosen_graph(manifest.runtime, content, manifest.signature)
    if not graph.inputs or not graph.outputs:
        raise WireError("runtime.load", "the model has no input or no output; export it again")
    if len(graph.inputs) > 1:
        raise WireError(
            "runtime.inputs",
            f"the model has {len(graph.inputs)} inputs ({_names(graph.inputs)}); export it with one",
        )
    output = graph.outputs[chosen_output(graph.outputs, manifest.output)]
    specs = manifest.tensors or ()
    for what, tensor in (("input", graph.inputs[0]), ("output", output)):
        _check_type(what, tensor, specs)
    shape = graph.inputs[0].shape
    if len(shape) > 1 and shape[0] not in (None, 1):
        text = f"the model takes {shape[0]} windows a call; export it for 1 or any number of windows"
        raise WireError("runtime.shape", text)


def chosen_graph(runtime: str, content: bytes, signature: str | None) -> ModelGraph:
    """Return the inputs and outputs of the signature that the manifest means.

    Args:
        runtime: ``onnx`` or ``tflite``.
        content: the model's file.
        signature: as the manifest names it; None: the only one.

    Raises:
        WireError: ``runtime.load``, ``runtime.external_data``, ``runtime.signature``.
    """
    if runtime == "onnx":
        if files := external_files(content):
            raise _external(", ".join(files[:5]))
        return read_onnx(content)
    if has_external_buffers(content):
        raise _external("external buffers")
    graphs = read_tflite(content)
    return graphs[_chosen_signature(graphs, signature)]


def _chosen_signature(graphs: Mapping[str, ModelGraph], signature: str | None) -> str:
    names = ", ".join(key for key in graphs if key != MAIN) or "none"
    if signature is None:
        if len(graphs) > 1:
            text = f"the model has {len(graphs)} signatures ({names}); name one as signature in the manifest"
            raise WireError("runtime.signature", text)
        return next(iter(graphs))
    if signature not in graphs or signature == MAIN:
        text = f"the manifest names the signature {signature!r}; the model has {names}"
        raise WireError("runtime.signature", text)
    return signature


def chosen_output(outputs: Sequence[ModelTensor], name: str | None) -> int:
    """Return which of ``outputs`` the manifest means; their order does not matter.

    Args:
        outputs: of the model, at least one.
        name: as the manifest names it; None: the only one.

    Raises:
        WireError: ``runtime.output``.
    """
    if name is None:
        if len(outputs) == 1:
            return 0
        text = f"the model has {len(outputs)} outputs ({_names(outputs)}); name one as output in the manifest"
        raise WireError("runtime.output", text)
    found = [place for place, tensor in enumerate(outputs) if tensor.called(name)]
    if len(found) != 1:
        raise WireError("runtime.output", f"the manifest names the output {name!r}; the model has {_names(outputs)}")
    return found[0]


def _check_type(what: str, tensor: ModelTensor, specs: Sequence[TensorSpec]) -> None:
    """Refuse what is neither a floating-point number nor quantised with a known scale."""
    if tensor.dtype in _FLOATS:
        return
    if tensor.dtype not in _QUANTISED:
        raise WireError(
            "runtime.tensors",
            f"the {what} {tensor.label} is {tensor.dtype}; export it as float32, or quantised to 8 or 16 bits",
        )
    if not tensor.scale and not any(tensor.called(spec.name) for spec in specs):
        raise WireError(
            "runtime.tensors",
            f"the {what} {tensor.label} is {tensor.dtype} without a scale; give it in the manifest's tensors",
        )


def _names(tensors: Sequence[ModelTensor]) -> str:
    return ", ".join(tensor.label for tensor in tensors)


def _external(which: str) -> WireError:
    return WireError(
        "runtime.external_data",
        f"the model has weights in other files ({which}), which no hash of the manifest covers; save it as one file",
    )
