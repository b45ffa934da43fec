"""What the export holds: which tables and columns are left out and why, how rows refer to each other, and the views.

Invariants:
    * Every table of the database is exported, or is in :data:`LEFT_OUT` with the reason.
    * No column whose name speaks of a secret is exported.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FORMAT", "LEFT_OUT", "RECORD_COLUMNS", "REFERENCES", "SEARCHED", "SECRET_WORDS", "VIEWS"]

FORMAT: Final = 1
"""The number in the table ``export``; it rises when a table or column that was there changes its meaning."""

LEFT_OUT: Final[dict[str, str]] = {
    "api_tokens": "secrets",
    "enrolment_tokens": "secrets",
    "repeats": "answers that are kept for a day, for whoever asked",
    "sessions": "secrets",
    "assignments": "signed texts that only their device needs; what they say is in executions",
    "assignments_due": "work that is under way",
    "campaign_cursors": "work that is under way",
    "tally_changes": "work that is under way: what is not in campaign_tallies yet",
    "tellings": "work that is under way",
    "messages": "its records are in the table records",
    "spool_gaps": "bookkeeping of the delivery",
}
"""Tables that are not exported, each with the reason."""

SECRET_WORDS: Final = ("secret", "password", "private_key", "envelope")
"""A column whose name holds one of these is left out."""

REFERENCES: Final[dict[str, tuple[str, str]]] = {
    "device": ("devices", "id"),
    "campaign": ("campaigns", "id"),
    "case": ("cases", "id"),
    "case_id": ("cases", "id"),
    "point": ("assets", "id"),
    "asset": ("assets", "id"),
    "parent": ("assets", "id"),
}
"""Columns that name a row of another table, by the column's name."""

RECORD_COLUMNS: Final[dict[str, type]] = {
    "device": str,
    "epoch": str,
    "seq": int,
    "kind": str,
    "received_at": float,
    "pipeline": str,
    "window": int,
    "t_s": float,
    "model": str,
    "release": int,
    "score": float,
    "severity": str,
    "latency_ms": float,
    "label": str,
    "value": float,
    "zone": str,
    "undated": int,
    "partial": int,
    "body": str,
}
"""The columns of the table ``records``: one row a record, whatever its kind; ``body`` is JSON."""

SEARCHED: Final[dict[str, tuple[str, ...]]] = {
    "alerts": ("device", "pipeline", "model", "severity", "label", "reasons"),
    "cases": ("device", "pipeline", "title", "summary", "note"),
}
"""Tables with full-text search, and the columns that it covers, where there are such."""

VIEWS: Final[dict[str, str]] = {
    "alerts_by_day": (
        "SELECT date(at, 'unixepoch') AS day, device, severity, count(*) AS alerts FROM alerts GROUP BY 1, 2, 3"
    ),
    "devices_by_release": (
        "SELECT model, release, pipeline, count(*) AS devices FROM device_pipelines GROUP BY 1, 2, 3"
    ),
    "executions_by_state": (
        "SELECT campaign, wave + 1 AS wave, state, count(*) AS executions FROM executions GROUP BY 1, 2, 3"
    ),
}
"""Views for a first look. One that needs a table or a column that is not there is left out."""
