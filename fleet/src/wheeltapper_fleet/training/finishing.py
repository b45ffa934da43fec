"""The last steps that every recipe shares: golden vectors, the gates that need only the model, and the bundle.

Example:
    >>> draft = Manifest(files=PENDING, ...)  # everything but files, gates and lineage
    >>> made = finish(draft, model_bytes, windows, measured, {"recipe": "mine-1"}, job)

Invariants:
    * A bundle is written only if every gate has passed; else ``job.out`` is as it was.
    * Golden vectors are computed by the code that devices run, from samples to score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from wheeltapper_fleet.training import gates
from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.bundles import bundle_file, npz_bytes, write_bundle
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_fleet.training.variants import with_tflite
from wheeltapper_protocols.manifest.inference_task import InferenceTask
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    BundleFile,
    Gate,
    Manifest,
    encode_manifest,
)
from wheeltapper_protocols.signal.features import FeatureSet

__all__ = ["PENDING", "finish", "model_input"]

PENDING: Final = [BundleFile(name=name, sha256="0" * 64, length=1) for name in (MODEL_FILE, GOLDEN_FILE)]
"""The files of a draft, before they are made."""
_LIBRARIES: Final = ("numpy", "onnx", "onnxruntime", "scikit-learn")


def model_input(draft: Manifest, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The model's input for ``windows`` [window, sample, channel], as a device computes it."""
    shape = draft.input
    features = FeatureSet(draft.features, shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    return InferenceTask(draft).model_input(features.compute(windows), windows)


def finish(
    draft: Manifest,
    model: bytes,
    windows: npt.NDArray[np.float32],
    measured: Sequence[Gate],
    lineage: dict[str, str],
    job: Job,
    tflite: Callable[[], bytes] | None = None,
) -> Manifest:
    """Write the bundle of a trained model.

    Args:
        draft: the manifest, without files (:data:`PENDING`), gates and lineage.
        model: the serialised ONNX model, with the input ``input`` and the output ``output``.
        windows: a few [window, sample, channel] in physical units, for golden vectors.
        measured: the recipe's own gates.
        lineage: the recipe's name with its version, hashes of the recordings.
        job: where, and what else the lineage says.
        tflite: gives the same model as a TFLite file, where the job wants one; None: it cannot be one.

    Raises:
        TrainingError: ``training.gate_failed``, ``training.out_exists``, ``training.runtime``.
    """
    task, session = InferenceTask(draft), open_session(model)
    rows = model_input(draft, windows)
    output = session.run(["output"], {"input": rows})[0]
    arrays: dict[str, npt.NDArray[Any]] = {
        "samples": windows, "model_input": rows, "model_output": output, "score": task.read(rows, output).score,
    }  # fmt: skip
    again = open_session(model).run(["output"], {"input": rows})[0]
    found = [
        *measured,
        gates.finite(output, arrays["score"]),
        gates.reproducible(output, again, draft.golden.output_atol),
        gates.size(model),
        gates.latency(session, rows[:1]),
    ]
    failed = [gate for gate in found if not gate.passed]
    if failed:
        text = "; ".join(f"{gate.name} is {gate.value:.4g}, limit {gate.limit:.4g}" for gate in failed)
        raise TrainingError("training.gate_failed", f"the candidate failed its gates: {text}; no bundle was written")
    golden = npz_bytes(arrays)
    origin = lineage | {"seed": str(job.seed)} | dict(job.lineage) | {name: version(name) for name in _LIBRARIES}
    made = replace(
        draft, files=[bundle_file(MODEL_FILE, model), bundle_file(GOLDEN_FILE, golden)], gates=found, lineage=origin
    )
    files = {MODEL_FILE: model, GOLDEN_FILE: golden}
    if "tflite" in job.formats and tflite is not None:
        job.progress("golden outputs of the TFLite runtimes")
        made, files = with_tflite(made, files, tflite())
    write_bundle(job.out, files | {MANIFEST_FILE: encode_manifest(made)}, job.replace)
    job.progress("bundle written")
    return made
