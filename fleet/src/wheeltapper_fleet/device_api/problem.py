"""How the devices' API reports an error: problem details with a stable dotted code.

``message`` says the same as ``detail``, for agents that read it.
"""

from __future__ import annotations

import logging
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from wheeltapper_fleet.db.faults import database_fault
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.problem import PROBLEM_JSON, problem
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["add_error_handlers"]

_LOG: Final = logging.getLogger(__name__)
_CODES: Final = {404: "api.not_found", 405: "api.method", 413: "api.too_large"}
"""Codes of errors that the framework raises, by HTTP status; the others are ``api.bad_request``."""


_TOO_MANY: Final = 429


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error that a route raises with problem details."""

    def answer(code: str, message: str, status: int) -> JSONResponse:
        headers = {"Retry-After": "60"} if status == _TOO_MANY else None
        return JSONResponse(problem(code, message, status, message=message), status, headers, PROBLEM_JSON)

    @app.exception_handler(FleetError)
    async def fleet_error(_: Request, error: FleetError) -> JSONResponse:
        return answer(error.code, error.message, error.status)

    @app.exception_handler(ProtocolError)
    async def protocol_error(_: Request, error: ProtocolError) -> JSONResponse:
        return answer(error.code, error.message, 400)

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_: Request, __: ClientDisconnect) -> JSONResponse:  # the client is gone; nobody reads this
        return answer("api.bad_request", "the connection ended before the body did", 400)

    @app.exception_handler(SQLAlchemyError)
    async def database_error(_: Request, error: SQLAlchemyError) -> JSONResponse:
        fault = database_fault(error)
        if fault is None:
            raise error
        return answer("api.database", f"the database does not answer now ({fault}); try again later", 503)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return answer(_CODES.get(error.status_code, "api.bad_request"), str(error.detail), error.status_code)

    @app.exception_handler(Exception)
    async def internal_error(_: Request, error: Exception) -> JSONResponse:
        _LOG.error("a request of a device failed: %s", type(error).__name__)  # the server logs where
        return answer("api.internal", "the service failed; try again later", 500)
