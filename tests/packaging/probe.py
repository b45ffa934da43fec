"""Run what is in a folder on this processor: features of golden windows, networks on given inputs. Stands alone.

    python probe.py FOLDER OUT.npz

``FOLDER/bundle`` is a release; ``FOLDER/<name>.onnx`` and ``.tflite`` are networks, their inputs ``FOLDER/<name>.npz``
(``input`` [n, …], one row a call). ``OUT`` has ``features``, ``model_input``, and an output a network.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np


def tflite(path: Path, rows: Any) -> Any:
    """Outputs of a TFLite network."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    network = Interpreter(model_path=str(path), num_threads=1)
    network.allocate_tensors()
    first, last = network.get_input_details()[0]["index"], network.get_output_details()[0]["index"]
    found = []
    for row in rows:
        network.set_tensor(first, row[None])
        network.invoke()
        found.append(network.get_tensor(last)[0].copy())
    return np.stack(found)


def onnx(path: Path, rows: Any) -> Any:
    """Outputs of an ONNX network; None where there is no runtime for it."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.stack([session.run(None, {name: row[None]})[0][0] for row in rows])


def main() -> None:
    """Command line."""
    from wheeltapper_protocols.decision.scoring import Scorer
    from wheeltapper_protocols.manifest.manifest import decode_manifest
    from wheeltapper_protocols.signal.features import FeatureSet

    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    manifest = decode_manifest((folder / "bundle/manifest.json").read_bytes())
    golden = np.load(io.BytesIO((folder / "bundle/golden.npz").read_bytes()), allow_pickle=False)
    shape = manifest.input
    features = FeatureSet(manifest.features, shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    assert manifest.scoring is not None
    scorer = Scorer(manifest.scoring, tuple(features.names))
    values = np.asarray(features.compute(np.asarray(golden["samples"], dtype=np.float32)), dtype=np.float32)
    found: dict[str, Any] = {"features": values, "model_input": scorer.model_input(values)}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".onnx", ".tflite"):
            rows = np.load(path.with_suffix(".npz"), allow_pickle=False)["input"]
            output = onnx(path, rows) if path.suffix == ".onnx" else tflite(path, rows)
            if output is not None:
                found[path.name] = output
    np.savez(out, **found)


if __name__ == "__main__":
    main()
