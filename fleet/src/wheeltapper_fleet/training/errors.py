"""The error that training raises. Its codes are stable: ``training.*`` and ``import.*``."""

from __future__ import annotations

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["TrainingError"]


class TrainingError(FleetError):
    """Training, evaluation or the import of a data set failed. No bundle was written and no temporary file remains."""
