"""TensorFlow Lite models, run by ``ai-edge-litert`` or by ``tflite-runtime`` 2.14: the same interpreter in two
packages.

Some operators keep a state from one call to the next. A model with such an operator gives an output that depends on
earlier windows, so golden vectors cannot test it and it cannot be swapped between two windows.

Invariants:
    * Resource variables, and operators that take one time step a call, are refused (``runtime.stateful``).
    * Operators that take a whole sequence in one call are allowed; their state is set to zero before each call.
    * Any other state is found when the model is loaded, by running the same input twice.
    * An interpreter is used by one thread at a time.
    * The signature and the output that the manifest names are used, wherever they are in the file.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.inference import TensorModel, announce, stateful_error
from wheeltapper_agent.model.tensors import Tensor, with_specs
from wheeltapper_protocols.errors import WireError, brief
from wheeltapper_protocols.manifest.manifest import TensorSpec
from wheeltapper_protocols.manifest.model_file import chosen_graph, chosen_output
from wheeltapper_protocols.manifest.model_tensor import ModelGraph, ModelTensor

__all__ = ["PACKAGES", "TfliteModel"]

PACKAGES: Final = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
"""Import name by the name of the distribution on PyPI."""
_DELEGATE: Final = "delegate:"
_IDENTIFIER: Final = b"TFL3"
_VARIABLE_OPS: Final = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"})
_STEP_OPS: Final = frozenset({"SVDF", "RNN", "LSTM"})
"""Operators that take one time step a call and keep a state for the next."""
_SEQUENCE_OPS: Final = frozenset(
    {
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        "BIDIRECTIONAL_SEQUENCE_RNN",
    }
)
"""Operators that take a whole sequence in one call."""


class TfliteModel(TensorModel):
    """A TFLite model in an ``Interpreter``.

    Args:
        content: the model file.
        package: a key of :data:`PACKAGES`.
        providers: entries ``delegate:<path>`` name shared libraries that are tried first, in this order; XNNPACK and
            the built-in kernels come last. Other entries are ignored.
        threads: for the work within one operator.
        specs: scale and zero point of inputs and outputs whose file does not say them, from the manifest.
        output: the output that is read, by the tensor's name or the signature's; None: the only one.
        signature: the signature that is run; None: the only one.

    Raises:
        AgentError: ``runtime.load``, ``runtime.stateful``, ``runtime.tensors``, ``runtime.output``,
            ``runtime.signature``, ``runtime.external_data``.
        ImportError: the package is not installed, or was built for another numpy.
    """

    def __init__(
        self,
        content: bytes,
        package: str = "ai-edge-litert",
        providers: Sequence[str] = (),
        threads: int = 1,
        specs: Sequence[TensorSpec] = (),
        output: str | None = None,
        signature: str | None = None,
    ) -> None:
        if content[4:8] != _IDENTIFIER:
            raise AgentError("runtime.load", "the model is not a TFLite file")
        graph, chosen = _graph(content, output, signature)
        library = importlib.import_module(f"{PACKAGES[package]}.interpreter")
        self._lock = threading.Lock()
        self._content = content  # keeps the bytes alive: the interpreter reads the weights from them
        self._interpreter, delegate = _interpreter(library, content, package, providers, threads)
        operators = self._operators()
        self._resets = bool(operators.keys() & _SEQUENCE_OPS)
        self._refuse_stateful_operators(operators)
        if not graph.inputs or not graph.outputs:
            raise AgentError("runtime.load", "the model has no input or no output")
        inputs = with_specs([self._tensor(graph, tensor) for tensor in graph.inputs], specs)
        outputs = with_specs([self._tensor(graph, tensor) for tensor in graph.outputs], specs)
        self._input_indices = [tensor.index for tensor in graph.inputs]
        self._output_indices = [tensor.index for tensor in graph.outputs]
        self._names = [tensor.alias for tensor in graph.inputs], [tensor.alias for tensor in graph.outputs]
        self._signature = self._interpreter.get_signature_runner(graph.signature) if graph.subgraph else None
        self._shapes = [tuple(1 if length is None else length for length in tensor.shape) for tensor in inputs]
        if not delegate:
            delegate = "XNNPACK" if "DELEGATE" in operators else "CPU"
        batch = self._shapes[0][0] if self._shapes[0] else 1
        super().__init__(f"{package}/{delegate}", inputs, outputs, batch, chosen)
        self._refuse_stateful(self._shapes)

    def _tensor(self, graph: ModelGraph, described: ModelTensor) -> Tensor:
        """Return an input or output: as the interpreter describes it, or the file if it is in another subgraph."""
        if not graph.subgraph:
            entries = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
            for entry in entries:
                if int(entry["index"]) == described.index:
                    return _tensor(entry)
        return Tensor(described.name, described.shape, described.dtype, described.scale, described.zero_point)

    def _operators(self) -> dict[str, list[tuple[int, ...]]]:
        """Return, for each operator by its name, the shape of the first input of each of its uses."""
        shapes = {int(entry["index"]): entry["shape"] for entry in self._interpreter.get_tensor_details()}
        found: dict[str, list[tuple[int, ...]]] = {}
        for entry in self._interpreter._get_ops_details():
            first = int(entry["inputs"][0]) if len(entry["inputs"]) else -1
            shape = tuple(int(length) for length in shapes.get(first, ()))
            found.setdefault(str(entry["op_name"]), []).append(shape)
        return found

    def _refuse_stateful_operators(self, operators: dict[str, list[tuple[int, ...]]]) -> None:
        """Raise ``runtime.stateful`` if an operator keeps a state from one call to the next."""
        stateful = operators.keys() & (_VARIABLE_OPS | _STEP_OPS)
        for name in operators.keys() & _SEQUENCE_OPS:
            if any(shape[:2] == (1, 1) for shape in operators[name]):
                stateful = stateful | {name}
        if stateful:
            raise stateful_error(f"{', '.join(sorted(stateful))} keeps a state from one window to the next")

    def _invoke(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See :meth:`TensorModel._invoke`; inputs of another shape than before resize the interpreter's tensors."""
        with self._lock:
            try:
                if self._signature is not None:
                    found = self._signature(**dict(zip(self._names[0], arrays, strict=True)))
                    return [found[name] for name in self._names[1]]
                shapes = [array.shape for array in arrays]
                if shapes != self._shapes:
                    self._resize(shapes)
                for index, array in zip(self._input_indices, arrays, strict=True):
                    self._interpreter.set_tensor(index, array)
                if self._resets:
                    self._interpreter.reset_all_variables()
                self._interpreter.invoke()
                return [self._interpreter.get_tensor(index) for index in self._output_indices]
            except (RuntimeError, ValueError) as error:
                raise AgentError("runtime.run", f"the model failed: {brief(error)}") from error

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        """Allocate the interpreter's tensors for inputs of these shapes."""
        for index, shape in zip(self._input_indices, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _graph(content: bytes, output: str | None, signature: str | None) -> tuple[ModelGraph, int | None]:
    """Return the signature that is run, and which of its outputs is read; None: it has several and none is named."""
    try:
        graph = chosen_graph("tflite", content, signature)
        several = output is None and len(graph.outputs) != 1
        return graph, None if several else chosen_output(graph.outputs, output)
    except WireError as error:
        raise AgentError(error.code, error.message) from error


def _tensor(entry: dict[str, Any]) -> Tensor:
    """Return the tensor that the interpreter describes by ``entry``."""
    name = str(entry["name"])
    parameters = entry["quantization_parameters"]
    if len(parameters["scales"]) > 1:
        raise AgentError("runtime.tensors", f"{name} is quantised per channel; quantise inputs and outputs per tensor")
    scale, zero_point = entry["quantization"]
    signature = entry.get("shape_signature", entry["shape"])
    shape = tuple(int(length) if length >= 0 else None for length in signature)
    dtype = np.dtype(entry["dtype"]).name
    if np.dtype(entry["dtype"]).kind not in "fiub":
        raise AgentError("runtime.tensors", f"{name} is {dtype}; only tensors of numbers can be used")
    return Tensor(name, shape, dtype, float(scale), int(zero_point))


def _interpreter(library: Any, content: bytes, package: str, providers: Sequence[str], threads: int) -> tuple[Any, str]:
    """Return an interpreter with its tensors allocated, and the name of the delegate that it uses.

    The name is empty where no delegate of ``providers`` works.
    """
    paths = [name.removeprefix(_DELEGATE) for name in providers if name.startswith(_DELEGATE)]
    for name in paths:
        try:
            ctypes.CDLL(name)  # fails cleanly; load_delegate would leave a broken object behind
            delegates = [library.load_delegate(name)]
            interpreter = library.Interpreter(
                model_content=content, num_threads=threads, experimental_delegates=delegates
            )
            interpreter.allocate_tensors()
        except (OSError, RuntimeError, ValueError) as error:
            announce(logging.WARNING, f"{package} cannot use {name} here: {brief(error)}")
        else:
            return interpreter, name.rpartition("/")[2]
    try:
        interpreter = library.Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise AgentError("runtime.load", f"the model cannot be loaded: {brief(error)}") from error
    return interpreter, ""
