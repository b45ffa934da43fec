"""The assignment: which release each pipeline of one device shall run.

The ``director`` key signs it as a DSSE envelope (github.com/secure-systems-lab/dsse). This module has the payload only.
The envelope is ``securesystemslib.dsse.Envelope``: its signature is verified over the bytes received, before they are
parsed. The agent's ``update/trust.py`` checks what else an assignment must meet before a device accepts it.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.ids import SHA256_PATTERN, parse_manifest_path
from wheeltapper_protocols.wire.messages import Identifier, Name, Release, Seconds

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "PAYLOAD_TYPE",
    "Assignment",
    "PipelineTarget",
    "decode_assignment",
    "encode_assignment",
]

PAYLOAD_TYPE: Final = "application/vnd.wheeltapper.assignment+json"
MAX_ENVELOPE_BYTES: Final = 64 * 1024


class PipelineTarget(Struct, frozen=True, kw_only=True):
    """The manifest that one pipeline shall run: its TUF target path, length in bytes and SHA-256 in hex."""

    model: Name
    release: Release
    path: Annotated[str, Meta(max_length=200)]
    length: Annotated[int, Meta(ge=1, le=1024 * 1024)]
    sha256: Annotated[str, Meta(pattern=SHA256_PATTERN)]

    def __post_init__(self) -> None:
        if parse_manifest_path(self.path) != (self.model, self.release):
            raise ValueError("path does not belong to model and release")


class Assignment(Struct, frozen=True, kw_only=True):
    """What one device shall run. ``counter`` rises with every assignment to this device. Times are Unix seconds."""

    format: Annotated[int, Meta(ge=1, le=1)] = 1
    device: Name
    counter: Annotated[int, Meta(ge=1, le=2**53)]
    issued_at: Seconds
    expires_at: Seconds
    campaign: Identifier
    execution: Identifier
    pipelines: Annotated[dict[Name, PipelineTarget], Meta(min_length=1, max_length=64)]
    deadline: Seconds | UnsetType = UNSET
    """Unix time by which the release must be active, or the execution fails. Left out of the JSON where it is unset."""


_DECODER: Final = msgspec.json.Decoder(Assignment)


def encode_assignment(assignment: Assignment) -> bytes:
    """The payload bytes to sign: JSON with sorted keys."""
    return msgspec.json.encode(assignment, order="deterministic")


def decode_assignment(payload: bytes) -> Assignment:
    """The assignment in ``payload``, whose signature the caller has verified.

    Raises:
        WireError: ``assignment.malformed``.
    """
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, WireError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError("assignment.malformed", f"the assignment cannot be read: {error}; sign a new one") from error
