"""Tables of alerts, cases, silences and labels.

    * ``alerts``: one row an alert message. ``at`` is Unix seconds by the device's clock, ``t_s`` the machine's time in
      seconds, ``happened_at`` the fleet's best guess of ``at`` (its own clock, where the device had none or is ahead).
      ``triaged`` says whether :mod:`wheeltapper_fleet.alerts.intake` has taken it; then it has a ``case_id`` (unless it
      cleared nothing), and the ``channel`` that it is about and the ``point`` that it belongs to, if those are known.
    * ``cases``: one row a case; the columns are the fields of :class:`wheeltapper_fleet.alerts.case.Case`. ``look_at``
      is when triage must look at it again.
    * ``case_log``: what happened to a case, who did it.
    * ``silences``: maintenance: alerts within are kept and counted, and nobody is told.
    * ``exposure``: for how many seconds machines were watched, by day (the Unix second of its beginning), model, site.
    * ``alert_budgets``: how many false alarms are accepted; an empty model or site is any.
    * ``triage_limits``: the limits of triage that somebody has set.
    * ``labels``: what a resolved case says about what its devices measured, from when to when.

Times are Unix seconds by the fleet's clock where nothing else is said.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table, Text, text

from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.db.stored_json import StoredJson

__all__ = ["alert_budgets", "alerts", "case_log", "cases", "exposure", "labels", "silences", "triage_limits"]

_Id = BigInteger().with_variant(Integer, "sqlite")

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("window", BigInteger, nullable=False),
    Column("t_s", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("raised", Boolean, nullable=False),
    Column("reasons", StoredJson, nullable=False),
    Column("label", String(64)),
    Column("value", Float),
    Column("unit", String(64)),
    Column("zone", String(8)),
    Column("slowly", Boolean, nullable=False, server_default=text("FALSE"), default=False),
    Column("happened_at", Float, nullable=False, server_default="0", default=0.0),
    Column("triaged", Boolean, nullable=False, server_default=text("FALSE"), default=False),
    Column("case_id", Integer),
    Column("point", String(63)),
    Column("channel", String(64)),
    Column("silenced", Boolean, nullable=False, server_default=text("FALSE"), default=False),
    Index("uq_alerts_record", "device", "epoch", "seq", unique=True),
    Index("ix_alerts_device", "device", "id"),
    Index("ix_alerts_case_id", "case_id", "id"),
    Index("ix_alerts_point", "point", "id"),
    Index("ix_alerts_model", "model", "id"),
    Index("ix_alerts_severity", "severity", "id"),
    Index("ix_alerts_waiting", "id", sqlite_where=text("triaged = FALSE"), postgresql_where=text("triaged = FALSE")),
)

_OPEN = text("state <> 'resolved'")
cases = Table(
    "cases",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("version", Integer, nullable=False),
    Column("key", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attention", String(16), nullable=False),
    Column("why", StoredJson, nullable=False),
    Column("risk", Float, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("worst", String(16), nullable=False),
    Column("raised", Boolean, nullable=False),
    Column("device", String(63), nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("point", String(63)),
    Column("machine", String(63)),
    Column("site", String(120)),
    Column("criticality", String(8), nullable=False),
    Column("label", String(64)),
    Column("zone", String(8)),
    Column("score", Float),
    Column("first_score", Float),
    Column("alerts", Integer, nullable=False),
    Column("silenced", Integer, nullable=False),
    Column("episode", Integer, nullable=False),
    Column("episode_alerts", Integer, nullable=False),
    Column("episode_at", Float, nullable=False),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("acknowledged_at", Float),
    Column("resolved_at", Float),
    Column("resolved_by", String(128)),
    Column("assignee", String(128)),
    Column("verdict", String(16)),
    Column("part", String(120)),
    Column("note", Text),
    Column("work_order", String(120)),
    Column("failed_at", Float),
    Column("parent", Integer),
    Column("told", String(16)),
    Column("look_at", Float),
    Index("ix_cases_key", "key", "id"),
    Index("ix_cases_open", "risk", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_cases_open_attention", "attention", "risk", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_cases_open_state", "state", "risk", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_cases_open_site", "site", "risk", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_cases_open_release", "model", "release", "worst", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_cases_attention", "attention", "id"),
    Index("ix_cases_state", "state", "id"),
    Index("ix_cases_point", "point", "id"),
    Index("ix_cases_machine", "machine", "id"),
    Index("ix_cases_site", "site", "id"),
    Index("ix_cases_device", "device", "id"),
    Index("ix_cases_parent", "parent", "id"),
    Index("ix_cases_model", "model", "release", "opened_at"),
    Index("ix_cases_look_at", "look_at"),
    Index("ix_cases_opened_at", "opened_at"),
)

case_log = Table(
    "case_log",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("case_id", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Column("event", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_case_log_case_id", "case_id", "id"),
)

silences = Table(
    "silences",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("asset", String(63)),
    Column("query", Text, nullable=False),
    Column("from_at", Float, nullable=False),
    Column("to_at", Float, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("who", String(128), nullable=False),
    Column("created_at", Float, nullable=False),
    Index("ix_silences_to_at", "to_at", "id"),
)

labels = Table(
    "labels",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("case_id", Integer, nullable=False),
    Column("episode", Integer, nullable=False),
    Column("device", String(63), nullable=False),
    Column("pipeline", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("point", String(63)),
    Column("machine", String(63)),
    Column("site", String(120)),
    Column("verdict", String(16), nullable=False),
    Column("part", String(120)),
    Column("from_at", Float, nullable=False),
    Column("to_at", Float, nullable=False),
    Column("from_t_s", Float, nullable=False),
    Column("to_t_s", Float, nullable=False),
    Column("failed_at", Float),
    Column("resolved_at", Float, nullable=False),
    Column("who", String(128), nullable=False),
    Index("ix_labels_case_id", "case_id", "episode", "device", "pipeline", unique=True),
    Index("ix_labels_model", "model", "resolved_at"),
    Index("ix_labels_device", "device", "pipeline", "from_at"),
    Index("ix_labels_resolved_at", "resolved_at"),
)

exposure = Table(
    "exposure",
    metadata,
    Column("day", BigInteger, primary_key=True, autoincrement=False),
    Column("model", String(63), primary_key=True),
    Column("site", String(120), primary_key=True),
    Column("seconds", Float, nullable=False),
)

alert_budgets = Table(
    "alert_budgets",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(63), nullable=False),
    Column("site", String(120), nullable=False),
    Column("per_100_machine_weeks", Float, nullable=False),
    Column("days", Integer, nullable=False),
    Column("set_at", Float, nullable=False),
    Column("set_by", String(128), nullable=False),
    Column("exceeded_at", Float),
    Index("uq_alert_budgets_model", "model", "site", unique=True),
)

triage_limits = Table(
    "triage_limits",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", Float, nullable=False),
    Column("set_at", Float, nullable=False),
    Column("set_by", String(128), nullable=False),
)
