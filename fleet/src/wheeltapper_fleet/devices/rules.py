"""The life of a device: its states, what each may do, and which action leads from one to another. Pure.

=============  ============================================  ==========  =================
state          meaning                                       connects    gets assignments
=============  ============================================  ==========  =================
pending        a token was made for it; it has not come yet  no          no
active         enrolled                                      yes         yes
quarantined    under suspicion: it is seen, nothing changes  yes         no
revoked        its identity is refused                       no          no
retired        out of use: its history stays                 no          no
=============  ============================================  ==========  =================

Invariant: an action that the table does not name for a state is refused and changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.etag import etag

__all__ = ["CONNECTING", "TRANSITIONS", "Action", "DeviceState", "after", "device_etag", "may_connect", "may_enrol"]


class DeviceState(StrEnum):
    """Where a device is in its life."""

    PENDING = "pending"
    ACTIVE = "active"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"
    RETIRED = "retired"


class Action(StrEnum):
    """What moves a device from one state to another. The first two happen at enrolment; a person does the others."""

    EXPECT = "expect"
    ENROL = "enrol"
    QUARANTINE = "quarantine"
    REINSTATE = "reinstate"
    REVOKE = "revoke"
    RETIRE = "retire"


_P, _A, _Q, _V, _T = DeviceState
TRANSITIONS: Final[dict[tuple[DeviceState, Action], DeviceState]] = {
    (_P, Action.EXPECT):     _P,
    (_P, Action.ENROL):      _A,
    (_P, Action.REVOKE):     _V,
    (_P, Action.RETIRE):     _T,
    (_A, Action.QUARANTINE): _Q,
    (_A, Action.REVOKE):     _V,
    (_A, Action.RETIRE):     _T,
    (_Q, Action.REINSTATE):  _A,
    (_Q, Action.REVOKE):     _V,
    (_Q, Action.RETIRE):     _T,
    (_V, Action.EXPECT):     _P,
    (_V, Action.RETIRE):     _T,
    (_T, Action.EXPECT):     _P,
}  # fmt: skip
"""The whole machine: the state after an action."""
CONNECTING: Final = (_A.value, _Q.value)
"""The states in which a device may connect, download and upload."""


def may_connect(state: str) -> bool:
    """Whether a device in ``state`` may connect. A state that this version does not know may not."""
    return state in CONNECTING


def may_enrol(state: str) -> bool:
    """Whether a token may be made for a device in ``state``: it waits for one, or its identity has ended."""
    return any(each.value == state for each, action in TRANSITIONS if action is Action.EXPECT)


def device_etag(state: str, tags: Any) -> str:
    """The tag of what people set of a device: its state and its tags."""
    return etag(state, tags if isinstance(tags, dict) else {})


def after(state: str, action: Action, device: str) -> DeviceState:
    """The state of ``device`` after ``action``.

    Raises:
        FleetError: ``device.transition``: its state does not allow that.
    """
    known = next((each for each in DeviceState if each.value == state), None)
    found = None if known is None else TRANSITIONS.get((known, action))
    if found is None:
        allowed = [str(each) for of, each in TRANSITIONS if of == known and each is not Action.ENROL]
        possible = f"; possible: {', '.join(allowed)}" if allowed else ""
        raise FleetError("device.transition", f"{device} is {state}: {action} is not possible{possible}", 409)
    return found
