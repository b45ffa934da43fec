"""What a person does next about a case, in a sentence. Pure.

The sentence follows from what is stored of the case; it decides nothing. A machine that is dangerous is stopped by its
own protection and by the people at it: neither a score nor a page is a safety function.
"""

from __future__ import annotations

from wheeltapper_fleet.alerts.schemas import CaseView
from wheeltapper_protocols.wire.messages import NO_SCORE

__all__ = ["next_step"]


def next_step(case: CaseView) -> str:
    """What to do about ``case`` now; empty where nothing is to be done."""
    if case.state == "resolved":
        return ""
    if case.state == "in_work":
        order = f" ({case.work_order})" if case.work_order else ""
        return f"It is in work{order}: say what was found when it is done."
    if case.kind == "release":
        return "Pause what brings this release to machines, and compare it with the release before."
    if case.label == NO_SCORE:
        return "Look at the sensor, its cable and its mounting: windows come, but none can be judged."
    if not case.raised:
        return "It is back to normal. Look at what happened, then say what it was."
    if case.attention == "waiting":
        return "Nothing yet: most such warnings clear by themselves."
    if case.severity == "critical":
        return "Listen to a recording and inspect the machine today; stop it first if it is loud, hot or in zone D."
    if case.state == "acknowledged":
        return "Plan the inspection, and put its work order here."
    return "Look at its trend and a recording, then acknowledge it or say that it is a false alarm."
