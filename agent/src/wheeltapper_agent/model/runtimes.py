"""Chooses the library that runs a model: the first of the board profile's runtimes that is installed and reads a format
of the model."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.inference import TensorModel, announce
from wheeltapper_agent.model.onnx import OnnxModel
from wheeltapper_agent.model.tflite import PACKAGES, TfliteModel
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.manifest.manifest import Manifest, TensorSpec

__all__ = ["EXTRAS", "chosen_format", "claiming", "load_model", "preload"]

EXTRAS: Final = {"onnxruntime": "onnx", "ai-edge-litert": "litert", "tflite-runtime": "tflite"}
"""For each runtime, the extra of wheeltapper-agent that installs it."""
_MODULES: Final = {"onnxruntime": "onnxruntime"} | {
    name: f"{package}.interpreter" for name, package in PACKAGES.items()
}
_RUNTIMES_BY_FORMAT: Final = {"onnx": ("onnxruntime",), "tflite": tuple(PACKAGES)}
"""For each model format that a manifest names, the runtimes that read it."""


def chosen_format(manifest: Manifest, profile: Profile | None = None) -> Manifest:
    """Return the manifest for the format that this board runs: that of the first installed runtime of the board that
    the release claims. Where there is none, :func:`load_model` says so.

    Args:
        manifest: of a release, perhaps with variants.
        profile: the board; None: any runtime.
    """
    if manifest.variants is None:
        return manifest
    board = profile or Profile(name="any")
    found = [(name, each) for name in board.runtimes for each in claiming(manifest, name)]
    usable = (each for name, each in found if _usable(name))
    return next(usable, found[0][1] if found else manifest.formats()[0])


def claiming(manifest: Manifest, name: str) -> list[Manifest]:
    """Return the manifest for each of its formats that the runtime ``name`` reads and that is claimed for it."""
    return [
        each
        for each in manifest.formats()
        if name in _RUNTIMES_BY_FORMAT[each.runtime]
        and (each.runtimes is None or name in [entry.name for entry in each.runtimes])
    ]


def load_model(
    content: bytes,
    runtime: str,
    profile: Profile | None = None,
    tensors: Sequence[TensorSpec] | None = None,
    output: str | None = None,
    signature: str | None = None,
    claimed: Sequence[str] | None = None,
) -> TensorModel:
    """Load a model file into a runtime.

    Args:
        content: the model file.
        runtime: the format that the manifest names: ``onnx`` or ``tflite``.
        profile: the board: its runtimes and providers in their order, and the number of threads; None: any runtime, one
            thread.
        tensors: scale and zero point of integer tensors where the file does not say them, from the manifest.
        output: the output that is read; None: the only one.
        signature: the signature of a TFLite model that is run; None: the only one.
        claimed: the runtimes that the release was tested with; None: any.

    Raises:
        AgentError: ``runtime.unknown``, ``runtime.missing``, ``runtime.unclaimed``, ``runtime.load``,
            ``runtime.stateful``, ``runtime.tensors``, ``runtime.output``, ``runtime.signature``,
            ``runtime.external_data``.
    """
    board = profile or Profile(name="any")
    usable = _RUNTIMES_BY_FORMAT.get(runtime)
    if usable is None:
        raise AgentError(
            "runtime.unknown",
            f"no runtime reads models of the format {runtime[:40]!r}; known are {', '.join(_RUNTIMES_BY_FORMAT)}",
        )
    order = [name for name in board.runtimes if name in usable]
    if not order:
        text = f"the profile {board.name} lists no runtime for {runtime} models; add one of {', '.join(usable)}"
        raise AgentError("runtime.missing", text)
    if claimed is not None:
        order = [name for name in order if name in claimed]
        if not order:
            text = (
                f"the release was tested with {', '.join(claimed)} only, and the profile {board.name} lists none of it"
            )
            raise AgentError("runtime.unclaimed", f"{text}; add one, or claim a runtime of this board in the release")
    for name in order:
        if _usable(name):
            model = _load_with(name, content, board, tensors or (), output, signature)
            if output is None:  # otherwise the other outputs, which the manifest may describe too, are not here
                _check_names(model, tensors or ())
            return model
    text = f"no runtime for {runtime} models is installed; install wheeltapper-agent[{EXTRAS[order[0]]}]"
    raise AgentError("runtime.missing", text)


def preload(board: Profile) -> None:
    """Import every runtime of ``board`` that is installed.

    The sandbox calls it before it measures memory, so that the libraries are not counted as memory of the model.
    """
    for name in board.runtimes:
        if name in _MODULES:
            _usable(name)


def _usable(name: str) -> bool:
    """Return whether the runtime ``name`` can be imported; say why not in the log."""
    try:
        importlib.import_module(_MODULES[name])
    except (ImportError, AttributeError) as error:  # AttributeError: built for another numpy
        announce(logging.INFO, f"the runtime {name} cannot be used: {brief(error)}")
        return False
    return True


def _load_with(
    name: str,
    content: bytes,
    board: Profile,
    tensors: Sequence[TensorSpec],
    output: str | None,
    signature: str | None,
) -> TensorModel:
    """Load ``content`` with the runtime ``name``."""
    if name == "onnxruntime":
        return OnnxModel(content, board.providers, board.threads, tensors, output)
    return TfliteModel(content, name, board.providers, board.threads, tensors, output, signature)


def _check_names(model: TensorModel, tensors: Sequence[TensorSpec]) -> None:
    """Raise ``runtime.tensors`` if the manifest describes a tensor that the model does not have."""
    known = {tensor.name for tensor in (*model.inputs, *model.outputs)}
    unknown = sorted(spec.name for spec in tensors if spec.name not in known)
    if unknown:
        text = f"the manifest describes a tensor {unknown[0]!r}; the model has {', '.join(sorted(known))[:200]}"
        raise AgentError("runtime.tensors", text)
