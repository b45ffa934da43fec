"""Errors of training. Codes are stable: ``training.*`` and ``import.*``."""

from __future__ import annotations

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["TrainingError"]


class TrainingError(FleetError):
    """No bundle was made (or evaluated), and nothing was left behind."""
