"""Why a pipeline of a device runs what it runs: from what is known of it to sentences that a person understands. Pure.

Three answers for each pipeline: what it runs and who brought it, what is asked of it now, and what lost against what.
Beside them everything that happened to it, in order of time.

Invariants:
    * An answer follows from the same rules by which the device's assignment is composed
      (:mod:`wheeltapper_fleet.campaigns.rules.meeting`, :mod:`wheeltapper_fleet.campaigns.rules.default_release`).
    * A failure never hides what runs: it is told beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wheeltapper_fleet.campaigns.rules.default_release import MOST_ATTEMPTS, DefaultRelease, Shown
from wheeltapper_fleet.campaigns.rules.execution import PENDING, SUCCESS, is_terminal
from wheeltapper_fleet.campaigns.rules.meeting import Standing
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["Attempt", "Explanation", "Happening", "SignedOrder", "explain"]

_FAILED: Final = frozenset(
    {ExecutionState.FAILED.value, ExecutionState.REJECTED.value, ExecutionState.ROLLED_BACK.value}
)


@dataclass(frozen=True)
class Attempt:
    """An execution of the device that covers the pipeline.

    Args:
        origin: the campaign or the default release that asked for it.
        default: whether it was a default release.
        wave: from 1; 0 of a default release.
        priority: of its campaign.
        since: when its origin was made (Unix seconds).
        at: when it came to its state.
        standing: what it asks for now; None: nothing any more.
        superseded_by: what takes its place where the rules are applied now; empty if nothing does.
    """

    origin: str
    default: bool
    model: str
    release: int
    state: str
    code: str = ""
    detail: str = ""
    wave: int = 0
    priority: int = 0
    since: float = 0.0
    assigned_at: float | None = None
    at: float = 0.0
    standing: Standing | None = None
    superseded_by: str = ""

    @property
    def name(self) -> str:
        """What a person calls its origin."""
        return f"{'default release' if self.default else 'campaign'} {self.origin}"

    @property
    def what(self) -> str:
        """The release."""
        return f"{self.model} release {self.release}"


@dataclass(frozen=True)
class SignedOrder:
    """The newest assignment: what it says of the pipeline, and whether the device has it."""

    counter: int
    issued_at: float
    known_to_device: int
    target: Shown


@dataclass(frozen=True)
class Happening:
    """Something that happened at ``at`` (Unix seconds): ``kind`` is ``default``, ``assigned``, ``ended``, ``refused``,
    ``failed``, ``superseded``, ``signed`` or ``seen``."""

    at: float
    kind: str
    sentence: str
    code: str = ""


@dataclass(frozen=True)
class Explanation:
    """The answers for one pipeline, and what happened in order of time. ``beaten``: what lost, and to what."""

    pipeline: str
    model: str | None
    release: int | None
    runs: str
    asked: str
    failed: str
    beaten: tuple[str, ...]
    happenings: tuple[Happening, ...]


_IN_QUARANTINE: Final = "Nothing is asked of it: the device is in quarantine, until it is reinstated."


def explain(
    pipeline: str,
    *,
    shown: Mapping[str, Shown] | None,
    shown_at: float,
    revoked: bool,
    attempts: Sequence[Attempt],
    default: DefaultRelease | None,
    default_next_at: float,
    signed: SignedOrder | None,
    quarantined: bool = False,
) -> Explanation:
    """Explain one pipeline.

    Args:
        pipeline: its name.
        shown: what each pipeline ran at ``shown_at``, by the device's last status message; None if there is none.
        shown_at: Unix seconds.
        revoked: whether the device may not connect.
        attempts: of this pipeline, in the order in which they came to their states.
        default: the default release that covers it, if any.
        default_next_at: when that may be tried (again); inf: never again.
        signed: the newest assignment, if any.
        quarantined: whether the device is in quarantine.
    """
    runs = None if shown is None else shown.get(pipeline)
    return Explanation(
        pipeline=pipeline,
        model=None if runs is None else runs[0],
        release=None if runs is None else runs[1],
        runs=_runs(pipeline, shown, attempts),
        asked=_IN_QUARANTINE if quarantined else _asked(revoked, attempts, default, default_next_at, runs),
        failed=_failed(attempts),
        beaten=tuple(_beaten(each, attempts) for each in attempts if _beat(each)),
        happenings=_happenings(shown, shown_at, pipeline, attempts, default, signed),
    )


def _runs(pipeline: str, shown: Mapping[str, Shown] | None, attempts: Sequence[Attempt]) -> str:
    if shown is None:
        return "The device has not said yet what it runs."
    if pipeline not in shown:
        return f"The device has no pipeline {pipeline!r}; it has {', '.join(sorted(shown)) or 'none'}."
    runs = shown[pipeline]
    if runs is None:
        return "Nothing runs here: the device has no release for this pipeline yet."
    what = f"{runs[0]} release {runs[1]}"
    brought = next(
        (each for each in reversed(attempts) if each.state == SUCCESS and (each.model, each.release) == runs), None
    )
    if brought is None:
        begun = next((each for each in reversed(attempts) if (each.model, each.release) == runs), None)
        if begun is not None and not is_terminal(begun.state):
            return f"{what} runs here on trial: {begun.name} is {_state(begun)}."
        return (
            f"{what} runs here, but nothing that this fleet knows of brought it: it came with the device, or by hand."
        )
    newer = [each for each in attempts if each.at > brought.at and each.state in _FAILED]
    kept = f" It kept it when {newer[-1].name} failed ({_state(newer[-1])})." if newer else ""
    return f"{what} runs here because {brought.name} brought it{_wave(brought)}, and the device committed it.{kept}"


def _asked(
    revoked: bool,
    attempts: Sequence[Attempt],
    default: DefaultRelease | None,
    default_next_at: float,
    runs: Shown,
) -> str:
    """What is asked of the pipeline now."""
    if revoked:
        return "Nothing is asked of it: the device may not connect (it is pending, revoked or retired)."
    open_ones = [each for each in attempts if not is_terminal(each.state) and not each.superseded_by]
    for standing in (Standing.ORDERED, Standing.HELD, Standing.CALLED_OFF, Standing.PLANNED):
        for each in reversed(open_ones):
            if each.standing is standing:
                return _asks(each)
    if default is not None and runs != (default.model, default.release):
        what = f"default release {default.id} asks for {default.model} release {default.release}"
        if math.isinf(default_next_at):
            return f"Nothing any more: {what}, but {MOST_ATTEMPTS} attempts have failed."
        stays = any(each.state == SUCCESS and (each.model, each.release) == runs for each in attempts)
        if stays:
            return f"Nothing: what a campaign committed stays, before {what}."
        return (
            f"{what[0].upper()}{what[1:]}; it is tried when the device is online and any pause after a failure is over."
        )
    return "Nothing else is asked of it."


def _asks(each: Attempt) -> str:
    """What an open execution asks for now."""
    name = f"{each.name[0].upper()}{each.name[1:]}"
    match each.standing:
        case Standing.ORDERED:
            return f"{name} asks for {each.what}{_wave(each)}: the device is {_state(each)}."
        case Standing.HELD:
            return f"{name} wants {each.what}{_wave(each)}, but is paused: nothing is handed out."
        case Standing.CALLED_OFF:
            return f"{name} was called off: the device is told to give {each.what} up."
        case _:
            return f"{name} plans {each.what}{_wave(each)}: the wave has not reached this device."


def _failed(attempts: Sequence[Attempt]) -> str:
    """The last refusal or failure; empty if there was none."""
    last = next((each for each in reversed(attempts) if each.state in _FAILED), None)
    if last is None:
        return ""
    verb = "refused" if last.state == ExecutionState.REJECTED else "rolled back" if _back(last) else "failed at"
    detail = f": {last.detail}" if last.detail else ""
    return f"The device {verb} {last.what} of {last.name}{_code(last)}{detail}."


def _beat(each: Attempt) -> bool:
    return each.state == ExecutionState.SUPERSEDED or bool(each.superseded_by)


def _beaten(each: Attempt, attempts: Sequence[Attempt]) -> str:
    """What lost the device to what, and by which rule."""
    by = each.superseded_by or each.detail.removeprefix("by ")
    winner = next((other for other in attempts if other.origin == by), None)
    lost = f"{each.name[0].upper()}{each.name[1:]} ({each.what})"
    if winner is None:
        return f"{lost} lost the device to {by or 'another campaign'}."
    if each.default and not winner.default:
        why = "a campaign goes before a default release"
    elif winner.priority != each.priority:
        why = f"its priority is higher ({winner.priority} over {each.priority})"
    else:
        why = "it is the newer one"
    return f"{lost} lost the device to {winner.name} ({winner.what}): {why}."


def _happenings(
    shown: Mapping[str, Shown] | None,
    shown_at: float,
    pipeline: str,
    attempts: Sequence[Attempt],
    default: DefaultRelease | None,
    signed: SignedOrder | None,
) -> tuple[Happening, ...]:
    found: list[Happening] = []
    if default is not None:
        what = f"{default.model} release {default.release}"
        found.append(Happening(default.set_at, "default", f"{what} was made the default release ({default.id})."))
    for each in attempts:
        if each.assigned_at is not None:
            sentence = f"{each.name[0].upper()}{each.name[1:]} assigned {each.what}{_wave(each)}."
            found.append(Happening(each.assigned_at, "assigned", sentence))
        if each.state != PENDING:
            found.append(_ending(each))
    if signed is not None:
        target = "nothing" if signed.target is None else f"{signed.target[0]} release {signed.target[1]}"
        has = "the device has it" if signed.known_to_device >= signed.counter else "the device does not have it yet"
        sentence = f"Assignment {signed.counter} was signed: {pipeline} runs {target}; {has}."
        found.append(Happening(signed.issued_at, "signed", sentence))
    if shown is not None and pipeline in shown:
        runs = shown[pipeline]
        what = "nothing" if runs is None else f"{runs[0]} release {runs[1]}"
        found.append(Happening(shown_at, "seen", f"The device said that it runs {what}."))
    return tuple(sorted(found, key=lambda each: each.at))


def _ending(each: Attempt) -> Happening:
    """How an attempt ended, or where it stands."""
    what, kind = f"{each.what} of {each.name}", "ended"
    if each.state == SUCCESS:
        sentence = f"The device committed {what}."
    elif each.state == ExecutionState.SUPERSEDED:
        kind, sentence = "superseded", f"{what[0].upper()}{what[1:]} gave way {each.detail or 'to another campaign'}."
    elif each.state in _FAILED:
        kind = "refused" if each.state == ExecutionState.REJECTED else "failed"
        sentence = _failed([each])
    elif is_terminal(each.state):
        sentence = f"{what[0].upper()}{what[1:]} was called off."
    else:
        kind, sentence = "assigned", f"The device is {_state(each)} with {what}."
    return Happening(each.at, kind, sentence, each.code)


def _back(each: Attempt) -> bool:
    return each.state == ExecutionState.ROLLED_BACK


def _wave(each: Attempt) -> str:
    return "" if each.default else f" in wave {each.wave}"


def _state(each: Attempt) -> str:
    return f"{each.state}{_code(each)}"


def _code(each: Attempt) -> str:
    return f" [{each.code}]" if each.code else ""
