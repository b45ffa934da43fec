"""Captures as the API gives them out."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["CaptureView"]


class CaptureView(BaseModel):
    """A recording that was asked for, or that came by a device's own rule.

    ``state`` is ``waiting`` (no answer yet), ``answered`` (the device says it sent it), ``failed`` (with ``code``) or
    ``received``. ``command`` is the command's id, or the name that the device's rule gave. Times are Unix seconds.
    """

    command: str
    device: str
    pipeline: str
    state: str
    code: str
    sha256: str | None
    length: int | None
    snapshots: int
    created_at: float | None
    received_at: float | None
