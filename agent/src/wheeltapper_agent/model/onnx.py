"""ONNX models, run by ONNX Runtime.

Invariants:
    * The model is loaded from the bytes that were verified, never from a file. A model with weights in other files is
      refused: ONNX Runtime would look for them in the working folder.
    * Worker threads do not spin while they wait: an idle agent uses no processor time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.inference import TensorModel, announce
from wheeltapper_agent.model.tensors import Tensor, with_specs
from wheeltapper_protocols.errors import WireError, brief
from wheeltapper_protocols.manifest.manifest import TensorSpec
from wheeltapper_protocols.manifest.model_file import chosen_graph

__all__ = ["OnnxModel"]

_CPU: Final = "CPUExecutionProvider"
_TYPES: Final = {"float": "float32", "double": "float64"} | {
    name: name for name in ("float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
}
"""Numpy's name for each element type that ONNX Runtime writes as ``tensor(…)``."""


class OnnxModel(TensorModel):
    """An ONNX model in an ``onnxruntime.InferenceSession``.

    Args:
        content: the model file.
        providers: ONNX Runtime's execution providers, most wanted first. One that is not available here is skipped, and
            the log says so. The CPU is always the last.
        threads: for the work within one operator.
        specs: scale and zero point of integer inputs and outputs, from the manifest.
        output: name of the only output that is computed; None: all.

    Raises:
        AgentError: ``runtime.load``, ``runtime.external_data``, ``runtime.stateful``, ``runtime.tensors``,
            ``runtime.output``.
    """

    def __init__(
        self,
        content: bytes,
        providers: Sequence[str] = (_CPU,),
        threads: int = 1,
        specs: Sequence[TensorSpec] = (),
        output: str | None = None,
    ) -> None:
        _refuse_external_data(content)
        self._session = _session(content, providers, threads)
        inputs = with_specs([_tensor(entry) for entry in self._session.get_inputs()], specs)
        outputs = with_specs([_tensor(entry) for entry in _wanted(self._session.get_outputs(), output)], specs)
        if not inputs or not outputs:
            raise AgentError("runtime.load", "the model has no input or no output")
        fixed_batch = inputs[0].shape[0] if inputs[0].shape else 1
        super().__init__(f"onnxruntime/{self._session.get_providers()[0]}", inputs, outputs, fixed_batch)
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]
        self._plain_rank = (
            len(inputs[0].shape)
            if len(inputs) == len(outputs) == 1
            and fixed_batch is None
            and inputs[0].dtype == outputs[0].dtype == "float32"
            else -1
        )
        """Number of axes of the input in the common case, in which nothing needs converting or copying; otherwise -1.
        """
        self._probe()

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :meth:`TensorModel.run`; the common case, float32 without conversion, takes a shorter way."""
        if model_input.ndim != self._plain_rank:
            return super().run(model_input)
        try:
            output: NDArray[np.float32] = self._session.run(self._output_names, {self._input_names[0]: model_input})[0]
        except Exception as error:  # onnxruntime raises classes of its own that it does not export
            raise AgentError("runtime.run", f"the model failed: {brief(error)}") from error
        return output

    def _probe(self) -> None:
        """Refuse a model that gives different outputs for the same input, as one with random numbers in it does."""
        shapes = [tuple(1 if length is None else length for length in tensor.shape) for tensor in self.inputs]
        try:
            self._refuse_stateful(shapes, exact=self.provider.endswith(_CPU))
        except AgentError as error:
            if (
                error.code != "runtime.run"
            ):  # an open axis may need to be longer than 1; the self-test runs the real shapes
                raise

    def _invoke(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See :meth:`TensorModel._invoke`."""
        try:
            found: list[NDArray[Any]] = self._session.run(
                self._output_names, dict(zip(self._input_names, arrays, strict=True))
            )
        except Exception as error:  # onnxruntime raises classes of its own that it does not export
            raise AgentError("runtime.run", f"the model failed: {brief(error)}") from error
        return found


def _refuse_external_data(content: bytes) -> None:
    """Raise an error where the runtime would read weights from other files, which nobody verified."""
    try:
        chosen_graph("onnx", content, None)
    except WireError as error:
        raise AgentError(error.code, error.message) from error


def _wanted(entries: Sequence[Any], name: str | None) -> list[Any]:
    """Return the outputs to compute: the one called ``name``, or all."""
    if name is None:
        return list(entries)
    found = [entry for entry in entries if entry.name == name]
    if len(found) != 1:
        names = ", ".join(str(entry.name) for entry in entries)
        raise AgentError("runtime.output", f"the manifest names the output {name!r}; the model has {names}")
    return found


def _tensor(entry: Any) -> Tensor:
    """Return the tensor that ONNX Runtime describes by ``entry``, a ``NodeArg``."""
    kind = str(entry.type).removeprefix("tensor(").removesuffix(")")
    if kind not in _TYPES:
        raise AgentError("runtime.tensors", f"{entry.name} is {entry.type}; only tensors of numbers can be used")
    shape = tuple(length if isinstance(length, int) and length >= 0 else None for length in entry.shape)
    return Tensor(str(entry.name), shape, _TYPES[kind])


def _session(content: bytes, providers: Sequence[str], threads: int) -> Any:
    """Return a session on the first execution provider that works; the CPU is tried last."""
    import onnxruntime  # costs 20 MB, which `status` and `enroll` do not need

    available = onnxruntime.get_available_providers()
    wanted = [name for name in providers if name.endswith("ExecutionProvider") and name != _CPU]
    usable = [name for name in wanted if name in available]
    if missing := [name for name in wanted if name not in available]:
        announce(
            logging.WARNING, f"onnxruntime does not offer {', '.join(missing)} here; it offers {', '.join(available)}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the form that was checked
    while True:
        try:
            return onnxruntime.InferenceSession(content, options, providers=[*usable, _CPU])
        except Exception as error:  # onnxruntime raises classes of its own that it does not export
            if not usable:
                raise AgentError("runtime.load", f"the model cannot be loaded: {brief(error)}") from error
            announce(logging.WARNING, f"onnxruntime cannot use {usable[0]} here: {brief(error)}")
            del usable[0]
