"""The environment of ``make test-legacy``: numpy 1.26 and tflite-runtime, no ONNX Runtime, and nothing else that needs
numpy 2.

Only there may a test be skipped because a library is missing; everywhere else a missing library is an error.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Final

import pytest

LEGACY: Final = os.environ.get("WHEELTAPPER_TEST_RUNTIME") == "tflite"
MISSING: Final = frozenset(
    {"evidently", "onnx", "onnxruntime", "pyarrow", "river", "skl2onnx", "sklearn", "sqlalchemy"}
)
_AGENT: Final = str(Path(__file__).resolve().parents[1] / "agent")
needs_onnx: Final = pytest.mark.skipif(LEGACY, reason="the environment of make test-legacy has no ONNX Runtime")


class _Skip:
    """An import finder: a test, or a module of tests, that imports what is :data:`MISSING` is skipped.

    The agent itself is told that the library is not there: that is what these tests are for.
    """

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in MISSING:
            frame = sys._getframe(1)
            while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            if not frame.f_code.co_filename.startswith(_AGENT):
                pytest.skip(f"the environment of make test-legacy has no {name}", allow_module_level=True)
        return None


def install() -> None:
    """Put the finder after all others, once, in that environment."""
    if LEGACY and not any(isinstance(finder, _Skip) for finder in sys.meta_path):
        sys.meta_path.append(_Skip())
