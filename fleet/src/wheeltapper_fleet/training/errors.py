"""The error that training raises. Its codes are stable: ``training.*`` and ``import.*``."""

from __future__ import annotations

from wheeltapper_fleet.learning.errors import TrainingError

__all__ = ["TrainingError"]
