"""Which library runs a network: the first of the board profile's runtimes that can and is installed."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.inference import Network, announce
from wheeltapper_agent.model.onnx import OnnxNetwork
from wheeltapper_agent.model.tflite import PACKAGES, TfliteNetwork
from wheeltapper_protocols.manifest.manifest import TensorSpec

__all__ = ["EXTRAS", "open_network", "preload"]

EXTRAS: Final = {"onnxruntime": "onnx", "ai-edge-litert": "litert", "tflite-runtime": "tflite"}
"""The extra of wheeltapper-agent that brings a runtime."""
_MODULES: Final = {"onnxruntime": "onnxruntime"} | {
    name: f"{package}.interpreter" for name, package in PACKAGES.items()
}
_ABLE: Final = {"onnx": ("onnxruntime",), "tflite": tuple(PACKAGES)}
"""What can run the networks of a manifest's runtime."""


def open_network(
    content: bytes, runtime: str, profile: Profile | None = None, tensors: Sequence[TensorSpec] | None = None
) -> Network:
    """Load a network.

    Args:
        content: its file.
        runtime: the manifest's: ``onnx`` or ``tflite``.
        profile: the board: which runtimes and providers, in which order, and how many threads; None: any, one thread.
        tensors: the manifest's, where the file does not say how integers stand for real values.

    Raises:
        AgentError: ``runtime.unknown``, ``runtime.missing``, ``runtime.load``, ``runtime.stateful``,
        ``runtime.tensors``.
    """
    board = profile or Profile(name="any")
    able = _ABLE.get(runtime)
    if able is None:
        raise AgentError("runtime.unknown", f"nothing runs networks for {runtime[:40]!r}; known are {', '.join(_ABLE)}")
    order = [name for name in board.runtimes if name in able]
    if not order:
        text = f"the profile {board.name} has no runtime for {runtime}; it needs one of {', '.join(able)}"
        raise AgentError("runtime.missing", text)
    for name in order:
        if _usable(name):
            network = _open(name, content, board, tensors or ())
            _check_names(network, tensors or ())
            return network
    text = f"no runtime for {runtime} is installed; install wheeltapper-agent[{EXTRAS[order[0]]}]"
    raise AgentError("runtime.missing", text)


def preload(board: Profile) -> None:
    """Import every runtime of ``board`` that is installed: what a network takes can then be told from what they do."""
    for name in board.runtimes:
        if name in _MODULES:
            _usable(name)


def _usable(name: str) -> bool:
    try:
        importlib.import_module(_MODULES[name])
    except (ImportError, AttributeError) as error:  # AttributeError: built for another numpy
        announce(logging.INFO, f"the runtime {name} cannot be used: {str(error)[:200]}")
        return False
    return True


def _open(name: str, content: bytes, board: Profile, tensors: Sequence[TensorSpec]) -> Network:
    if name == "onnxruntime":
        return OnnxNetwork(content, board.providers, board.threads, tensors)
    return TfliteNetwork(content, name, board.providers, board.threads, tensors)


def _check_names(network: Network, tensors: Sequence[TensorSpec]) -> None:
    known = {tensor.name for tensor in (*network.inputs, *network.outputs)}
    unknown = sorted(spec.name for spec in tensors if spec.name not in known)
    if unknown:
        text = f"the manifest has a tensor {unknown[0]!r}; the network has {', '.join(sorted(known))[:200]}"
        raise AgentError("runtime.tensors", text)
