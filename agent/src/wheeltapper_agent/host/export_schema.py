"""Tables, columns and views of the device's portable export file. Pure.

Every column is described where it is defined; the export carries the descriptions along in its table
``documentation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FORMAT", "TABLES", "VIEWS", "Table"]

FORMAT: Final = 1
"""Version of the tables; rises when a column is removed or changes its meaning."""

_NAME: Final = "Name of the pipeline."


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the export.

    Args:
        description: what a row is.
        columns: type and description of each column, by name, in order.
        key: the columns of the primary key.
        references: column, other table and its column, for foreign keys.
        indexed: columns that have an index.
    """

    description: str
    columns: dict[str, tuple[type, str]]
    key: tuple[str, ...]
    references: tuple[tuple[str, str, str], ...] = ()
    indexed: tuple[str, ...] = ()


TABLES: Final[dict[str, Table]] = {
    "export": Table(
        "This file: one row.",
        {
            "format": (int, "Version of these tables."),
            "exported_at": (float, "When the file was made, Unix time in seconds by the device's clock."),
            "device": (str, "Id of the device; empty if it is not enrolled."),
            "agent_version": (str, "Version of the agent that made the file."),
        },
        ("format",),
    ),
    "problems": Table(
        "What could not be read: the file holds everything else.",
        {
            "id": (int, "Number of the row."),
            "part": (str, "What it is about: spool, recordings, journal, slots, status."),
            "detail": (str, "What is wrong."),
        },
        ("id",),
    ),
    "pipelines": Table(
        "Every pipeline that the status, a record, a recording or an update names.",
        {
            "name": (str, _NAME),
            "model": (str, "Model of the release that runs."),
            "release": (int, "Number of the release that runs."),
            "source": (str, "State of the source: running, ended, waiting or an error code."),
            "runtime": (str, "What computes the model, e.g. onnxruntime/CPUExecutionProvider."),
            "windows": (int, "Windows since the agent started."),
            "dropped_windows": (int, "Of these, windows that were dropped."),
            "quality": (str, "Data quality since the agent started, JSON."),
            "last": (str, "The newest decision, JSON."),
            "baseline": (str, "What is learnt of its machine, JSON; empty where the release learns nothing."),
            "partly_scored": (int, "Of the windows, those that were scored although channels were missing."),
            "unknown_conditions": (
                int,
                "Of the windows, those in an operating condition that the release does not know.",
            ),
        },
        ("name",),
    ),
    "records": Table(
        "A telemetry record, alert or report that was in the spool.",
        {
            "seq": (int, "Number of the record; rises by 1 over all kinds, records that are gone leave gaps."),
            "epoch": (str, "Id of the spool's life: seq begins anew with another epoch."),
            "kind": (str, "telemetry, alert or report."),
            "pipeline": (str, _NAME),
            "window": (int, "Index of the window in its pipeline."),
            "t_s": (float, "Start of the window in seconds, by the machine's clock or that of the recording."),
            "at": (float, "When an alert or report was made, Unix time in seconds by the device's clock."),
            "age_seconds": (float, "How long the agent had run with this spool when the record was stored."),
            "model": (str, "Model that scored the window."),
            "release": (int, "Its release."),
            "score": (float, "Score of the window; 1.0 is the threshold of a warning."),
            "severity": (str, "normal, warning or critical."),
            "label": (str, "Class of the window, of a classification."),
            "value": (float, "Remaining life, of a model that estimates it."),
            "unit": (str, "Unit of value; of alerts only."),
            "zone": (str, "Vibration severity zone of ISO 20816: A, B, C or D."),
            "partial": (int, "Of a telemetry record: 1 channels were missing, the score is that of the others."),
            "latency_ms": (float, "How long features and model took."),
            "raised": (int, "Of an alert: 1 it was raised, 0 it is over."),
            "slowly": (int, "Of an alert: 1 it was raised by a score that lasts, though it is not at the threshold."),
            "report": (str, "Type of a report: execution, capture, loss, drift, shadow, baseline and others."),
            "execution": (str, "Execution that a report is about."),
            "state": (str, "State of that execution."),
            "code": (str, "Error code in a report."),
            "detail": (str, "Explanation in a report."),
            "acknowledged": (int, "1: the fleet has the record, and the device is about to delete it."),
            "intact": (int, "0: the checksum is wrong, so the columns above are empty and payload has the bytes."),
            "message": (str, "The whole record as JSON, as in the wire protocol; bytes in Base64."),
            "payload": (bytes, "The bytes of a damaged record."),
        },
        ("seq",),
        (("pipeline", "pipelines", "name"),),
        ("kind", "pipeline"),
    ),
    "alert_reasons": Table(
        "A feature that moved, of an alert.",
        {
            "seq": (int, "The alert."),
            "position": (int, "1 is the feature with the largest share."),
            "feature": (str, "Name of the feature."),
            "value": (float, "Its value in the window."),
            "usual": (float, "Its usual value."),
            "share": (float, "Its share of the score, 0 to 1."),
        },
        ("seq", "position"),
        (("seq", "records", "seq"),),
    ),
    "spool": Table(
        "Where the spool stood: one row, none if that cannot be read.",
        {
            "epoch": (str, "Id of the spool's life."),
            "seq": (int, "The number that was given last."),
            "acked": (int, "The fleet has every record up to this number."),
            "age_seconds": (float, "How long the agent has run with this spool."),
            "why_dropped": (str, "Error codes for which records were dropped, joined by commas."),
        },
        ("epoch",),
    ),
    "spool_counts": Table(
        "Records of the spool by kind.",
        {
            "kind": (str, "telemetry, alert or report."),
            "held": (int, "Waiting for the fleet's acknowledgement."),
            "dropped": (int, "Deleted without it, since the epoch began."),
        },
        ("kind",),
    ),
    "recordings": Table(
        "A recording that waits for its upload. Its samples are not in this file.",
        {
            "name": (str, "Name under which it is uploaded."),
            "pipeline": (str, _NAME),
            "bytes": (int, "Size of the recording."),
            "sha256": (str, "Its SHA-256, hex."),
            "snapshots": (int, "How many windows it holds."),
            "reason": (str, "Which rule recorded it; empty for a command."),
            "command": (str, "Id of the command that asked for it."),
            "expires_at": (float, "When that command expires, Unix time in seconds."),
            "number": (int, "Rises from one recording to the next."),
            "meta": (str, "Machine, operating condition and labels, JSON."),
        },
        ("name",),
        (("pipeline", "pipelines", "name"),),
    ),
    "executions": Table(
        "The newest update: one row, none if there was no update yet.",
        {
            "id": (str, "Id of the execution."),
            "campaign": (str, "Id of its campaign."),
            "state": (str, "Its state, e.g. SHADOW or COMMITTED."),
            "code": (str, "Error code, why it ended."),
            "detail": (str, "Explanation of the code."),
            "resumes": (int, "Starts of the agent in this state after an unclean end."),
            "reported": (int, "1: its last state is in the spool."),
            "counter": (int, "Counter of the newest assignment that was accepted."),
            "deadline_seconds": (float, "From the assignment to the activation; 0: no limit."),
            "spent_seconds": (float, "Spent of that when the journal was written."),
            "journalled_at": (float, "When the journal was written, Unix time in seconds by the device's clock."),
        },
        ("id",),
    ),
    "execution_targets": Table(
        "The release that an execution brings to a pipeline.",
        {
            "execution": (str, "Id of the execution."),
            "pipeline": (str, _NAME),
            "model": (str, "Model of the release."),
            "release": (int, "Number of the release."),
            "path": (str, "TUF target path of its manifest."),
            "length": (int, "Bytes of the manifest."),
            "sha256": (str, "SHA-256 of the manifest, hex."),
            "slot_before": (str, "The slot that was active before; a rollback returns to it."),
        },
        ("execution", "pipeline"),
        (("execution", "executions", "id"), ("pipeline", "pipelines", "name")),
    ),
    "slots": Table(
        "Which bundle on the device is active or previous for a pipeline.",
        {
            "pipeline": (str, _NAME),
            "role": (str, "active or previous."),
            "slot": (str, "Name of the bundle: model, release and the beginning of its SHA-256."),
        },
        ("pipeline", "role"),
        (("pipeline", "pipelines", "name"),),
    ),
    "status": Table(
        "What the agent says about itself: one row, none if it never ran.",
        {
            "at": (float, "When it said so, Unix time in seconds by the device's clock."),
            "running": (int, "1: the agent answered; 0: this is what it wrote last."),
            "connected": (int, "1: connected to the broker."),
            "profile": (str, "Profile of the board."),
            "agent_version": (str, "Version of the agent that ran."),
            "execution": (str, "Execution under way, or the last one."),
            "execution_state": (str, "Its state."),
            "troubles": (str, "Threads that hang or ended, JSON."),
            "body": (str, "The whole status, JSON."),
        },
        ("at",),
    ),
    "documentation": Table(
        "What tables, views and columns mean.",
        {
            "table_name": (str, "Table or view."),
            "column_name": (str, "Column; empty for the table itself."),
            "description": (str, "What it means."),
        },
        ("table_name", "column_name"),
    ),
}

VIEWS: Final[dict[str, tuple[str, str]]] = {
    "alerts": (
        "Alerts with their time as text (UTC) and the features that moved most.",
        "SELECT seq, datetime(at, 'unixepoch') AS at_utc, pipeline, window, severity, raised, score, label, zone,"
        " model, release, (SELECT group_concat(feature, ', ') FROM (SELECT feature FROM alert_reasons"
        " WHERE alert_reasons.seq = records.seq ORDER BY position)) AS reasons"
        " FROM records WHERE kind = 'alert' AND intact",
    ),
    "scores": (
        "Telemetry by pipeline and release: how many windows, which, and their scores.",
        "SELECT pipeline, model, release, count(*) AS windows, min(window) AS first_window,"
        " max(window) AS last_window, avg(score) AS mean_score, max(score) AS highest_score,"
        " sum(severity = 'warning') AS warnings, sum(severity = 'critical') AS criticals,"
        " avg(latency_ms) AS mean_latency_ms"
        " FROM records WHERE kind = 'telemetry' AND intact GROUP BY pipeline, model, release",
    ),
    "reports": (
        "Reports with their time as text (UTC).",
        "SELECT seq, datetime(at, 'unixepoch') AS at_utc, report, pipeline, model, release, execution, state, code,"
        " detail FROM records WHERE kind = 'report' AND intact",
    ),
}
"""Description and query of each view, by name."""
