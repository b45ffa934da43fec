"""What can go wrong with simulated devices, and which device has which fault. Pure.

A fault of an *update* changes what becomes of the device's executions; a device has at most one of them. A fault of the
*messages*, the *connection* or the *clock* comes besides; a device may have several.

Invariants:
    * How many devices have a fault is exact: its share of all, rounded. Which ones follows from the seed.
    * The same names, table and seed give the same faults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from wheeltapper_fleet.sim.draws import shuffled
from wheeltapper_protocols.wire.messages import ExecutionState, Release

__all__ = [
    "UPDATE_FAULTS",
    "Alarm",
    "AnswerLate",
    "AnswerTwice",
    "ClockJump",
    "Corrupt",
    "Degrade",
    "DiskFull",
    "Duplicate",
    "FailSelfTest",
    "Fault",
    "Flap",
    "Hang",
    "Kill",
    "Lie",
    "Lose",
    "Refuse",
    "Reorder",
    "RollBack",
    "Twin",
    "Vanish",
    "expected_ends",
    "faults_of",
    "kind_of",
]

Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Span: TypeAlias = Annotated[float, Meta(gt=0, le=1e8)]
Since: TypeAlias = Annotated[float, Meta(ge=0, le=1e8)]
Step: TypeAlias = Literal[
    "ASSIGNED", "FETCHING", "VERIFYING", "STAGED", "SELF_TEST", "SHADOW", "ACTIVATING", "PROBATION"
]


class _Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """``share``: of all devices, above 0 and up to 1."""

    share: Share


class _UpdateFault(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """``releases``: it comes only with these; without any, with every release."""

    releases: tuple[Release, ...] = ()

    def concerns(self, release: int) -> bool:
        """Whether it comes with this release."""
        return not self.releases or release in self.releases


class FailSelfTest(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fail_self_test"):
    """The release does not reproduce its golden outputs on this board: REJECTED."""


class Refuse(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refuse"):
    """The device refuses the assignment as a whole."""

    code: Annotated[str, Meta(min_length=1, max_length=80)] = "assignment.expired"


class DiskFull(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="disk_full"):
    """The release does not fit on the disk: FAILED. Its spool holds few records, too."""

    records: Annotated[int, Meta(ge=1, le=10_000)] = 200


class RollBack(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="roll_back"):
    """Probation finds that the scores went wrong: ROLLED_BACK."""


class Lie(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lie"):
    """It reports COMMITTED, but goes on with the release before, which its status and records show."""


class Vanish(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vanish"):
    """The connection is lost when an execution enters ``state``, or ``after_seconds`` after the start. It comes back
    ``seconds`` later, or never."""

    state: Step | None = None
    after_seconds: Since | None = None
    seconds: Span | None = None


class Kill(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="kill"):
    """The process is killed ``before`` or ``after`` it did the work of ``state``, and starts again ``seconds`` later
    from its journal."""

    state: Step = "ACTIVATING"
    side: Literal["before", "after"] = "before"
    seconds: Span = 3.0


class Hang(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hang"):
    """The execution stands still in ``state`` for ``seconds``, or for good."""

    state: Step = "SELF_TEST"
    seconds: Span | None = None


class AnswerTwice(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="answer_twice"):
    """Each step is reported in two records."""


class AnswerLate(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="answer_late"):
    """The end of the execution is reported ``seconds`` after it."""

    seconds: Span


class Degrade(_UpdateFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="degrade"):
    """The release is committed, and is worse than the one before: its scores are higher, its latency longer."""

    score_shift: Annotated[float, Meta(ge=-10, le=10)] = 0.0
    latency_factor: Annotated[float, Meta(ge=0.01, le=1000)] = 1.0


class _MessageFault(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """``chance``: of each message, above 0 and up to 1."""

    chance: Share = 0.1


class Duplicate(_MessageFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="duplicate"):
    """A message is sent twice."""


class Reorder(_MessageFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reorder"):
    """A message is sent after the one that follows it."""


class Corrupt(_MessageFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="corrupt"):
    """A message is sent damaged, so that nobody can read it."""


class Lose(_MessageFault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lose"):
    """A message is not sent, although the device believes so."""


class Flap(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="flap"):
    """The connection is lost every ``every_seconds``, for ``seconds``."""

    every_seconds: Span = 20.0
    seconds: Span = 1.0


class Twin(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="twin"):
    """A second device with the same certificate connects every ``every_seconds``, and is pushed out again."""

    every_seconds: Span = 20.0


class ClockJump(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="clock_jump"):
    """The device's clock is wrong by ``jump_seconds`` from ``after_seconds`` on."""

    after_seconds: Since = 0.0
    jump_seconds: Annotated[float, Meta(ge=-1e9, le=1e9)]


class Alarm(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="alarm"):
    """The machine fails: scores are high, and an alert is raised, from ``after_seconds`` on for ``seconds``, or for
    good. Without a release there is no alert."""

    after_seconds: Since = 0.0
    seconds: Span | None = None


UpdateFault: TypeAlias = (
    FailSelfTest | Refuse | DiskFull | RollBack | Lie | Vanish | Kill | Hang | AnswerTwice | AnswerLate | Degrade
)
Fault: TypeAlias = UpdateFault | Duplicate | Reorder | Corrupt | Lose | Flap | Twin | ClockJump | Alarm
UPDATE_FAULTS: Final = _UpdateFault
_ENDS: Final[Mapping[type[_Fault], ExecutionState]] = {
    FailSelfTest: ExecutionState.REJECTED,
    Refuse: ExecutionState.REJECTED,
    DiskFull: ExecutionState.FAILED,
    RollBack: ExecutionState.ROLLED_BACK,
}


def kind_of(fault: Fault) -> str:
    """The fault's name in a table."""
    return str(fault.__struct_config__.tag)


def faults_of(names: Sequence[str], table: Sequence[Fault], seed: int) -> dict[str, tuple[Fault, ...]]:
    """Each device's faults: the exact shares of ``table``, drawn by ``seed``. In O(devices · faults)."""
    found: dict[str, list[Fault]] = {name: [] for name in names}
    left = shuffled(names, seed, "update faults")
    for number, fault in enumerate(table):
        count = round(fault.share * len(names))
        if isinstance(fault, _UpdateFault):
            chosen, left = left[:count], left[count:]
        else:
            chosen = shuffled(names, seed, "fault", number)[:count]
        for name in chosen:
            found[name].append(fault)
    return {name: tuple(each) for name, each in found.items()}


def expected_ends(plans: Mapping[str, Sequence[Fault]], release: int) -> Counter[str]:
    """How many executions of a campaign of ``release`` to all of these devices end in which state.

    It holds where the campaign's deadline is longer than the update with its pauses. A device that vanishes or hangs
    for good ends FAILED by that deadline.
    """
    return Counter(_end(faults, release).value for faults in plans.values())


def _end(faults: Sequence[Fault], release: int) -> ExecutionState:
    for fault in faults:
        if isinstance(fault, _UpdateFault) and fault.concerns(release):
            if isinstance(fault, Vanish | Hang) and fault.seconds is None:
                return ExecutionState.FAILED
            return _ENDS.get(type(fault), ExecutionState.COMMITTED)
    return ExecutionState.COMMITTED
