"""How the admin API reports an error: JSON ``{code, message}`` with a stable dotted code.

Invariant: an unexpected error is answered with ``api.internal`` and status 500. Its text stays out of the answer.
"""

from __future__ import annotations

import logging
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["add_error_handlers"]

_LOG: Final = logging.getLogger(__name__)
_CODES: Final = {404: "api.not_found", 405: "api.method"}
"""Codes of errors that the framework raises, by HTTP status; the others are ``api.bad_request``."""


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error that a route raises with JSON ``{code, message}``."""
    for kind in (FleetError, ProtocolError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(Exception, _internal_error)


def _refuse(_: Request, error: Exception) -> Response:
    """Answer an expected error with its own code and status."""
    if isinstance(error, FleetError):
        code, message, status = error.code, error.message, error.status
    elif isinstance(error, ProtocolError):
        code, message, status = error.code, error.message, 422
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        code, message, status = "api.invalid", f"{where}: {first.get('msg', 'not valid')}"[:500], 422
    elif isinstance(error, HTTPException):
        status = error.status_code
        code, message = _CODES.get(status, "api.bad_request"), str(error.detail)
    else:
        raise error
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"code": code, "message": message}, status_code=status, headers=headers)


def _internal_error(_: Request, error: Exception) -> Response:
    _LOG.error("a request failed: %s", type(error).__name__)
    return JSONResponse({"code": "api.internal", "message": "the service failed; see its log"}, status_code=500)
