"""Every route of the service, asked by every role and by nobody: what the table of permissions says is what happens."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.access.permissions import ROLES, ROUTES, Role, permission_of
from wheeltapper_fleet.access.sessions import COOKIE

API = "/api/v1"
PUBLIC = {
    "GET /openapi.json",
    "GET /healthz",
    "GET /readyz",
    "GET /static/{name}",
    "POST /sign-in",
    "POST /sign-out",
    "GET /sign-in/oidc",
    "GET /sign-in/oidc/callback",
}
"""What needs no token: it says nothing of the fleet."""
PAGES = {
    "GET /",
    "GET /why/{device}",
    "GET /devices/{device}",
    "GET /devices/{device}/{part}",
    "GET /campaigns/{campaign}",
    "GET /cases",
    "GET /cases/{case}",
    "GET /devices",
    "GET /bulk",
    "GET /devices/{device}/executions",
    "GET /devices/{device}/health",
    "GET /settings",
    "GET /settings/limits",
    "GET /settings/tokens",
    "GET /settings/webhooks",
    "GET /trust",
    "GET /value",
    "GET /machines",
    "GET /machines/{machine}",
    "GET /machines/{machine}/features",
    "GET /diagnosis/{command}",
    "GET /diagnosis/{command}/waterfall",
    "GET /campaigns",
    "GET /campaigns/new",
    "GET /models",
    "GET /models/{model}",
    "GET /models/{model}/compare",
    "GET /models/{model}/{release}",
    "GET /models/{model}/{release}/recordings",
    "GET /data",
    "GET /data/compare",
    "GET /data/datasets",
    "GET /data/datasets/{dataset}",
    "GET /data/datasets/{dataset}/diff",
    "GET /data/recordings",
    "GET /data/recordings/{sha256}",
    "GET /data/runs",
    "GET /data/runs/{run}",
    "GET /data/policies",
    "GET /data/policies/{policy}",
    "GET /data/policies/{policy}/events/{event}",
    "GET /data/candidates",
    "GET /data/candidates/{candidate}",
}
"""What shows the form to sign in to whoever has no session."""
SESSION = {
    "GET /fragments/{fragment}",
    "GET /fragments/cases",
    "GET /fragments/case",
    "GET /fragments/device",
    "GET /fragments/device-more",
    "GET /fragments/shift-{part}",
    "GET /fragments/campaign",
    "GET /fragments/campaign-plan",
    "GET /fragments/run",
    "GET /fragments/runs-under-way",
    "GET /diagnosis/{command}/sound.wav",
    "GET /metrics",
}
"""What only a session or a token opens."""
VALUES = {
    "case": "1",
    "event": "1",
    "part": "log",
    "sha256": "0" * 64,
    "release": "1",
    "fragment": "totals",
    "name": "page.css",
    "action": "pause",
}


def walk(server: AdminServer) -> Iterator[tuple[str, str]]:
    """(method, path) of every route of the service, however it was included."""
    for route in iter_route_contexts(server.app.routes):
        if route.path is None or route.methods is None:
            raise AssertionError(f"{route} is a kind of route that this test does not see into")
        for method in route.methods:
            yield method, route.path


def routes(server: AdminServer) -> list[tuple[str, str]]:
    found = sorted({(method, path) for method, path in walk(server) if method != "OPTIONS"})
    gets = {path for method, path in found if method == "GET"}
    return [(method, path) for method, path in found if method != "HEAD" or path not in gets]


def concrete(path: str) -> str:
    return re.sub(r"{(\w+)}", lambda match: VALUES.get(match[1], "press-1"), path)


def ask(http: httpx.Client, method: str, path: str) -> httpx.Response:
    """Ask without a body: what the permissions allow is refused for another reason, or answered."""
    if path.endswith("/events"):
        with http.stream(method, path) as answer:
            return answer
    return http.request(method, path, timeout=30)


def test_every_route_is_listed_and_no_other(server: AdminServer) -> None:
    found = {f"{method} {path}" for method, path in routes(server)}
    ours = {name.replace(f" {API}", " ", 1) for name in found if f" {API}/" in name}
    assert ours == set(ROUTES) - {"GET /metrics"}, "list each route in access/permissions.py"
    assert {name for name in found if f" {API}/" not in name} == PUBLIC | PAGES | SESSION


def test_nobody_gets_in(server: AdminServer) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        for method, path in routes(server):
            if f"{method} {path}" in PUBLIC:
                continue
            answer = ask(http, method, concrete(path))
            if f"{method} {path}" in PAGES:
                assert 'action="/sign-in"' in answer.text, path
                assert "press-1" not in answer.text, path
            else:
                assert answer.status_code == 401, f"{method} {path}"


@pytest.mark.parametrize("role", Role)
def test_each_role_may_do_what_it_may(server: AdminServer, role: Role) -> None:
    token = server.token_of(role)
    with server.http(token) as http:
        for method, path in routes(server):
            if not path.startswith(API):
                continue
            template = path.removeprefix(API)
            actions = ("start", "approve", "pause", "resume", "complete", "abort") if "{action}" in template else ("",)
            for action in actions:
                needed = permission_of(method, template, {"action": action})
                answer = ask(http, method, concrete(path.replace("{action}", action)))
                forbidden = answer.status_code == 403 and answer.headers.get("content-type", "") != ""
                assert forbidden == (needed not in ROLES[role]), (
                    f"{role} {method} {path} {action}: {answer.status_code}"
                )


def test_every_permission_is_used_and_given_to_somebody() -> None:
    given = frozenset[str]().union(*ROLES.values())
    assert given == ROLES[Role.ADMIN]
    for name in ROUTES.values():
        assert "{" in name or name in given
    assert all("read" in permissions for permissions in ROLES.values())


def test_a_session_needs_the_csrf_token_for_a_change(server: AdminServer) -> None:
    from wheeltapper_fleet.access.sessions import csrf_token

    cookie = server.sign_in()
    with httpx.Client(base_url=server.url, cookies={COOKIE: cookie}, trust_env=False) as browser:
        body = {"device": "press-9"}
        for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": csrf_token(cookie)[:-1]}, {"X-CSRF-Token": "é"}):
            headers = {name.encode(): value.encode() for name, value in wrong.items()}
            assert browser.post(f"{API}/tokens", json=body, headers=headers).status_code == 401
        right = browser.post(f"{API}/tokens", json=body, headers={"X-CSRF-Token": csrf_token(cookie)})
        assert right.status_code == 201, right.text
