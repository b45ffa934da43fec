"""ONNX Runtime: one thread, no spinning (an idle agent is quiet). Loads from bytes: what runs is what was verified."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.errors import AgentError

__all__ = ["OnnxModel"]


class OnnxModel:
    """A network with the input ``input`` and the output ``output``, both float32 [n, …]. What the output must look like
    depends on the task: its reader checks it.

    Raises:
        AgentError: ``runtime.load``.
    """

    def __init__(
        self, content: bytes, providers: tuple[str, ...] = ("CPUExecutionProvider",), threads: int = 1
    ) -> None:
        import onnxruntime  # 20 MB that `status` and `enroll` do without

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        available = set(onnxruntime.get_available_providers())
        usable = [name for name in providers if name in available] or ["CPUExecutionProvider"]
        try:
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=usable)
            inputs = [entry.name for entry in self._session.get_inputs()]
            outputs = [entry.name for entry in self._session.get_outputs()]
        except Exception as error:  # onnxruntime raises classes of its own that it does not export
            raise AgentError("runtime.load", f"the network cannot be loaded: {str(error)[:300]}") from error
        if inputs != ["input"] or outputs != ["output"]:
            raise AgentError(
                "runtime.load", f"the network has inputs {inputs} and outputs {outputs}; need input, output"
            )

    def run(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output.

        Raises:
            AgentError: ``runtime.run``.
        """
        try:
            output: NDArray[np.float32] = self._session.run(["output"], {"input": model_input})[0]
        except Exception as error:  # as above
            raise AgentError("runtime.run", f"the network failed: {str(error)[:300]}") from error
        return output
