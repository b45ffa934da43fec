"""TensorFlow Lite, by ``ai-edge-litert`` or by ``tflite-runtime`` 2.14: the same interpreter in two packages.

State: an operator that keeps something from one call for the next makes a network's answer depend on what it was asked
before, and then neither the golden vectors nor a swap between two windows mean anything. Resource variables and
operators that take one time step a call are refused (``runtime.stateful``). Operators that read a whole sequence in one
call keep a state too, but only within it is it meant: it is set to zero before each call. What else there may be is
found by asking twice.

An interpreter is used by one thread at a time.
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
from wheeltapper_agent.model.inference import BaseNetwork, announce, stateful_error
from wheeltapper_agent.model.tensors import Tensor, with_specs
from wheeltapper_protocols.manifest.manifest import TensorSpec

__all__ = ["PACKAGES", "TfliteNetwork"]

PACKAGES: Final = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
"""Packages by distribution."""
_DELEGATE: Final = "delegate:"
_IDENTIFIER: Final = b"TFL3"
_VARIABLE_OPS: Final = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"})
_STEP_OPS: Final = frozenset({"SVDF", "RNN", "LSTM"})
"""They read one time step a call and keep the rest."""
_SEQUENCE_OPS: Final = frozenset(
    {
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        "BIDIRECTIONAL_SEQUENCE_RNN",
    }
)


class TfliteNetwork(BaseNetwork):
    """A network in an ``Interpreter``.

    Args:
        content: a TFLite file.
        package: a key of :data:`PACKAGES`.
        providers: ``delegate:<path>`` are tried first; XNNPACK and the built-in kernels come after.
        threads: within an operator.
        specs: quantisation of inputs and outputs where the file does not say it.

    Raises:
        AgentError: ``runtime.load``, ``runtime.stateful``, ``runtime.tensors``.
        ImportError: the package is not there, or not for this numpy.
    """

    def __init__(
        self,
        content: bytes,
        package: str = "ai-edge-litert",
        providers: Sequence[str] = (),
        threads: int = 1,
        specs: Sequence[TensorSpec] = (),
    ) -> None:
        if content[4:8] != _IDENTIFIER:
            raise AgentError("runtime.load", "the network is not a TFLite file")
        library = importlib.import_module(f"{PACKAGES[package]}.interpreter")
        self._lock = threading.Lock()
        self._content = content  # the interpreter reads weights from it
        self._interpreter, delegate = _interpreter(library, content, package, providers, threads)
        operators = self._operators()
        self._resets = bool(operators.keys() & _SEQUENCE_OPS)
        self._refuse_state(operators)
        given, made = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        inputs = with_specs([_tensor(entry) for entry in given], specs)
        outputs = with_specs([_tensor(entry) for entry in made], specs)
        if not inputs or not outputs:
            raise AgentError("runtime.load", "the network has no input or no output")
        self._input_indices = [int(entry["index"]) for entry in given]
        self._output_indices = [int(entry["index"]) for entry in made]
        self._shapes = [tuple(int(length) for length in entry["shape"]) for entry in given]
        if not delegate:
            delegate = "XNNPACK" if "DELEGATE" in operators else "CPU"
        super().__init__(f"{package}/{delegate}", inputs, outputs, self._shapes[0][0] if self._shapes[0] else 1)
        self._refuse_memory(self._shapes)

    def _operators(self) -> dict[str, list[tuple[int, ...]]]:
        """The shapes of the first inputs of each operator, by its name."""
        shapes = {int(entry["index"]): entry["shape"] for entry in self._interpreter.get_tensor_details()}
        found: dict[str, list[tuple[int, ...]]] = {}
        for entry in self._interpreter._get_ops_details():
            first = int(entry["inputs"][0]) if len(entry["inputs"]) else -1
            shape = tuple(int(length) for length in shapes.get(first, ()))
            found.setdefault(str(entry["op_name"]), []).append(shape)
        return found

    def _refuse_state(self, operators: dict[str, list[tuple[int, ...]]]) -> None:
        stateful = operators.keys() & (_VARIABLE_OPS | _STEP_OPS)
        for name in operators.keys() & _SEQUENCE_OPS:
            if any(shape[:2] == (1, 1) for shape in operators[name]):
                stateful = stateful | {name}
        if stateful:
            raise stateful_error(f"{', '.join(sorted(stateful))} keeps a state from one window for the next")

    def _invoke(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with self._lock:
            try:
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
                raise AgentError("runtime.run", f"the network failed: {str(error)[:300]}") from error

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        for index, shape in zip(self._input_indices, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _tensor(entry: dict[str, Any]) -> Tensor:
    name = str(entry["name"])
    parameters = entry["quantization_parameters"]
    if len(parameters["scales"]) > 1:
        raise AgentError("runtime.tensors", f"{name} is quantised by channel; inputs and outputs must not be")
    scale, zero_point = entry["quantization"]
    signature = entry.get("shape_signature", entry["shape"])
    shape = tuple(int(length) if length >= 0 else None for length in signature)
    dtype = np.dtype(entry["dtype"]).name
    if np.dtype(entry["dtype"]).kind not in "fiub":
        raise AgentError("runtime.tensors", f"{name} is {dtype}; only tensors of numbers can be used")
    return Tensor(name, shape, dtype, float(scale), int(zero_point))


def _interpreter(library: Any, content: bytes, package: str, providers: Sequence[str], threads: int) -> tuple[Any, str]:
    """An interpreter with its tensors allocated, and the name of the delegate that it uses, or nothing."""
    paths = [name.removeprefix(_DELEGATE) for name in providers if name.startswith(_DELEGATE)]
    for name in paths:
        try:
            ctypes.CDLL(name)  # load_delegate leaves a broken object behind where this fails
            delegates = [library.load_delegate(name)]
            made = library.Interpreter(model_content=content, num_threads=threads, experimental_delegates=delegates)
            made.allocate_tensors()
        except (OSError, RuntimeError, ValueError) as error:
            announce(logging.WARNING, f"{package} cannot use {name} here: {str(error)[:300]}")
        else:
            return made, name.rpartition("/")[2]
    try:
        made = library.Interpreter(model_content=content, num_threads=threads)
        made.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise AgentError("runtime.load", f"the network cannot be loaded: {str(error)[:300]}") from error
    return made, ""
