"""What devices report of their baselines: what they have learnt of their machines, and what they would not learn.

Every event is written in the device's log. A refused baseline is a notice besides, until it is learned or reset.
A report that comes twice is written once. A report costs four statements; a device sends one when a release has learnt
its machine, and one at a reset. Functions work in the caller's transaction.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from wheeltapper_fleet.devices.log import Entry, write_log
from wheeltapper_fleet.devices.notices import clear_notice, store_notice
from wheeltapper_fleet.devices.tables import device_log
from wheeltapper_protocols.wire.messages import BaselineReport

__all__ = ["apply_baseline_report"]

_LOOKED_AT: Final = 50
"""Entries of the log among which one of the same report is looked for: what is not acknowledged comes again soon."""
_SAID: Final = {
    "learned": "learned from {learned} windows",
    "refused": "refused: {outside} windows were far from what the fleet knows, or not healthy",
    "kept": "kept from another release with the same features",
    "reset": "reset; it is learnt anew",
    "unreadable": "what was learnt cannot be read; it is learnt anew",
}


def apply_baseline_report(connection: Connection, device: str, record: str, report: BaselineReport, now: float) -> None:
    """Write down what happened to a baseline of ``device``.

    Args:
        connection: of the caller's transaction.
        device: who reports.
        record: names the report among all of the device.
        report: what it says.
        now: Unix seconds.
    """
    entries = select(device_log.c.event, device_log.c.why).where(device_log.c.device == device)
    newest = connection.execute(entries.order_by(device_log.c.id.desc()).limit(_LOOKED_AT)).all()
    if ("baseline", record) in [tuple(each) for each in newest]:
        return
    found, code = report.baseline, f"baseline.refused/{report.pipeline}"
    said = _SAID.get(report.event, report.event).format(learned=found.learned, outside=found.outside)
    limited = f"; {found.limited} features differ more than the release allows" if found.limited else ""
    detail = f"{report.pipeline}, {report.model} {report.release}: {said}{limited}"
    write_log(connection, [Entry(device, "baseline", detail=detail, why=record)], device, now)
    if report.event == "refused":
        advice = "look at the machine, then reset the baseline; scores stay those of the fleet's values"
        store_notice(connection, device, code[:80], f"{detail}: {advice}", now)
    else:
        clear_notice(connection, device, code[:80])
