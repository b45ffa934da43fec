"""The errors that learning raises. Their codes are stable: ``dataset.*``, ``training.*`` and ``import.*``."""

from __future__ import annotations

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["DatasetError", "TrainingError"]


class DatasetError(FleetError):
    """A dataset cannot be made, read or changed as asked. No version was made and none was changed."""


class TrainingError(FleetError):
    """Training, evaluation or the import of a data set failed. No bundle was written and no temporary file remains."""
