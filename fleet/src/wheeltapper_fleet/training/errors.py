"""Errors of training. Codes are stable: ``training.*`` and ``import.*``."""

from __future__ import annotations

__all__ = ["TrainingError"]


class TrainingError(Exception):
    """No bundle was made (or evaluated), and nothing was left behind.

    Args:
        code: stable dotted code, e.g. ``training.too_little``.
        message: what is wrong and what to do about it, for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
