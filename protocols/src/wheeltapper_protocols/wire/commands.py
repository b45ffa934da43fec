"""Commands: what a device carries out once, and how it answers.

Invariants:
    * A device carries out a command once, however often it comes, and answers it with a report that it does not lose.
    * A command that is over (``expires_at``) is not begun.
    * Settings are not done once: the device keeps the newest version of them, and says in each status which it has.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from wheeltapper_protocols.wire.values import Code, Count, Identifier, MessageBase, Name, Seconds, Text

__all__ = [
    "LOG_LEVELS",
    "MAX_BUNDLE_BYTES",
    "CancelCommand",
    "CaptureCommand",
    "Command",
    "CommandReport",
    "DiagnosticsCommand",
    "ResetBaselineCommand",
    "RestartPipelineCommand",
    "Settings",
    "SettingsCommand",
]

MAX_BUNDLE_BYTES: Final = 96 * 1024
"""Of a diagnostics bundle, compressed: with the report around it, it fits into a message."""
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


class CaptureCommand(MessageBase, frozen=True, kw_only=True, tag="capture"):
    """Record the next ``snapshots`` windows of ``pipeline`` and upload them as one recording."""

    pipeline: Name
    snapshots: Annotated[int, Meta(ge=1, le=100_000)]


class CancelCommand(MessageBase, frozen=True, kw_only=True, tag="cancel"):
    """End ``execution`` if its release is not active yet."""

    execution: Identifier


class DiagnosticsCommand(MessageBase, frozen=True, kw_only=True, tag="diagnostics"):
    """Send what helps to understand a device from afar: findings of the doctor, status, configuration without secrets,
    and the newest ``log_lines`` lines of the agent's log."""

    log_lines: Annotated[int, Meta(ge=0, le=2000)] = 500


class RestartPipelineCommand(MessageBase, frozen=True, kw_only=True, tag="restart-pipeline"):
    """End ``pipeline`` and begin it anew: its source is opened again and its release is loaded again."""

    pipeline: Name


class ResetBaselineCommand(MessageBase, frozen=True, kw_only=True, tag="reset-baseline"):
    """Forget what the device has learnt of the machine of ``pipeline``, and learn it anew: after a repair, or where the
    sensor was moved."""

    pipeline: Name


class Settings(MessageBase, frozen=True, kw_only=True):
    """What the fleet may set on a running device. None: as the device's own configuration says."""

    log_level: Code | None = None
    """One of :data:`LOG_LEVELS`."""
    batch_seconds: Annotated[float, Meta(ge=0.0, le=3600.0)] | None = None
    """How long telemetry is gathered for one message."""
    status_seconds: Annotated[float, Meta(ge=1.0, le=86_400.0)] | None = None
    """How often the status is published, at least."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log_level is not None and self.log_level not in LOG_LEVELS:
            raise ValueError(f"log_level must be one of {', '.join(LOG_LEVELS)}")


class SettingsCommand(MessageBase, frozen=True, kw_only=True, tag="settings"):
    """Take ``settings`` over, unless a later version is in force. The status answers it, no report."""

    version: Count
    settings: Settings


class CommandReport(MessageBase, frozen=True, kw_only=True, tag="command"):
    """``command`` was carried out, or ``code`` says why not."""

    command: Identifier
    code: Code = ""
    detail: Text = ""
    bundle: Annotated[bytes, Meta(max_length=MAX_BUNDLE_BYTES)] = b""
    """Of a diagnostics command: JSON, compressed with zlib (RFC 1950)."""


class Command(MessageBase, frozen=True, kw_only=True):
    """An order that a device carries out once. The fleet repeats it until it is answered or ``expires_at`` is past."""

    id: Identifier
    expires_at: Seconds
    body: (
        CaptureCommand
        | CancelCommand
        | DiagnosticsCommand
        | RestartPipelineCommand
        | ResetBaselineCommand
        | SettingsCommand
    )
