"""Adds the TFLite file of a trained model to its bundle, with what each runtime of this computer gives for it.

Each runtime is run by the agent's program (:mod:`desk_agent`), that of this computer and those that
``WHEELTAPPER_AGENTS`` names, separated by semicolons: ``/opt/legacy/bin/wheeltapper-agent`` may have tflite-runtime.

Invariants:
    * A runtime is claimed only if its golden outputs were made by running it; others are named as not checked.
    * A runtime whose outputs are further from those of ONNX Runtime than the golden tolerance fails its gate.
    * What is given is not changed; nothing is written beside a temporary folder.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from wheeltapper_fleet.training import gates
from wheeltapper_fleet.training.bundles import bundle_file, npz_bytes
from wheeltapper_fleet.training.desk_agent import DeskAgent, has_agent
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    RUNTIMES,
    ClaimedRuntime,
    Gate,
    Manifest,
    Variant,
    encode_manifest,
    golden_file,
)

__all__ = ["desk_agents", "formats_for", "with_tflite"]

Values = npt.NDArray[Any]
_AGENTS: Final = "WHEELTAPPER_AGENTS"
_RUNTIMES: Final = tuple(name for name in RUNTIMES["tflite"] if name != "tflite-micro")


def desk_agents() -> list[DeskAgent]:
    """The agents of this computer.

    Raises:
        TrainingError: ``bundle.no_agent``: one that is named is not there.
    """
    named = [line.strip() for line in os.environ.get(_AGENTS, "").split(";") if line.strip()]
    return [*([DeskAgent()] if has_agent() else []), *(DeskAgent(line) for line in named)]


def formats_for(formats: Sequence[str], boards: Sequence[str]) -> tuple[str, ...]:
    """The formats of a model: those that are asked for, or what its boards run; ONNX is always one.

    Args:
        formats: empty: TFLite is made where a board prefers a runtime of it.
        boards: names of the agent's board profiles.

    Raises:
        TrainingError: ``recipe.board``: the agent knows no such board; ``bundle.no_agent``.
    """
    if formats or not boards:
        return tuple(formats) or ("onnx",)
    agent, tflite = DeskAgent(), False
    for name in boards:
        board = agent.board(name)
        if not board:
            why = f"the agent knows no board {name!r}; see `wheeltapper-agent profiles`"
            raise TrainingError("recipe.board", why)
        tflite |= board["runtimes"][0] in RUNTIMES["tflite"]
    return ("onnx", "tflite") if tflite else ("onnx",)


def with_tflite(manifest: Manifest, files: Mapping[str, bytes], content: bytes) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a bundle, with its model in TFLite as a variant.

    Args:
        manifest, files: of the bundle in ONNX; the files without the manifest.
        content: the TFLite file.

    Raises:
        TrainingError: ``training.runtime``: no agent here has a runtime for it; ``training.gate_failed``; what the
            agent refuses it with.
    """
    with np.load(io.BytesIO(files[GOLDEN_FILE]), allow_pickle=False) as archive:
        golden = {name: np.asarray(archive[name]) for name in archive.files}
    name = MODEL_FILES["tflite"]
    made = dict(files) | {name: content}
    claims = [ClaimedRuntime(name=each) for each in _RUNTIMES]  # type: ignore[arg-type]  # runtimes of RUNTIMES
    draft = replace(
        manifest,
        files=[*manifest.files, bundle_file(name, content)],
        runtimes=manifest.runtimes or [ClaimedRuntime(name="onnxruntime")],
        variants=[Variant(runtime="tflite", runtimes=claims)],
    )
    found = _outputs(draft, made, golden["samples"])
    if not found:
        text = f"no agent here has a runtime for TFLite ({', '.join(_RUNTIMES)})"
        raise TrainingError(
            "training.runtime",
            f"{text}: install wheeltapper-agent[litert], name an agent in {_AGENTS}, or leave it out",
        )
    measured = [_agreement(each, golden, given, manifest.golden.output_atol) for each, given in found.items()]
    measured.append(replace(gates.size(content), name="tflite_bytes"))
    if failed := [gate for gate in measured if not gate.passed]:
        told = "; ".join(f"{gate.name} is {gate.value:.4g}, limit {gate.limit:.4g}" for gate in failed)
        raise TrainingError("training.gate_failed", f"the TFLite file failed its gates: {told}; no bundle was written")
    own = {golden_file(each): npz_bytes(given) for each, given in found.items()}
    unchecked = ", ".join(each for each in _RUNTIMES if each not in found)
    made |= own
    whole = replace(
        draft,
        files=[*draft.files, *(bundle_file(each, body) for each, body in own.items())],
        variants=[Variant(runtime="tflite", runtimes=[claim for claim in claims if claim.name in found])],
        gates=[*manifest.gates, *measured],
        lineage=manifest.lineage | ({"runtimes_not_checked": unchecked} if unchecked else {}),
    )
    return whole, made


def _outputs(draft: Manifest, files: Mapping[str, bytes], windows: Values) -> dict[str, dict[str, Values]]:
    """What each TFLite runtime that is here gives for ``windows``: ``model_output`` and ``score``, by its name."""
    found: dict[str, dict[str, Values]] = {}
    with tempfile.TemporaryDirectory(prefix="wheeltapper-") as place:
        for name, body in {**files, MANIFEST_FILE: encode_manifest(draft)}.items():
            Path(place, name).write_bytes(body)
        for agent in desk_agents():
            for runtime in (each for each in _RUNTIMES if each not in found):
                try:
                    arrays = agent.evaluate(Path(place), np.asarray(windows, dtype=np.float32), runtime)
                except TrainingError as error:
                    if error.code != "runtime.missing":
                        raise
                else:
                    found[runtime] = {key: arrays[key] for key in ("model_output", "score")}
    return found


def _agreement(runtime: str, golden: Mapping[str, Values], given: Mapping[str, Values], limit: float) -> Gate:
    """How far the outputs of a runtime are from those of ONNX Runtime, for the golden windows."""
    wanted = np.asarray(golden["model_output"], dtype=np.float64)
    output = np.asarray(given["model_output"], dtype=np.float64).reshape(wanted.shape)
    same = np.array_equal(np.isnan(wanted), np.isnan(output))
    value = float(np.nanmax(np.abs(output - wanted), initial=0.0)) if same else float(np.finfo(np.float32).max)
    return Gate(
        name=f"{runtime}_agreement", value=value, limit=limit, passed=value <= limit,
        detail="greatest difference of outputs from ONNX Runtime's, for the golden windows",
    )  # fmt: skip
