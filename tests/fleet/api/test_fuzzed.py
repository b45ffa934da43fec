"""Requests made from the OpenAPI document, valid ones and invalid ones: the service answers as the document says.

A valid request may be refused by a rule that JSON Schema cannot say, with the code of that rule; it is never
``api.invalid``, which is what the schema says. An invalid one is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.schemas import APIOperation

from tests.fleet.api.harness import MODEL, AdminServer, TableCampaigns
from wheeltapper_fleet.api.limits import RateLimits
from wheeltapper_fleet.campaigns.rules.spec import read_spec
from wheeltapper_fleet.ground.errors import FleetError

HELD: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
OF_THE_SCHEMA: Final = ("api.invalid", "api.bad_request")
"""Codes that say that a request is not as the document says."""
API: Final = "/api/v1"
STREAMS: Final = {f"{API}/events"}
QUERIES: Final = ("", "online", "site = north", "not tag.line in (3, 4)", 'id like "press-*" and last_seen < 7d ago')

schemathesis.openapi.format("wheeltapper-query", st.sampled_from(QUERIES))
schemathesis.openapi.format("wheeltapper-devices", st.sampled_from(QUERIES[1:]))


class CheckedCampaigns(TableCampaigns):
    """Campaigns as rows, whose specifications are read as the service reads them."""

    def create(self, spec: Mapping[str, Any], who: str) -> str:
        read_spec(spec)
        return super().create(spec, who)

    def act(self, campaign: str, action: str, expected_version: int, who: str) -> None:
        if action == "approve":
            raise FleetError("campaign.transition", "nobody asked for an approval", 409)
        super().act(campaign, action, expected_version, who)


@pytest.fixture
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    limits = RateLimits(1e6, 1e6, 1e6, 1e6)
    with AdminServer(tmp_path_factory.mktemp("fuzzed") / "data", limits=limits, campaigns=CheckedCampaigns) as running:
        yield running


def known(server: AdminServer) -> dict[str, Any]:
    """What is there for the parameters of paths; a device that was removed comes back."""
    with server.http() as http:
        if http.get(f"{API}/devices/press-1").status_code != 200:
            server.add_device("press-1")
        target = {"id": "ops", "kind": "mail", "address": "ann@works.example"}
        http.post(f"{API}/notify-targets", json=target)
        http.post(f"{API}/assets", json={"id": "works", "kind": "site"})
        made = http.post(f"{API}/campaigns", json={"spec": {"model": MODEL, "release": 1}}).json()
    return {"device": "press-1", "target": "ops", "asset": "works", "campaign": made["id"], "model": MODEL}


def ask(server: AdminServer, operation: APIOperation, mode: GenerationMode, examples: int) -> list[str]:
    """Ask one operation some times; gives what does not hold."""
    found: dict[str, str] = {}
    names = {each.name for each in operation.path_parameters}
    values = {name: value for name, value in known(server).items() if name in names} if names else {}
    options: dict[str, Any] = {"path_parameters": values} if names == set(values) and values else {}
    checks = [CHECKS.get_one(name) for name in HELD]
    headers = {"Authorization": f"Bearer {server.token}"}

    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(mode, **options))
    def run(case: schemathesis.Case) -> None:
        response = case.call(headers=headers)
        try:
            case.validate_response(response, checks=checks, headers=headers)
        except (Failure, FailureGroup) as error:
            said = str(error)
            found.setdefault(said.splitlines()[0], f"{operation.label}: {said[:900]}")
        if mode is GenerationMode.POSITIVE and 400 <= response.status_code < 500 and operation.method != "head":
            body = response.json()
            if body["code"] in OF_THE_SCHEMA:
                asked = f"{case.path_parameters} {case.query} {case.headers} {case.body!r}"
                found.setdefault(body["detail"], f"{operation.label}: valid, but {body['detail']}: {asked[:700]}")

    with contextlib.suppress(Unsatisfiable):  # there is nothing to get wrong
        run()
    return list(found.values())


def look(server: AdminServer, examples: int) -> list[str]:
    """Ask every operation of the document."""
    found: list[str] = []
    for result in schemathesis.openapi.from_url(server.url + "/openapi.json").get_all_operations():
        operation = result.ok()
        if operation.path in STREAMS:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            found += ask(server, operation, mode, examples)
    return found


def test_the_service_answers_as_its_document_says(fuzzed: AdminServer) -> None:
    found = look(fuzzed, 1)
    assert not found, "\n\n".join(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_service_answers_as_its_document_says_whatever_is_asked(fuzzed: AdminServer) -> None:
    found = look(fuzzed, 25)
    assert not found, "\n\n".join(found)
