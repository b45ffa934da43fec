"""What a simulated device demands of an assignment before it carries it out: the rules of an agent. Pure.

In this order: the envelope, the director's signature over the bytes received, and only then the payload, the device,
the counter, the expiry (docs/protocol.md). ``verify`` is handed in and knows the director's keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from securesystemslib.dsse import Envelope

from wheeltapper_protocols.errors import WireError, brief
from wheeltapper_protocols.wire.assignment import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Assignment, decode_assignment

__all__ = ["NotSignedError", "RefusedError", "Verify", "judged"]

Verify = Callable[[bytes, dict[str, Any]], None]
"""Raises ValueError where the signatures over the bytes do not meet the director's threshold."""


class RefusedError(Exception):
    """An assignment that the device does not carry out; ``code`` as an agent says it.

    ``release`` is given where its executions end by that.
    """

    def __init__(self, code: str, message: str, executions: tuple[str, ...] = (), release: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.executions = executions
        self.release = release


class NotSignedError(RefusedError):
    """The signature does not hold by the metadata that are known; newer ones may know another key."""


def judged(
    raw: bytes, device: str, counter: int, payload_sha256: str, verify: Verify, now: float
) -> tuple[Assignment, str] | None:
    """The assignment in ``raw`` and the SHA-256 of its payload; None where it is the one that was accepted last.

    Args:
        raw: the bytes received: a DSSE envelope.
        device: the id of this device.
        counter: of the assignment accepted last.
        payload_sha256: of its payload.
        verify: checks the signatures.
        now: Unix time by the device's clock.

    Raises:
        RefusedError: ``assignment.malformed``, ``assignment.device``, ``assignment.counter``, ``assignment.expired``.
        NotSignedError: ``assignment.signature``.
    """
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise RefusedError("assignment.malformed", f"the envelope has {len(raw)} bytes")
    try:
        envelope = Envelope.from_dict(json.loads(raw))
    except Exception as error:  # foreign bytes through foreign decoders: any failure is a refusal
        raise RefusedError("assignment.malformed", f"not a DSSE envelope: {brief(error)}") from error
    try:
        verify(envelope.pae(), envelope.signatures)
    except ValueError as error:
        raise NotSignedError("assignment.signature", f"not signed by the director: {brief(error)}") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RefusedError("assignment.malformed", f"the payload is {envelope.payload_type[:80]!r}")
    try:
        assignment = decode_assignment(envelope.payload)
    except WireError as error:
        raise RefusedError("assignment.malformed", error.message) from error
    digest = hashlib.sha256(envelope.payload).hexdigest()
    executions = tuple(order.execution for order in assignment.executions)
    if assignment.device != device:
        raise RefusedError("assignment.device", f"the assignment is for {assignment.device}")
    if digest == payload_sha256:
        return None
    if assignment.counter <= counter:
        raise RefusedError(
            "assignment.counter", f"counter {assignment.counter} does not rise above {counter}", executions
        )
    if assignment.expires_at <= now:
        raise RefusedError("assignment.expired", f"the assignment expired at {assignment.expires_at:.0f}", executions)
    return assignment, digest
