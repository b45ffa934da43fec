"""How a model file, once loaded into a runtime, scores windows: the part that all runtimes share.

A model takes a window's features or samples and gives an anomaly score, class probabilities or a remaining life. Each
runtime library has one class, derived from :class:`TensorModel`, that says how arrays go through that library:
:class:`~wheeltapper_agent.model.onnx.OnnxModel` and :class:`~wheeltapper_agent.model.tflite.TfliteModel`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.tensors import Tensor, decode, encode, fitted, holds_nan

__all__ = ["LoadedModel", "TensorModel", "announce", "runtime_name", "stateful_error"]

_LOG = logging.getLogger(__name__)
_MAX_PROBED_VALUES: Final = 1 << 22
"""Models with larger inputs are not tested for a state: the test would take too much memory."""
_ANNOUNCED: Final[set[str]] = set()
_ANNOUNCED_LOCK: Final = threading.Lock()


class LoadedModel(Protocol):
    """A model that is ready to score: float32 [window, …] in, float32 [window, …] out.

    A bundle needs no more of a model than this. What the numbers mean is the task's business
    (:mod:`wheeltapper_protocols.manifest.inference_task`).
    """

    @property
    def provider(self) -> str:
        """The library and the hardware that compute: ``onnxruntime/CPUExecutionProvider``, ``ai-edge-litert/XNNPACK``,
        …"""

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output that the manifest means for the only input, both as real values.

        A quantised tensor is converted. A window that holds a NaN gives NaN.

        Raises:
            AgentError: ``runtime.run``, ``runtime.shape``, ``runtime.tensors``, ``runtime.output``.
        """


def runtime_name(model: LoadedModel) -> str:
    """Return the name of the library that runs ``model``, as profiles and manifests write it."""
    return model.provider.partition("/")[0]


def announce(level: int, text: str) -> None:
    """Log ``text`` once in the life of this process: which runtime computes, and which accelerator it could not use."""
    with _ANNOUNCED_LOCK:
        if text in _ANNOUNCED:
            return
        _ANNOUNCED.add(text)
    _LOG.log(level, "%s", text)


def stateful_error(why: str) -> AgentError:
    """Return the error for a model whose output depends on earlier windows. ``why`` begins the message."""
    return AgentError(
        "runtime.stateful", f"{why}; export the model so that its output depends on the present window only"
    )


class TensorModel:
    """A loaded model with named input and output tensors; implements :class:`LoadedModel`.

    A subclass implements :meth:`_invoke`.

    Args:
        provider: the library and the hardware that compute, as ``onnxruntime/CPUExecutionProvider``.
        inputs: in the order of the model file.
        outputs: in the order of the model file.
        fixed_batch: how many windows the model takes in one call; None: any number.
        chosen: which of ``outputs`` is read; None: the only one, and of several none.
    """

    def __init__(
        self,
        provider: str,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        fixed_batch: int | None,
        chosen: int | None = None,
    ) -> None:
        self.provider = provider
        self._chosen = 0 if chosen is None and len(outputs) == 1 else chosen
        self.inputs = inputs
        self.outputs = outputs
        self._fixed_batch = fixed_batch
        announce(logging.INFO, f"models run on {provider}")

    def _invoke(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for ``arrays``, which already have the types and shapes of :attr:`inputs`."""
        raise NotImplementedError

    def _refuse_stateful(self, shapes: Sequence[tuple[int, ...]], exact: bool = True) -> None:
        """Refuse a model that gives different outputs for the same input.

        The model is run on zeros, then on ones, then on zeros again. The first and the last outputs must agree.

        Args:
            shapes: of the inputs.
            exact: whether the outputs must agree to the bit; otherwise to the precision of an accelerator.

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
                raise stateful_error("the model gives different outputs for the same input")

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the chosen output for the only input, both as real values; the first axis of both is the window.

        Raises:
            AgentError: ``runtime.run``, ``runtime.shape``, ``runtime.tensors``, ``runtime.output``.
        """
        if len(self.inputs) != 1:
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise AgentError("runtime.shape", f"the model has {len(self.inputs)} inputs ({names}); it must have one")
        values = np.asarray(model_input, dtype=np.float32)
        if self._fixed_batch is None or len(values) == self._fixed_batch:
            output = self._run_batch(values)
        elif self._fixed_batch == 1 and len(values):
            output = np.concatenate([self._run_batch(values[row : row + 1]) for row in range(len(values))])
        else:
            text = (
                f"the model takes {self._fixed_batch} windows a call, not {len(values)}; export it for 1 or any number"
            )
            raise AgentError("runtime.shape", text)
        if not self.inputs[0].is_float and (missing := holds_nan(values)).any():
            output = np.array(output, dtype=np.float32)
            output[missing] = np.nan
        return output

    def _run_batch(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the chosen output for ``values`` [window, …], in one call of the library."""
        if self._chosen is None:
            names = ", ".join(tensor.name for tensor in self.outputs)
            raise AgentError(
                "runtime.output",
                f"the model has {len(self.outputs)} outputs ({names}); name one as output in the manifest",
            )
        tensor = self.inputs[0]
        output = self._invoke([encode(tensor, fitted(tensor, values))])[self._chosen]
        return decode(self.outputs[self._chosen], output)
