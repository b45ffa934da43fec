"""The OpenAPI document: what the framework cannot say by itself.

Refusals are ``application/problem+json``; a token or the page's cookie opens a route; each subject has a description;
a POST takes an ``Idempotency-Key``; and the operation names the permission that it needs.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from wheeltapper_fleet.access.permissions import ROUTES
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.ground.problem import PROBLEM_JSON, problem

__all__ = ["describe"]

_PREFIX: Final = "/api/v1"
_SUBJECTS: Final = {
    "access": "Who one is, API tokens, and the record of changes.",
    "alerts": "What a person should see.",
    "assets": "Sites, machines, components and measuring points.",
    "campaigns": "Take a release to devices, wave by wave.",
    "captures": "Recordings from devices.",
    "default-releases": "What devices run where no campaign says otherwise.",
    "devices": "Enrolment tokens, devices and their life.",
    "events": "Live changes of what a screen shows.",
    "processes": "The processes of a service that is several.",
    "runs": "Train by a recipe, on a trainer; what it made.",
    "releases": "Publish, list and verify releases; drift.",
    "summary": "The fleet in numbers.",
}
_EXAMPLES: Final[dict[str, Any]] = {
    "TokenRequest": {"device": "press-1", "ttl_seconds": 86400, "tags": {"line": "a"}},
    "CaptureRequest": {"pipeline": "bearing", "snapshots": 60},
    "ApiTokenRequest": {"name": "ann@plant-7", "roles": ["operator"], "ttl_seconds": 2592000},
    "CampaignRequest": {"spec": {"model": "bearing-anomaly", "release": 3, "waves": [{"count": 5}, {}]}},
    "CampaignAction": {"expected_version": 4},
    "DefaultReleaseRequest": {"model": "bearing-anomaly", "release": 3, "pipeline": "main", "why": "passed all waves"},
    "Problem": problem("campaign.not_found", "there is no campaign 'cmp-1'", 404),
}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repeated with the same key, the request is done once.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,100}$"},
}


def describe(app: FastAPI) -> None:
    """Let the document of ``app`` say what it can. It is made once, when it is first asked for."""
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(made())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as the framework's documentation says


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    used: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _refusals(operation)
            if not path.startswith(_PREFIX):
                continue
            used.update(operation.get("tags", ()))
            _versions(operation)
            needed = ROUTES.get(f"{method.upper()} {path.removeprefix(_PREFIX)}")
            operation["description"] = f"{operation.get('description', '')}\n\nNeeds the permission `{needed}`."
            operation["security"] = [{"token": []}, {"session": []}]
            if method == "post":
                operation.setdefault("parameters", []).append(_KEY)
    document["tags"] = [{"name": name, "description": _SUBJECTS.get(name, name)} for name in sorted(used)]
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "An API token."},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": "The page's session; a change also needs its token in the header X-CSRF-Token.",
        },
    }
    for name, example in _EXAMPLES.items():
        if name in components.get("schemas", {}):
            components["schemas"][name]["examples"] = [example]
    return document


def _versions(operation: dict[str, Any]) -> None:
    """Say what answers a change that was decided on something else than what is there."""
    if any(each["name"] == "If-Match" for each in operation.get("parameters", ())):
        schema = {"$ref": "#/components/schemas/Problem"}
        operation["responses"]["412"] = {
            "description": "It has changed since (`….conflict`); `current` says what is there now.",
            "headers": {"ETag": {"description": "Of what is there now.", "schema": {"type": "string"}}},
            "content": {PROBLEM_JSON: {"schema": schema}},
        }


def _refusals(operation: dict[str, Any]) -> None:
    """Say the true media type of refusals."""
    for answer in operation["responses"].values():
        content = answer.get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        if schema.get("$ref", "").endswith("/Problem"):
            content[PROBLEM_JSON] = content.pop("application/json")
