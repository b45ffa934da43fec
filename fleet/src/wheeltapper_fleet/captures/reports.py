"""A device's report on a capture answers the command that asked for it. In the caller's transaction."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from wheeltapper_fleet.devices.commands import answer_command
from wheeltapper_protocols.wire.messages import CaptureReport

__all__ = ["apply_capture_report"]


def apply_capture_report(connection: Connection, device: str, report: CaptureReport, now: float) -> None:
    """Keep the report as the command's answer. A report on a recording of the device's own rule answers no command."""
    if report.command is not None:
        answer_command(connection, device, report.command, msgspec.to_builtins(report), now)
