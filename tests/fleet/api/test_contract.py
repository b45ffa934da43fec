"""What the OpenAPI document says holds: bounds of numbers and names, answers that may come, methods of a path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fleet.api.harness import MODEL, AdminServer

API = "/api/v1"


@pytest.fixture
def http(server: AdminServer) -> Iterator[httpx.Client]:
    server.add_device("press-1")
    with server.http() as client:
        yield client


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


@pytest.mark.parametrize(
    "path",
    [
        "/alerts?limit=0",
        f"/alerts?limit={10**400}",
        "/devices?after=a%00b",
        f"/releases/{MODEL}/{2**63}",
        f"/releases/{MODEL}/{2**31}/verify",
        f"/releases/{MODEL}/0/drift",
        "/campaigns/%00",
        "/campaigns/a%00b",
        "/captures/%00/recording",
        "/releases/a%00/1",
    ],
)
def test_what_the_database_cannot_compare_with_is_refused(http: httpx.Client, path: str) -> None:
    answer = http.get(API + path)
    assert answer.status_code == 422
    assert set(answer.json()) == {"type", "title", "status", "detail", "code"}


def test_every_number_and_name_of_a_request_has_bounds(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for path, method, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            for schema in parameter["schema"].get("anyOf", [parameter["schema"]]):
                bounds = {"integer": "maximum", "number": "maximum", "string": "pattern"}
                if (kind := schema.get("type")) in bounds and "enum" not in schema:
                    assert bounds[kind] in schema, f"{method} {path}: {parameter['name']}"


def test_every_refusal_is_documented_with_its_form(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for path, method, operation in operations(document):
        if path.startswith(API):
            for status in ("401", "422", "default"):
                schema = operation["responses"][status]["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, f"{method} {path}: {status}"


def test_a_wrong_method_is_told_the_right_ones(http: httpx.Client) -> None:
    for path, method, _ in operations(http.get("/openapi.json").json()):
        concrete = path.replace("{sha256}", "0" * 64).replace("{action}", "start").replace("{release}", "1")
        for name in ("device", "model", "campaign", "command"):
            concrete = concrete.replace(f"{{{name}}}", "press-1")
        answer = http.request("TRACE", concrete)
        assert answer.status_code == 405
        assert method.upper() in answer.headers["Allow"].split(", "), path


@pytest.mark.parametrize("snapshots", [5, 5.0])
def test_five_and_five_point_nought_are_one_number(http: httpx.Client, snapshots: float) -> None:
    answer = http.post(f"{API}/devices/press-1/captures", json={"pipeline": "bearing", "snapshots": snapshots})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("snapshots", [0, 0.5, "5", True, None, 1e300, 100_001])
def test_what_is_no_number_of_snapshots_is_refused(http: httpx.Client, snapshots: object) -> None:
    answer = http.post(f"{API}/devices/press-1/captures", json={"pipeline": "bearing", "snapshots": snapshots})
    assert (answer.status_code, answer.json()["code"]) == (422, "api.invalid")


def test_what_is_not_there_is_not_found(http: httpx.Client) -> None:
    body = {"manifest": "{}", "metadata": "{}"}
    answers = [
        http.get(f"{API}/models/nothing/targets"),
        http.post(f"{API}/models/nothing/releases", json=body),
        http.get(f"{API}/releases/nothing/1"),
        http.get(f"{API}/campaigns/nothing"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 4


def test_a_blob_whose_name_is_not_its_hash_conflicts_with_it(http: httpx.Client) -> None:
    answer = http.put(f"{API}/blobs/{'0' * 64}", content=b"weights")
    assert (answer.status_code, answer.json()["code"]) == (409, "blob.hash")


@pytest.mark.parametrize("body", ["null", "", "{}", '{"expected_version": null}', '{"expected_version": true}'])
def test_an_action_without_a_version_is_refused(http: httpx.Client, body: str) -> None:
    made = http.post(f"{API}/campaigns", json={"spec": {"model": MODEL, "release": 1}}).json()
    headers = {"Content-Type": "application/json"}
    answer = http.post(f"{API}/campaigns/{made['id']}/start", content=body, headers=headers)
    assert answer.status_code in (422, 428)
    assert http.get(f"{API}/campaigns/{made['id']}").json()["state"] == "DRAFT"


def test_a_database_that_does_not_answer_is_503_and_says_so(
    server: AdminServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server.data_dir / "fleet.db").rename(server.data_dir / "away.db")
    (server.data_dir / "fleet.db").mkdir()
    server.engine.dispose()
    answer = http.get(f"{API}/alerts")
    assert (answer.status_code, answer.json()["code"]) == (503, "api.database")
    assert int(answer.headers["Retry-After"]) > 0


def schema_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """The schema of what an operation answers where all is well; references are followed once."""
    answers = [value for status, value in operation["responses"].items() if status.startswith("2")]
    schema = answers[0].get("content", {}).get("application/json", {}).get("schema", {}) if answers else {}
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return dict(document["components"]["schemas"][name]) if name else dict(schema)


def test_every_list_has_pages(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    paged = []
    for path, method, operation in operations(document):
        schema = schema_of(document, operation)
        assert method != "get" or schema.get("type") != "array", f"{path} answers a list without pages"
        if {"items", "next"} == set(schema.get("properties", ())):
            paged.append(path)
            assert {"limit", "after"} <= {each["name"] for each in operation["parameters"]}, path
    assert {f"{API}/devices", f"{API}/campaigns", f"{API}/campaigns/{{campaign}}/executions"} <= set(paged)


def test_a_cursor_of_another_list_is_refused(server: AdminServer, http: httpx.Client) -> None:
    server.add_device("press-2")
    following = http.get(f"{API}/devices?limit=1").json()["next"]
    assert [each["id"] for each in http.get(f"{API}/devices?after={following}").json()["items"]] == ["press-2"]
    for path in (f"/campaigns?after={following}", "/devices?after=abc", "/releases?after=W10"):
        answer = http.get(API + path)
        assert (answer.status_code, answer.json()["code"]) == (400, "cursor.invalid")
