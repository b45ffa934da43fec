"""Figures for Prometheus, readiness, and logs as JSON."""

from __future__ import annotations

import contextvars
import io
import json
import logging

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.api.metrics import Metrics
from wheeltapper_fleet.ground.log import CountingHandler, JsonFormatter
from wheeltapper_fleet.ground.request import begin_request, note_subject
from wheeltapper_fleet.trust.expiry import Life, RenewedBy


def figures(text: str) -> dict[tuple[str, str], float]:
    """By name and labels."""
    return {
        (sample.name, " ".join(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_tell_of_requests_and_of_the_fleet(server: AdminServer) -> None:
    for number in range(3):
        server.add_device(f"press-{number}", online=number > 0)
    server.add_scores("press-1", [0.2, 2.4], "critical")
    assert httpx.get(server.url + "/metrics", trust_env=False).status_code == 401
    with server.http(server.token_of("viewer")) as http:
        for number in range(3):
            http.get(f"/api/v1/devices/press-{number}")
        http.get("/api/v1/devices/nothing")
        http.get("/api/v1/no/such/path")
        answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = figures(answer.text)
    assert found["wheeltapper_http_requests_total", "GET /devices/{device} 200"] == 3
    assert found["wheeltapper_http_requests_total", "GET /devices/{device} 404"] == 1
    assert found["wheeltapper_http_requests_total", "GET none 404"] == 1
    assert found["wheeltapper_http_request_seconds_count", "/devices/{device}"] == 4
    assert (found["wheeltapper_devices", ""], found["wheeltapper_devices_online", ""]) == (3, 2)
    assert found["wheeltapper_devices_alarming", "critical"] == 1
    assert found["wheeltapper_records", "stored"] == 2
    assert found["wheeltapper_up", ""] == 1
    assert "press-" not in answer.text


def test_a_database_that_is_away_takes_only_its_own_figures_with_it(server: AdminServer) -> None:
    metrics = Metrics(server.engine, lambda: ["broker"], lambda: 2)
    (server.data_dir / "fleet.db").rename(server.data_dir / "away.db")
    (server.data_dir / "fleet.db").mkdir()
    server.engine.dispose()
    found = figures(metrics.text().decode())
    assert (found["wheeltapper_up", ""], found["wheeltapper_part_failing", "broker"]) == (0, 1)
    assert found["wheeltapper_live_screens", ""] == 2
    assert ("wheeltapper_devices", "") not in found
    answer = httpx.get(server.url + "/readyz", trust_env=False)
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "failing": ["database"]})


def test_when_things_end_is_told_by_what_renews_them(engine: Engine) -> None:
    lives = [
        Life("root", 2e9, 1e7, RenewedBy.OFFLINE_KEYS),
        Life("device certificate", 1.9e9, 1e7, RenewedBy.DEVICE, detail="the first of 3 that end soon"),
    ]
    found = figures(Metrics(engine, list, lambda: 0, lambda: lives).text().decode())
    ends = {labels: value for (name, labels), value in found.items() if name == "wheeltapper_ends_timestamp_seconds"}
    assert ends == {"keys renew root": 2e9, "device device certificate": 1.9e9}


def test_a_service_that_can_answer_is_ready(server: AdminServer) -> None:
    answer = httpx.get(server.url + "/readyz", trust_env=False)
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "failing": []})


def test_figures_do_not_grow_with_the_fleet(engine: Engine) -> None:
    lines = [Metrics(engine, list, lambda: 0).text().count(b"\n") for _ in range(2)]
    assert lines[0] == lines[1] < 120


def test_a_line_of_the_log_is_one_json_object_with_the_request() -> None:
    stream = io.StringIO()
    handler = CountingHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.Logger("wheeltapper_fleet.test")
    log.addHandler(handler)
    log.warning("outside", extra={"campaign": "cmp-1"})

    def inside() -> None:
        begin_request("proxy-4711")
        note_subject(device="press-1", secret="x")
        try:
            raise ValueError("a\nb é")
        except ValueError:
            log.exception("inside\nof %s", "it")

    contextvars.copy_context().run(inside)
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["message"], first["level"], first["campaign"]) == ("outside", "WARNING", "cmp-1")
    assert "request" not in first
    assert (second["message"], second["request"], second["device"]) == ("inside\nof it", "proxy-4711", "press-1")
    assert "secret" not in second
    assert "ValueError" in second["trace"]
    assert second["at"].endswith("+00:00")
