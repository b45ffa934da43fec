"""Releases as the API gives them out."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["ReleaseView", "VerifyView"]


class ReleaseView(BaseModel):
    """One published release. ``path``, ``sha256`` and ``length`` (bytes) are its manifest's; times are Unix seconds."""

    model: str
    release: int
    path: str
    sha256: str
    length: int
    published_at: float
    published_by: str


class VerifyView(BaseModel):
    """A release that verified from the trusted root down to every byte: its files, and their bytes together."""

    model: str
    release: int
    verified: bool
    files: int
    length: int
