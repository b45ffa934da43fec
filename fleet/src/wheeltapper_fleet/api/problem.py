"""How the admin API reports an error: problem details (:mod:`wheeltapper_fleet.ground.problem`) with a stable code.

Invariants:
    * A database that does not answer now is ``api.database`` and status 503: the request is right, and may be repeated.
    * An unexpected error is answered with ``api.internal`` and status 500, by the guard in front of the app
      (:mod:`wheeltapper_fleet.api.guard`), so that its answer has the same headers. Its text stays out of the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.problem import PROBLEM_JSON, problem
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["REFUSALS", "Problem", "add_error_handlers", "failure_response", "problem_response"]

_LOG: Final = logging.getLogger(__name__)
_CODES: Final = {404: "api.not_found", 405: "api.method"}
"""Codes of errors that the framework raises, by HTTP status; the others are ``api.bad_request``."""


_RETRY_SECONDS: Final = 5


class Problem(BaseModel):
    """Why a request was refused (RFC 9457): a stable dotted ``code`` for programs, and ``detail`` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str


REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "There is no valid token (`api.unauthorized`)."},
    422: {"model": Problem, "description": "The request is not valid (`api.invalid`, or the code of the rule)."},
    "default": {"model": Problem, "description": "The request is refused; `code` says why."},
}
"""What every route may answer besides its result, for the OpenAPI document."""


def problem_response(
    code: str, message: str, status: int, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """The answer to a request that is refused; ``more`` is said beside the rest."""
    body = problem(code, message, status, **more)
    return JSONResponse(body, status, headers=headers, media_type=PROBLEM_JSON)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error that a route raises with problem details."""
    for kind in (FleetError, ProtocolError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(SQLAlchemyError, _database_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)


def _refuse(request: Request, error: Exception) -> Response:
    """Answer an expected error with its own code and status."""
    headers: dict[str, str] = {}
    if isinstance(error, FleetError):
        code, message, status = error.code, error.message, error.status
    elif isinstance(error, ProtocolError):
        code, message, status = error.code, error.message, 422
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        kind = str(first.get("type", ""))
        code = kind if "." in kind else "api.invalid"  # a rule that the schema cannot say has a code of its own
        message, status = f"{where}: {first.get('msg', 'not valid')}"[:500], 422
    elif isinstance(error, HTTPException):
        status = error.status_code
        code, message = _CODES.get(status, "api.bad_request"), str(error.detail)
        headers |= error.headers or {}
        if status == 405 and (methods := _methods(request)):
            headers["Allow"] = ", ".join(methods)
    else:
        raise error
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 429:
        headers.setdefault("Retry-After", "60")
    return problem_response(code, message, status, headers)


def _methods(request: Request) -> list[str]:
    """The documented methods of the path of ``request`` (RFC 9110, section 15.5.6); empty for a path of the page.

    The framework names those of the first route only, though each method of a path has a route of its own.
    """
    for template, operations in request.app.openapi()["paths"].items():
        if compile_path(template)[0].match(request.url.path):
            return sorted(method.upper() for method in operations)
    return []


def failure_response(error: Exception) -> JSONResponse:
    """The answer to a request that failed by ``error``, which is no refusal: 503 if the database does not answer."""
    fault = database_fault(error) if isinstance(error, SQLAlchemyError) else None
    if fault is None:
        _LOG.error("a request failed: %s", type(error).__name__, exc_info=error)
        return problem_response("api.internal", "the service failed; see its log", 500)
    message = f"the database does not answer now ({fault}); try again in a few seconds"
    _LOG.warning("a request is answered with 503: %s", fault)
    headers = {"Retry-After": str(_RETRY_SECONDS)}
    return problem_response("api.database", message, 503, headers)


def _database_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, SQLAlchemyError) or database_fault(error) is None:
        raise error
    return failure_response(error)


def _disconnected(_: Request, __: Exception) -> Response:
    """The client is gone before its body ended: nobody reads the answer, and it is no fault of the service."""
    return problem_response("api.bad_request", "the body broke off", 400)
