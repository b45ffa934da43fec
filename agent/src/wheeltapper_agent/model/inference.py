"""What every runtime's network has in common: conversion between real values and tensors, and windows one by one.

A runtime's module has a class that inherits :class:`BaseNetwork` and says how arrays go through its library.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.tensors import Tensor, decode, encode, fitted, not_a_number

__all__ = ["BaseNetwork", "Model", "Network", "announce", "stateful_error"]

_LOG = logging.getLogger(__name__)
_MAX_PROBED_VALUES: Final = 1 << 22
_SAID: Final[set[str]] = set()
_SAID_LOCK: Final = threading.Lock()


class Model(Protocol):
    """A loaded network with one input: float32 [window, …] in, float32 [window, …] out; the task's reader checks the
    output's form."""

    @property
    def provider(self) -> str:
        """What computes: ``onnxruntime/CPUExecutionProvider``, ``ai-edge-litert/XNNPACK``, …"""

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output for the only input. Quantised tensors are converted; NaN in a window gives NaN out."""


class Network(Model, Protocol):
    """A loaded network, whole; see :mod:`wheeltapper_agent.model.runtimes`."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def outputs(self) -> tuple[Tensor, ...]: ...

    def run_all(self, arrays: Sequence[NDArray[Any]], raw: bool = False) -> list[NDArray[Any]]:
        """Every output for every input: real values as float32, or with ``raw`` what the tensors hold."""


def announce(level: int, text: str) -> None:
    """Log ``text`` once in the life of this process: what runs where, and what it fell back from."""
    with _SAID_LOCK:
        if text in _SAID:
            return
        _SAID.add(text)
    _LOG.log(level, "%s", text)


def stateful_error(why: str) -> AgentError:
    """Why a network that remembers is refused."""
    return AgentError("runtime.stateful", f"{why}; export it so that a window is all it reads")


class BaseNetwork:
    """A loaded network; see :class:`wheeltapper_agent.model.inference.Network`.

    Args:
        provider: the library and what of it computes.
        inputs: in the order of the file.
        outputs: in the order of the file.
        fixed_batch: windows that the network takes at once; None: any number.
    """

    def __init__(
        self, provider: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], fixed_batch: int | None
    ) -> None:
        self.provider = provider
        self.inputs = inputs
        self.outputs = outputs
        self._fixed_batch = fixed_batch
        announce(logging.INFO, f"networks run on {provider}")

    def _invoke(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for ``arrays``, which have the right types and shapes."""
        raise NotImplementedError

    def _refuse_memory(self, shapes: Sequence[tuple[int, ...]], exact: bool = True) -> None:
        """Ask the same twice, with something else between: the answers must agree.

        Args:
            shapes: of the inputs.
            exact: to the bit; else as near as an accelerator comes.

        Raises:
            AgentError: ``runtime.stateful``, ``runtime.run``.
        """
        if sum(int(np.prod(shape)) for shape in shapes) > _MAX_PROBED_VALUES:
            return
        zeros = [np.zeros(shape, dtype=tensor.dtype) for shape, tensor in zip(shapes, self.inputs, strict=True)]
        before = self._invoke(zeros)
        self._invoke([np.ones_like(array) for array in zeros])
        after = self._invoke(zeros)
        for old, new in zip(before, after, strict=True):
            with_nan = old.dtype.kind == "f"
            if not (
                np.array_equal(old, new, equal_nan=with_nan)
                if exact
                else old.shape == new.shape and np.allclose(old, new, rtol=1e-2, atol=1e-4, equal_nan=with_nan)
            ):
                raise stateful_error("it answers differently when it is asked the same again")

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output for the only input, as real values; the first axis of both is the window.

        Raises:
            AgentError: ``runtime.run``, ``runtime.shape``, ``runtime.tensors``.
        """
        if len(self.inputs) != 1:
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise AgentError("runtime.shape", f"the network has {len(self.inputs)} inputs ({names}); give all of them")
        values = np.asarray(model_input, dtype=np.float32)
        if self._fixed_batch is None or len(values) == self._fixed_batch:
            output = self._one(values)
        elif self._fixed_batch == 1 and len(values):
            output = np.concatenate([self._one(values[row : row + 1]) for row in range(len(values))])
        else:
            text = f"the network takes {self._fixed_batch} windows at once, not {len(values)}"
            raise AgentError("runtime.shape", text)
        if not self.inputs[0].is_float and (missing := not_a_number(values)).any():
            output = np.array(output, dtype=np.float32)
            output[missing] = np.nan
        return output

    def _one(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = self.inputs[0]
        found = self._invoke([encode(tensor, fitted(tensor, values))])[0]
        return decode(self.outputs[0], found)

    def run_all(self, arrays: Sequence[NDArray[Any]], raw: bool = False) -> list[NDArray[Any]]:
        """Every output for every input, in the order of :attr:`inputs` and :attr:`outputs`.

        Args:
            arrays: real values; with ``raw`` what the tensors themselves hold.
            raw: no conversion, in or out.

        Raises:
            AgentError: ``runtime.run``, ``runtime.shape``, ``runtime.tensors``.
        """
        if len(arrays) != len(self.inputs):
            raise AgentError("runtime.shape", f"the network has {len(self.inputs)} inputs, not {len(arrays)}")
        given = []
        for tensor, array in zip(self.inputs, arrays, strict=True):
            values = fitted(tensor, np.asarray(array))
            if raw and values.dtype != np.dtype(tensor.dtype):
                raise AgentError("runtime.tensors", f"{tensor.name} is {tensor.dtype}, not {values.dtype}")
            given.append(values if raw else encode(tensor, np.asarray(values, dtype=np.float32)))
        found = self._invoke(given)
        return found if raw else [decode(tensor, out) for tensor, out in zip(self.outputs, found, strict=True)]
