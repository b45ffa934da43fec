"""The environment of ``make test-legacy``: numpy 1.26 and tflite-runtime, without ONNX Runtime and what needs numpy 2.

Tests are skipped for a missing library in this environment only; in any other a missing library is an error.
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
_PARTS: Final = tuple(str(Path(__file__).resolve().parents[1] / part) for part in ("agent", "protocols"))
needs_onnx: Final = pytest.mark.skipif(LEGACY, reason="the environment of make test-legacy has no ONNX Runtime")


class _Skip:
    """An import finder that skips a test, or a module of tests, which imports a library in :data:`MISSING`.

    When the agent or the protocols import such a library themselves, they get an ImportError as on a device: the tests
    are about this.
    """

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in MISSING:
            frame = sys._getframe(1)
            while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            if not frame.f_code.co_filename.startswith(_PARTS):
                pytest.skip(f"the environment of make test-legacy has no {name}", allow_module_level=True)
        return None


def install() -> None:
    """In the environment of ``make test-legacy``, add the import finder after all others, once."""
    if LEGACY and not any(isinstance(finder, _Skip) for finder in sys.meta_path):
        sys.meta_path.append(_Skip())
