"""Prometheus' rules and Grafana's dashboard name figures that the service tells, and each alert has its runbook."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine

from tests.packaging.roots import REPOSITORY, need_tools
from wheeltapper_fleet.api.metrics import Metrics
from wheeltapper_fleet.trust.expiry import Life, RenewedBy

FOLDER = REPOSITORY / "packaging/monitoring"
LIVES = [Life(kind.value, 2e9, 1e7, kind) for kind in RenewedBy]


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expressions() -> list[str]:
    panels = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]
    return [rule["expr"] for rule in _rules()] + [each["expr"] for panel in panels for each in panel["targets"]]


def test_every_figure_that_is_asked_for_is_told(engine: Engine) -> None:
    metrics = Metrics(engine, lambda: ["broker"], lambda: 0, lambda: LIVES)
    metrics.requests.labels("/readyz", "GET", "200").inc()
    metrics.seconds.labels("/readyz").observe(0.1)
    told: dict[str, set[str]] = {}
    for line in metrics.text().decode().splitlines():
        found = re.match(r"([a-z_]+)(?:\{(.*)\})? ", line)
        if found:
            told.setdefault(found[1], set()).update(re.findall(r'([a-z_]+)="', found[2] or ""))
    asked = re.findall(r"\b((?:wheeltapper|process)_[a-z_]+)(?:\{([^}]*)\})?", " ".join(_expressions()))
    assert len(asked) > 20
    for name, labels in asked:
        assert name in told, name
        assert set(re.findall(r"([a-z_]+)(?:=|!)", labels)) - {"job"} <= told[name], (name, labels)


def test_every_alert_has_its_runbook_and_the_runbook_no_other() -> None:
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [rule["alert"] for rule in _rules()] == headings


def test_who_renews_is_spelt_as_the_service_spells_it() -> None:
    named = {text for each in _expressions() for text in re.findall(r'renewed_by=~?"([^"]+)"', each)}
    spelt = {name for text in named for name in text.split("|")}
    assert spelt <= {kind.value for kind in RenewedBy}
    assert len(spelt) >= 3


@pytest.mark.slow
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    need_tools("promtool")
    cases = [
        ('up{job="wheeltapper", instance="a"}', "1 1 0x10", "8m", "FleetServiceDown", True),
        ('up{job="wheeltapper", instance="a"}', "1x10", "8m", "FleetServiceDown", False),
        ("wheeltapper_devices_online", "100x60 85x30", "80m", "DevicesOffline", True),
        ("wheeltapper_devices_online", "100x60 95x30", "80m", "DevicesOffline", False),
        ("wheeltapper_cases_waiting", "1x300", "290m", "CasesWaiting", True),
        ('wheeltapper_records{what="missing"}', "5x200", "150m", "RecordsMissing", False),
        (
            'wheeltapper_ends_timestamp_seconds{renewed_by="keys renew", what="root"}',
            "864000x10",
            "5m",
            "KeysEndSoon",
            True,
        ),
        ('wheeltapper_ends_timestamp_seconds{renewed_by="device", what="x"}', "864000x10", "5m", "KeysEndSoon", False),
        (
            'wheeltapper_ends_timestamp_seconds{renewed_by="service", what="timestamp"}',
            "3600x30",
            "20m",
            "NotRenewed",
            True,
        ),
    ]
    tests = []
    for series, values, at, alert, fires in cases:
        one = {"interval": "1m", "input_series": [{"series": series, "values": values}]}
        query = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
        samples = [{"labels": "{}", "value": float(fires)}]
        one["promql_expr_test"] = [{"expr": query, "eval_time": at, "exp_samples": samples}]
        tests.append(one)
    rules = FOLDER / "rules.yaml"
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": tests}), encoding="utf-8")
    for line in (["check", "rules", str(rules)], ["test", "rules", str(tmp_path / "tests.yaml")]):
        done = subprocess.run(["promtool", *line], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
