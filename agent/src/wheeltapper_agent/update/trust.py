"""The rules that an assignment must meet, in their order: the signature over the bytes received, then all others. Pure.

Invariants:
    * Nothing of the payload is parsed before its signature was verified.
    * The counter must rise; the same payload again is :data:`IGNORED`, which is neither accepted nor refused.
    * Time never runs backwards past the newest verified time (:attr:`TrustState.newest_time_seconds`). What an
      assignment says cannot push that time past the expiry of the metadata that it was verified with.
    * Whatever the bytes are, only :class:`RefusedError` leaves this module.

What this module does not do: fetch or verify TUF metadata. ``verify`` is handed in and knows the director's keys.

Source for the order and the attacks: Uptane Standard 2.0, section 5.4.4 (full verification).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_protocols.errors import WireError, brief
from wheeltapper_protocols.wire.assignment import (
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    Assignment,
    PipelineTarget,
    decode_assignment,
)

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope

__all__ = [
    "IGNORED",
    "Accepted",
    "Ignored",
    "RefusedError",
    "TrustState",
    "Verify",
    "check_assignment",
    "effective_now",
    "is_known",
    "read_envelope",
]

Verify = Callable[[bytes, dict[str, Any]], None]
"""Raises ValueError when the signatures (by key id) over the bytes do not meet the director's threshold."""


class RefusedError(Exception):
    """An assignment that must not be carried out.

    Attributes:
        code: stable code of the reason.
        message: the reason, for a person.
        executions: ids of its executions that were not accepted before; none where the signature did not hold.
    """

    def __init__(self, code: str, message: str, executions: tuple[str, ...] = ()) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
        self.executions = executions


class Ignored(Enum):
    """The assignment was accepted before, and is not carried out again."""

    IGNORED = "ignored"


IGNORED: Final = Ignored.IGNORED


@dataclass(frozen=True, slots=True)
class TrustState:
    """What the device remembers of the assignments that it accepted."""

    device: str
    """Id of this device."""
    counter: int = 0
    """Counter of the newest assignment."""
    payload_sha256: str = ""
    """SHA-256 (hex) of its payload."""
    newest_time_seconds: float = 0.0
    """Newest Unix time in anything that was verified."""
    execution_lost: bool = False
    """The journal lost the executions of the newest assignment, so that very one may be carried out once more."""
    targets: Mapping[str, Mapping[str, PipelineTarget]] = field(default_factory=dict)
    """By execution that was accepted and has not ended: its targets."""
    ended: frozenset[str] = frozenset()
    """Ids of executions that ended."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An assignment to act on, and what to remember from now on."""

    assignment: Assignment
    trust_state: TrustState


class _Signature(Struct):
    keyid: Annotated[str, Meta(max_length=128)]
    sig: Annotated[str, Meta(max_length=8192)]


class _Envelope(Struct):
    payload: Annotated[str, Meta(max_length=MAX_ENVELOPE_BYTES)]
    payloadType: Annotated[str, Meta(max_length=200)]  # noqa: N815  # DSSE's spelling
    signatures: Annotated[list[_Signature], Meta(min_length=1, max_length=16)]


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)


def effective_now(clock_seconds: float, trust_state: TrustState) -> float:
    """The Unix time to judge expiry by: the clock's, but never before the newest verified time."""
    return max(clock_seconds, trust_state.newest_time_seconds)


def read_envelope(raw: bytes) -> Envelope:
    """The DSSE envelope in ``raw``, with nothing verified.

    Raises:
        RefusedError: ``assignment.malformed``.
    """
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise RefusedError(
            "assignment.malformed", f"the envelope has {len(raw)} bytes; the cap is {MAX_ENVELOPE_BYTES}"
        )
    from securesystemslib.dsse import Envelope  # brings cryptography, 9 MB that most starts do without

    try:
        return Envelope.from_dict(msgspec.to_builtins(_ENVELOPE.decode(raw)))
    except Exception as error:  # foreign bytes through foreign decoders: any failure is a refusal
        raise RefusedError("assignment.malformed", f"not a DSSE envelope: {brief(error)}") from error


def is_known(raw: bytes, trust_state: TrustState) -> bool:
    """Whether the envelope in ``raw`` carries the very assignment that was accepted last.

    The broker repeats that one whenever the device comes online. It changes nothing, whoever signed it this time, so
    there is nothing to verify and no metadata to fetch.
    """
    if trust_state.execution_lost or not trust_state.payload_sha256 or len(raw) > MAX_ENVELOPE_BYTES:
        return False
    try:
        payload = base64.b64decode(_ENVELOPE.decode(raw).payload, validate=True)
    except ValueError:  # msgspec's errors are among them
        return False
    return hashlib.sha256(payload).hexdigest() == trust_state.payload_sha256


def check_assignment(
    raw: bytes, trust_state: TrustState, verify: Verify, clock_seconds: float, latest_seconds: float = math.inf
) -> Accepted | Ignored:
    """Judge the envelope in ``raw`` by all rules.

    Args:
        raw: the bytes received: a DSSE envelope.
        trust_state: what was accepted before.
        verify: checks the signatures against the director's keys in the verified TUF metadata.
        clock_seconds: Unix time by the device's clock.
        latest_seconds: Unix time at which these metadata expire; no later time is remembered as the newest.

    Returns:
        The assignment and what to remember of it; or :data:`IGNORED`, where it was accepted before.

    Raises:
        RefusedError: ``assignment.malformed``, ``assignment.signature``, ``assignment.device``, ``assignment.counter``,
            ``assignment.expired``.
    """
    envelope = read_envelope(raw)
    try:
        verify(envelope.pae(), envelope.signatures)
    except ValueError as error:
        raise RefusedError("assignment.signature", f"not signed by the director: {brief(error)}") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RefusedError("assignment.malformed", f"the payload is {envelope.payload_type[:80]!r}, not an assignment")
    try:
        assignment = decode_assignment(envelope.payload)
    except WireError as error:
        raise RefusedError("assignment.malformed", brief(error.message)) from error
    found = _judge(assignment, hashlib.sha256(envelope.payload).hexdigest(), trust_state, clock_seconds)
    if not isinstance(found, Accepted):
        return found
    # Otherwise a director with a wrong time could lock the device out of all later metadata for good.
    stated_seconds = min(assignment.issued_at, assignment.expires_at, latest_seconds)
    newest = max(trust_state.newest_time_seconds, stated_seconds)
    return Accepted(assignment, replace(found.trust_state, newest_time_seconds=newest))


def _judge(assignment: Assignment, digest: str, trust_state: TrustState, clock_seconds: float) -> Accepted | Ignored:
    known = trust_state.ended | trust_state.targets.keys()
    new = tuple(order.execution for order in assignment.executions if order.execution not in known)
    if assignment.device != trust_state.device:
        message = f"the assignment is for {assignment.device}, this device is {trust_state.device}"
        raise RefusedError("assignment.device", message, new)
    again = assignment.counter == trust_state.counter and digest == trust_state.payload_sha256
    if again and not trust_state.execution_lost:
        return IGNORED
    if assignment.counter <= trust_state.counter and not again:
        message = f"counter {assignment.counter} does not rise above {trust_state.counter}"
        raise RefusedError("assignment.counter", message, new)
    if assignment.expires_at <= effective_now(clock_seconds, trust_state):
        raise RefusedError("assignment.expired", f"the assignment expired at {assignment.expires_at:.0f}", new)
    for order in assignment.executions:
        if trust_state.targets.get(order.execution, assignment.targets(order)) != assignment.targets(order):
            message = f"execution {order.execution} had other targets before; give the new ones an id of their own"
            raise RefusedError("assignment.malformed", message, new)
    return Accepted(
        assignment, replace(trust_state, counter=assignment.counter, payload_sha256=digest, execution_lost=False)
    )
