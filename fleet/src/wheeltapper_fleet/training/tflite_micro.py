"""Runs a TFLite model with TFLite Micro's interpreter, which microcontrollers have and no agent.

The library (`pip install --pre tflite-micro`) is needed only where a release claims this runtime. The model runs in a
child process with limits: one that crashes ends the child.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.python_path import child_environment, python_command
from wheeltapper_protocols.signal.npz import write_npz

__all__ = ["NAME", "has_tflite_micro", "run_micro"]

NAME: Final = "tflite-micro"
_LIBRARY: Final = "tflite_micro"
_MEMORY_BYTES: Final = 1024**3

Values = npt.NDArray[np.float32]


def has_tflite_micro() -> bool:
    """Whether the library is installed here."""
    return importlib.util.find_spec(_LIBRARY) is not None


def run_micro(model: bytes, model_input: Values, timeout_seconds: float = 120.0) -> Values:
    """The output of a model with one input and one output, as real values.

    Args:
        model: the TFLite file.
        model_input: [window, …] float32.
        timeout_seconds: for all windows.

    Raises:
        TrainingError: ``bundle.untested`` (the library is not installed), ``runtime.load``, ``bundle.crashed``,
            ``bundle.timeout``.
    """
    if not has_tflite_micro():
        text = "TFLite Micro's interpreter is not installed here"
        raise TrainingError("bundle.untested", f"{text}: pip install --pre tflite-micro, or do not claim {NAME}")
    with tempfile.TemporaryDirectory(prefix="wheeltapper-") as place:
        source, given, out = (Path(place, name) for name in ("model.tflite", "in.npz", "out.npz"))
        source.write_bytes(model)
        with given.open("xb") as file:
            write_npz({"model_input": model_input}, file)
        try:
            done = subprocess.run(
                python_command("-m", __spec__.name, str(source), str(given), str(out)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_seconds,
                env=child_environment(os.environ),
            )
        except subprocess.TimeoutExpired as error:
            raise TrainingError("bundle.timeout", f"{NAME} did not end within {timeout_seconds:g} s") from error
        tail = done.stderr.decode(errors="replace").strip()[-300:]
        if done.returncode == 2:
            raise TrainingError("runtime.load", f"{NAME} cannot run the model: {tail}")
        if done.returncode or not out.exists():
            raise TrainingError("bundle.crashed", f"the model ended {NAME} with status {done.returncode}: {tail}")
        with np.load(out, allow_pickle=False) as archive:
            return np.asarray(archive["model_output"], dtype=np.float32)


def _quantisation(details: dict[str, Any]) -> tuple[float, int]:
    """Scale and zero point of an input or output; (0, 0) of a float."""
    parameters = details["quantization_parameters"]
    if np.dtype(details["dtype"]).kind == "f":
        return 0.0, 0
    return float(parameters["scales"][0]), int(parameters["zero_points"][0])


def main() -> int:
    """The child: model, input and output are named on the command line."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    source, given, out = (Path(text) for text in sys.argv[1:4])
    try:
        from tflite_micro.python.tflite_micro import runtime  # type: ignore[import-not-found]  # where it is claimed

        interpreter = runtime.Interpreter.from_bytes(source.read_bytes())
        details, answer = interpreter.get_input_details(0), interpreter.get_output_details(0)
        (scale, zero), (out_scale, out_zero) = _quantisation(details), _quantisation(answer)
        with np.load(given, allow_pickle=False) as archive:
            rows = archive["model_input"]
        found = []
        for row in rows:
            value = row.reshape(details["shape"])
            if scale:
                limits = np.iinfo(details["dtype"])
                value = np.clip(np.rint(value / scale) + zero, limits.min, limits.max)
            interpreter.set_input(value.astype(details["dtype"]), 0)
            interpreter.invoke()
            output = np.asarray(interpreter.get_output(0), dtype=np.float32)
            found.append((output - out_zero) * out_scale if out_scale else output)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, ImportError, OSError) as error:
        print(brief(error), file=sys.stderr)
        return 2
    with out.open("xb") as file:
        write_npz({"model_output": np.concatenate(found).astype(np.float32)}, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
