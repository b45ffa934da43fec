"""The routes by which devices upload recordings: whole with PUT, or in pieces with PATCH.

What this module does not do: authenticate devices (:mod:`app`), store recordings
(:mod:`wheeltapper_fleet.captures.service`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from wheeltapper_fleet.captures.service import Captures
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.ids import SHA256_PATTERN
from wheeltapper_protocols.wire.ids import name as check_name

__all__ = ["add_captures"]

_WRITE_BYTES: Final = 1024 * 1024
_SHA256: Final = re.compile(SHA256_PATTERN)


def add_captures(app: FastAPI, captures: Captures, device: Callable[[Request], str]) -> None:
    """Add the routes by which devices upload recordings.

    Args:
        app: the devices' API.
        captures: stores the recordings.
        device: dependency that gives the id of the device that makes the request.
    """

    @app.put("/v1/captures/{command}")
    async def capture(command: str, request: Request, sender: str = Depends(device)) -> dict[str, Any]:
        await run_in_threadpool(captures.command_for, sender, command)
        sha256 = request.headers.get("x-content-sha256", "")
        with captures.upload() as upload:
            await _receive(request, upload)
            return asdict(await run_in_threadpool(captures.accept, sender, command, upload, sha256))

    _add_resumable_captures(app, captures, device)


def _add_resumable_captures(app: FastAPI, captures: Captures, device: Callable[[Request], str]) -> None:
    """Add the routes of resumable uploads: HEAD gives the offset, PATCH appends, DELETE cancels.

    Source: draft-ietf-httpbis-resumable-upload-09, with one difference: the device chooses the recording's name, so
    there is no POST that creates one.
    """

    def state(sender: str, name: str) -> Response:
        captures.check_may_upload(sender, name)
        known = captures.find(name)
        offset = known.length if known is not None else captures.partials.offset(sender, name)
        complete = "?1" if known is not None else "?0"
        headers = {"Upload-Offset": str(offset), "Upload-Complete": complete, "Cache-Control": "no-store"}
        return Response(status_code=204, headers=headers)

    @app.head("/v1/captures/{name}")
    def offset(name: str, sender: str = Depends(device)) -> Response:
        return state(sender, name)

    @app.delete("/v1/captures/{name}", status_code=204)
    def cancel(name: str, sender: str = Depends(device)) -> Response:
        captures.check_may_upload(sender, name)
        captures.partials.remove(sender, name)
        return Response(status_code=204)

    @app.patch("/v1/captures/{name}")
    async def append(name: str, request: Request, sender: str = Depends(device)) -> Response:
        piece = _piece(request)
        await run_in_threadpool(captures.check_may_upload, sender, name)
        if (known := await run_in_threadpool(captures.find, name)) is not None:
            if known.sha256 != piece.sha256:
                raise FleetError(
                    "capture.conflict", f"another recording has been uploaded as {name} already; use a new name"
                )
            return JSONResponse(asdict(known))
        place = (sender, name, piece.offset, piece.length, piece.sha256)
        partial = await run_in_threadpool(captures.partials.resume, *place)
        await _receive(request, partial)
        headers = {"Upload-Offset": str(partial.position), "Upload-Complete": "?0"}
        if not partial.complete:
            return Response(status_code=204, headers=headers)
        kept = await run_in_threadpool(captures.finish, sender, name, partial, piece.pipeline)
        return JSONResponse(asdict(kept), headers={**headers, "Upload-Complete": "?1"})


@dataclass(frozen=True)
class _Piece:
    """The headers of a PATCH request.

    Args:
        offset: where in the recording the body starts, bytes.
        length: the whole recording's length, bytes.
        sha256: the whole recording's hash.
        pipeline: which pipeline recorded it.
    """

    offset: int
    length: int
    sha256: str
    pipeline: str


def _piece(request: Request) -> _Piece:
    """Read the headers of a PATCH request.

    Raises:
        FleetError: ``api.bad_request``.
    """
    try:
        numbers = [request.headers.get(key, "") for key in ("upload-offset", "upload-length")]
        if not all(text.isascii() and text.isdigit() and len(text) <= 15 for text in numbers):
            raise FleetError("api.bad_request", "Upload-Offset and Upload-Length must be numbers")
        sha256 = request.headers.get("x-content-sha256", "")
        if not _SHA256.match(sha256):
            raise FleetError("api.bad_request", "X-Content-SHA256 must be the hash of the whole recording")
        if request.headers.get("content-type") != "application/partial-upload":
            raise FleetError("api.bad_request", "Content-Type must be application/partial-upload")
        pipeline = check_name(request.headers.get("x-pipeline", "main"), "pipeline name")
    except ProtocolError as error:
        raise FleetError("api.bad_request", error.message) from error
    return _Piece(int(numbers[0]), int(numbers[1]), sha256, pipeline)


class _Sink(Protocol):
    """A file that an upload is written to."""

    def write(self, chunk: bytes) -> None: ...


async def _receive(request: Request, upload: _Sink) -> None:
    """Write the request's body to ``upload`` in pieces of a megabyte, in threads, so that the event loop goes on."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _WRITE_BYTES:
            await run_in_threadpool(upload.write, bytes(buffer))
            buffer.clear()
    await run_in_threadpool(upload.write, bytes(buffer))
