"""The assignment: the whole state that one device shall be in, and what it shall do now to get there.

``pipelines`` says what each pipeline shall run. ``executions`` are the attempts to carry out now, in that order; each
covers some of the pipelines. An execution that a newer assignment leaves out is withdrawn: the device gives it up.

The ``director`` key signs it as a DSSE envelope (github.com/secure-systems-lab/dsse). This module has the payload only.
The envelope is ``securesystemslib.dsse.Envelope``: its signature is verified over the bytes received, before they are
parsed. The agent's ``update/trust.py`` checks what else an assignment must meet before a device accepts it.

Format 1 named one campaign and one execution, for all of its pipelines. It is read as an assignment with that one
execution, and no longer written.
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
    "MAX_PIPELINES",
    "PAYLOAD_TYPE",
    "Assignment",
    "ExecutionOrder",
    "PipelineTarget",
    "decode_assignment",
    "encode_assignment",
]

PAYLOAD_TYPE: Final = "application/vnd.wheeltapper.assignment+json"
MAX_ENVELOPE_BYTES: Final = 64 * 1024
MAX_PIPELINES: Final = 64
"""Most pipelines, and most executions, of one assignment. The largest one fits into :data:`MAX_ENVELOPE_BYTES`."""

Counter = Annotated[int, Meta(ge=1, le=2**53)]


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


class ExecutionOrder(Struct, frozen=True, kw_only=True):
    """One attempt to bring some pipelines to what the assignment says of them.

    The targets of an execution never change: other targets are another execution, with another id.
    """

    execution: Identifier
    campaign: Identifier
    pipelines: Annotated[list[Name], Meta(min_length=1, max_length=MAX_PIPELINES)]
    deadline: Seconds | UnsetType = UNSET
    """Unix time by which the release must be active, or the execution fails. Left out of the JSON where it is unset."""

    def __post_init__(self) -> None:
        if len(set(self.pipelines)) != len(self.pipelines):
            raise ValueError(f"execution {self.execution} names a pipeline twice")


class Assignment(Struct, frozen=True, kw_only=True):
    """What one device shall run. ``counter`` rises with every assignment to this device. Times are Unix seconds.

    Example::

        Assignment(device="press-1", counter=7, issued_at=now, expires_at=now + 3600, pipelines={}, executions=[])
    """

    format: Annotated[int, Meta(ge=2, le=2)] = 2
    device: Name
    counter: Counter
    issued_at: Seconds
    expires_at: Seconds
    pipelines: Annotated[dict[Name, PipelineTarget | None], Meta(max_length=MAX_PIPELINES)]
    """By pipeline: the release that it shall run; None: no release of the fleet's."""
    executions: Annotated[list[ExecutionOrder], Meta(max_length=MAX_PIPELINES)]
    """What shall be done now, in this order. Whatever is under way and not named here is withdrawn."""

    def __post_init__(self) -> None:
        ids = [order.execution for order in self.executions]
        if len(set(ids)) != len(ids):
            raise ValueError("two executions have one id")
        named = [name for order in self.executions for name in order.pipelines]
        if len(set(named)) != len(named):
            raise ValueError("two executions name one pipeline")
        for name in named:
            if self.pipelines.get(name) is None:
                raise ValueError(f"an execution names pipeline {name}, which has no target")

    def targets(self, order: ExecutionOrder) -> dict[str, PipelineTarget]:
        """By pipeline: what ``order``, which is one of ``executions``, brings."""
        found = {name: self.pipelines[name] for name in order.pipelines}
        return {name: target for name, target in found.items() if target is not None}


class _AssignmentFormat1(Struct, frozen=True, kw_only=True):
    """Format 1: one execution for all pipelines."""

    format: Annotated[int, Meta(ge=1, le=1)] = 1
    device: Name
    counter: Counter
    issued_at: Seconds
    expires_at: Seconds
    campaign: Identifier
    execution: Identifier
    pipelines: Annotated[dict[Name, PipelineTarget], Meta(min_length=1, max_length=MAX_PIPELINES)]
    deadline: Seconds | UnsetType = UNSET

    def upgraded(self) -> Assignment:
        """The same in the present format."""
        order = ExecutionOrder(
            execution=self.execution, campaign=self.campaign, pipelines=list(self.pipelines), deadline=self.deadline
        )
        return Assignment(
            device=self.device,
            counter=self.counter,
            issued_at=self.issued_at,
            expires_at=self.expires_at,
            pipelines=dict(self.pipelines),
            executions=[order],
        )


class _Format(Struct):
    format: int = 1


_FORMAT: Final = msgspec.json.Decoder(_Format)
_FORMAT_1: Final = msgspec.json.Decoder(_AssignmentFormat1)
_FORMAT_2: Final = msgspec.json.Decoder(Assignment)


def encode_assignment(assignment: Assignment) -> bytes:
    """The payload bytes to sign: JSON with sorted keys."""
    return msgspec.json.encode(assignment, order="deterministic")


def decode_assignment(payload: bytes) -> Assignment:
    """The assignment in ``payload``, of either format, whose signature the caller has verified.

    Raises:
        WireError: ``assignment.malformed``.
    """
    try:
        if _FORMAT.decode(payload).format == 1:
            return _FORMAT_1.decode(payload).upgraded()
        return _FORMAT_2.decode(payload)
    except (msgspec.DecodeError, WireError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError(
            "assignment.malformed", f"the assignment cannot be read: {getattr(error, 'message', error)}; sign a new one"
        ) from error
