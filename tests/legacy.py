"""The environment of ``make test-legacy``: numpy 1.26 and tflite-runtime, no ONNX Runtime, and what else needs numpy 2.

Only there may a test be skipped because a library is missing; everywhere else a missing library is an error.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

import pytest

LEGACY: Final = os.environ.get("WHEELTAPPER_TEST_RUNTIME") == "tflite"
needs_onnx: Final = pytest.mark.skipif(LEGACY, reason="the environment of make test-legacy has no ONNX Runtime")


def needs(module: str) -> Any:
    """The module called ``module``.

    In the environment of ``make test-legacy`` it may be missing: then the test module that asks for it is skipped.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        if LEGACY:
            pytest.skip(f"the environment of make test-legacy has no {module}", allow_module_level=True)
        raise
