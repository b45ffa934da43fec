"""What the messages share: the types of their fields, severities, states of an execution, and their base class."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = [
    "NO_SCORE",
    "Code",
    "Count",
    "Epoch",
    "ExecutionState",
    "Identifier",
    "Label",
    "MessageBase",
    "Name",
    "Release",
    "Seconds",
    "Seq",
    "Severity",
    "Text",
]

Name: TypeAlias = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63)]
Epoch: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Seq: TypeAlias = Annotated[int, Meta(ge=1, le=2**53)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Release: TypeAlias = Annotated[int, Meta(ge=1, le=999_999_999)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e12)]
Text: TypeAlias = Annotated[str, Meta(max_length=2000)]
Code: TypeAlias = Annotated[str, Meta(max_length=80)]
Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Identifier: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", max_length=64)]


NO_SCORE: Final = "model.no_score"
"""The ``label`` of an alert of its own kind: complete windows get no score. Its ``score`` is 0 and means nothing."""


class Severity(StrEnum):
    """How bad a decision is. Normal: nothing to do; warning: a person should look; critical: act now."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"


class ExecutionState(StrEnum):
    """States of an execution: one device's attempt to run a release. The last six are terminal."""

    ASSIGNED = "ASSIGNED"
    WAITING = "WAITING"
    FETCHING = "FETCHING"
    VERIFYING = "VERIFYING"
    STAGED = "STAGED"
    SELF_TEST = "SELF_TEST"
    SHADOW = "SHADOW"
    ACTIVATING = "ACTIVATING"
    PROBATION = "PROBATION"
    ROLLING_BACK = "ROLLING_BACK"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    SUPERSEDED = "SUPERSEDED"
    CANCELLED = "CANCELLED"
    ROLLED_BACK = "ROLLED_BACK"

    @property
    def terminal(self) -> bool:
        """Whether the execution ends in this state."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset(
    {
        ExecutionState.COMMITTED,
        ExecutionState.FAILED,
        ExecutionState.REJECTED,
        ExecutionState.SUPERSEDED,
        ExecutionState.CANCELLED,
        ExecutionState.ROLLED_BACK,
    }
)


class MessageBase(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages: every number is finite; fields with their default value are not sent."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field} must be a finite number")
