"""Runs a loaded model on all its inputs and reads all its outputs, with the conversions of the agent.

A device needs one input and one output; these tests also compare models that have more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.inference import TensorModel
from wheeltapper_agent.model.tensors import decode, encode, fitted

__all__ = ["run_all"]


def run_all(model: TensorModel, arrays: Sequence[NDArray[Any]], raw: bool = False) -> list[NDArray[Any]]:
    """Return every output for ``arrays``, one for each input.

    Args:
        model: loaded.
        arrays: real values; with ``raw`` the elements that the tensors themselves hold.
        raw: convert neither inputs nor outputs.

    Raises:
        AgentError: ``runtime.run``, ``runtime.shape``, ``runtime.tensors``.
    """
    if len(arrays) != len(model.inputs):
        raise AgentError("runtime.shape", f"the model has {len(model.inputs)} inputs, not {len(arrays)}")
    converted = []
    for tensor, array in zip(model.inputs, arrays, strict=True):
        values = fitted(tensor, np.asarray(array))
        if raw and values.dtype != np.dtype(tensor.dtype):
            raise AgentError("runtime.tensors", f"{tensor.name} is {tensor.dtype}, not {values.dtype}")
        converted.append(values if raw else encode(tensor, np.asarray(values, dtype=np.float32)))
    outputs = model._invoke(converted)
    return outputs if raw else [decode(tensor, output) for tensor, output in zip(model.outputs, outputs, strict=True)]
