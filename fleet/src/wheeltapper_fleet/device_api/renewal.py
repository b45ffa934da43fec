"""The routes by which a device renews its certificate, and by which it tries the new one.

What this module does not do: authenticate devices (:mod:`app`), issue certificates
(:mod:`wheeltapper_fleet.devices.renewal`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Request
from msgspec import Meta, Struct
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from wheeltapper_fleet.device_api.rate_limit import RateLimit
from wheeltapper_fleet.device_api.tls_server import SCOPE_SHA256
from wheeltapper_fleet.devices.renewal import renew_certificate
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import MAX_CSR_BYTES, FleetCA

__all__ = ["add_renewal"]


class _RenewRequest(Struct, frozen=True):
    """The body of a renewal: a certificate signing request in PEM, signed by the new key."""

    csr: Annotated[str, Meta(max_length=MAX_CSR_BYTES)]


def add_renewal(
    app: FastAPI,
    engine: Engine,
    ca: FleetCA,
    device: Callable[[Request], str],
    limit: RateLimit,
    read_body: Callable[[Request, int], Awaitable[bytes]],
) -> None:
    """Add the routes of renewal.

    Args:
        app: the devices' API.
        engine: the fleet's database.
        ca: issues the certificates.
        device: dependency that gives the id of the device that makes the request.
        limit: how often one device may ask.
        read_body: reads a request's body up to a length in bytes.
    """

    @app.post("/v1/certificate")
    async def renew(request: Request, sender: str = Depends(device)) -> dict[str, Any]:
        limit.take(sender)
        body = await read_body(request, 2 * MAX_CSR_BYTES)
        try:
            csr = msgspec.json.decode(body, type=_RenewRequest).csr.encode("utf-8")
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise FleetError("api.bad_request", 'send JSON {"csr": PEM text}') from error
        shown = str(request.scope[SCOPE_SHA256])
        return asdict(await run_in_threadpool(renew_certificate, engine, ca, sender, shown, csr))

    @app.get("/v1/certificate")
    def current(request: Request, sender: str = Depends(device)) -> dict[str, str]:
        """Which certificate the fleet sees. It is the device's current one by now."""
        return {"device": sender, "sha256": str(request.scope[SCOPE_SHA256])}
