"""Alerts as the API gives them out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = ["AlertView"]


class AlertView(BaseModel):
    """A device raised an alert or cleared one (``raised``).

    ``at`` is Unix seconds by the device's clock, ``t_s`` seconds by the machine's. ``reasons`` names the features that
    made up the score, each with its share of it. ``label`` is the likeliest class, ``value`` the life that remains, in
    ``unit``, and ``zone`` the zone by ISO 20816 (A to D); each is None where the model does not say it.
    The alert that complete windows get no score has the label ``model.no_score``, and no ``score``.
    """

    id: int
    device: str
    pipeline: str
    window: int
    t_s: float
    at: float
    model: str
    release: int
    score: float | None
    severity: str
    raised: bool
    label: str | None = None
    value: float | None = None
    unit: str | None = None
    zone: str | None = None
    reasons: list[dict[str, Any]]
