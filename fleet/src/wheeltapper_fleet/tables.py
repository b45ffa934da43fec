"""All tables of the fleet's database: importing this module puts each room's tables on the one MetaData.

For whoever needs the whole schema: the test that compares it with the migrations, and programs that read tables of
several rooms. A room imports its own ``tables.py`` instead.
"""

from __future__ import annotations

from wheeltapper_fleet.access.tables import api_tokens, repeats, sessions
from wheeltapper_fleet.alerts.tables import alert_budgets, alerts, case_log, cases, exposure, labels, silences
from wheeltapper_fleet.assets.tables import assets, point_mappings
from wheeltapper_fleet.audit.tables import audit, audit_chain
from wheeltapper_fleet.campaigns.gate_tables import campaign_gates, gate_panels, gate_points
from wheeltapper_fleet.campaigns.tables import (
    assignments,
    assignments_due,
    campaign_cursors,
    campaign_log,
    campaign_releases,
    campaign_tallies,
    campaigns,
    default_releases,
    executions,
    tally_changes,
    tellings,
)
from wheeltapper_fleet.captures.tables import captures
from wheeltapper_fleet.db.metadata import metadata
from wheeltapper_fleet.devices.tables import (
    command_bundles,
    commands,
    device_attributes,
    device_connections,
    device_log,
    device_notices,
    device_pipelines,
    device_releases,
    device_settings,
    device_tags,
    devices,
    enrolment_tokens,
    issued_certificates,
)
from wheeltapper_fleet.history.tables import segments
from wheeltapper_fleet.learning.candidates.tables import candidates
from wheeltapper_fleet.learning.policies.tables import policies, policy_events
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.lineage.tables import dataset_contents, dataset_index
from wheeltapper_fleet.notify.tables import notifications, notify_targets
from wheeltapper_fleet.processes.tables import leadership, processes
from wheeltapper_fleet.registry.tables import (
    alias_changes,
    promotion_log,
    promotion_rules,
    promotions,
    release_aliases,
    release_datasets,
    releases,
)
from wheeltapper_fleet.telemetry.tables import drift_reports, latest, messages, refused, rollups, spool_gaps, spools

__all__ = [
    "alert_budgets",
    "alerts",
    "alias_changes",
    "api_tokens",
    "assets",
    "assignments",
    "assignments_due",
    "audit",
    "audit_chain",
    "campaign_cursors",
    "campaign_gates",
    "campaign_log",
    "campaign_releases",
    "campaign_tallies",
    "campaigns",
    "candidates",
    "captures",
    "case_log",
    "cases",
    "command_bundles",
    "commands",
    "dataset_contents",
    "dataset_index",
    "default_releases",
    "device_attributes",
    "device_connections",
    "device_log",
    "device_notices",
    "device_pipelines",
    "device_releases",
    "device_settings",
    "device_tags",
    "devices",
    "drift_reports",
    "enrolment_tokens",
    "executions",
    "exposure",
    "gate_panels",
    "gate_points",
    "issued_certificates",
    "labels",
    "latest",
    "leadership",
    "messages",
    "metadata",
    "notifications",
    "notify_targets",
    "point_mappings",
    "policies",
    "policy_events",
    "processes",
    "promotion_log",
    "promotion_rules",
    "promotions",
    "refused",
    "release_aliases",
    "release_datasets",
    "releases",
    "repeats",
    "rollups",
    "runs",
    "segments",
    "sessions",
    "silences",
    "spool_gaps",
    "spools",
    "tally_changes",
    "tellings",
]
