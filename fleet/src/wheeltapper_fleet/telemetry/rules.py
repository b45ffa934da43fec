"""What was refused of what a device said. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Refusal"]


@dataclass(frozen=True)
class Refusal:
    """A message that could not be accepted: from which device, with which error code, and why."""

    device: str
    code: str
    detail: str
