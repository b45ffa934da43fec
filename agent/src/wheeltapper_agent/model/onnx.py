"""ONNX Runtime: one thread, no spinning (an idle agent is quiet). Loads from bytes: what runs is what was verified."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.inference import BaseNetwork, announce
from wheeltapper_agent.model.tensors import Tensor, with_specs
from wheeltapper_protocols.manifest.manifest import TensorSpec

__all__ = ["OnnxNetwork"]

_CPU: Final = "CPUExecutionProvider"
_TYPES: Final = {"float": "float32", "double": "float64"} | {
    name: name for name in ("float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
}
"""Numpy's names of the types in ``tensor(…)``."""


class OnnxNetwork(BaseNetwork):
    """A network in an ``InferenceSession``.

    Args:
        content: an ONNX file.
        providers: in the order of preference; those that ONNX Runtime lacks here are passed over, and said so.
        threads: within an operator.
        specs: quantisation of inputs and outputs that are integers.

    Raises:
        AgentError: ``runtime.load``, ``runtime.tensors``.
    """

    def __init__(
        self,
        content: bytes,
        providers: Sequence[str] = (_CPU,),
        threads: int = 1,
        specs: Sequence[TensorSpec] = (),
    ) -> None:
        self._session = _session(content, providers, threads)
        inputs = with_specs([_tensor(entry) for entry in self._session.get_inputs()], specs)
        outputs = with_specs([_tensor(entry) for entry in self._session.get_outputs()], specs)
        if not inputs or not outputs:
            raise AgentError("runtime.load", "the network has no input or no output")
        fixed_batch = inputs[0].shape[0] if inputs[0].shape else 1
        super().__init__(f"onnxruntime/{self._session.get_providers()[0]}", inputs, outputs, fixed_batch)
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]
        self._plain_rank = (
            len(inputs[0].shape)
            if len(inputs) == 1 and fixed_batch is None and inputs[0].dtype == outputs[0].dtype == "float32"
            else -1
        )
        """Axes of the input in the common case, where nothing is to be converted or copied."""
        self._probe()

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """As :meth:`BaseNetwork.run`."""
        if model_input.ndim != self._plain_rank:
            return super().run(model_input)
        try:
            output: NDArray[np.float32] = self._session.run(
                self._output_names[:1], {self._input_names[0]: model_input}
            )[0]
        except Exception as error:  # onnxruntime raises classes of its own that it does not export
            raise AgentError("runtime.run", f"the network failed: {str(error)[:300]}") from error
        return output

    def _probe(self) -> None:
        """Refuse a network that answers differently when it is asked the same again: one with random numbers in it."""
        shapes = [tuple(1 if length is None else length for length in tensor.shape) for tensor in self.inputs]
        try:
            self._refuse_memory(shapes, exact=self.provider.endswith(_CPU))
        except AgentError as error:
            if error.code != "runtime.run":  # an axis of any length may have to be longer; golden windows will tell
                raise

    def _invoke(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            found: list[NDArray[Any]] = self._session.run(
                self._output_names, dict(zip(self._input_names, arrays, strict=True))
            )
        except Exception as error:  # as above
            raise AgentError("runtime.run", f"the network failed: {str(error)[:300]}") from error
        return found


def _tensor(entry: Any) -> Tensor:
    kind = str(entry.type).removeprefix("tensor(").removesuffix(")")
    if kind not in _TYPES:
        raise AgentError("runtime.tensors", f"{entry.name} is {entry.type}; only tensors of numbers can be used")
    shape = tuple(length if isinstance(length, int) and length >= 0 else None for length in entry.shape)
    return Tensor(str(entry.name), shape, _TYPES[kind])


def _session(content: bytes, providers: Sequence[str], threads: int) -> Any:
    """A session on the first provider that works, the CPU at last."""
    import onnxruntime  # 20 MB that `status` and `enroll` do without

    available = onnxruntime.get_available_providers()
    wanted = [name for name in providers if name.endswith("ExecutionProvider") and name != _CPU]
    usable = [name for name in wanted if name in available]
    if missing := [name for name in wanted if name not in available]:
        announce(logging.WARNING, f"onnxruntime lacks {', '.join(missing)} here; it has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    while True:
        try:
            return onnxruntime.InferenceSession(content, options, providers=[*usable, _CPU])
        except Exception as error:  # onnxruntime raises classes of its own that it does not export
            if not usable:
                raise AgentError("runtime.load", f"the network cannot be loaded: {str(error)[:300]}") from error
            announce(logging.WARNING, f"onnxruntime cannot use {usable[0]} here: {str(error)[:300]}")
            del usable[0]
