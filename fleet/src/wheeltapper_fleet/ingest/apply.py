"""Applies one batch of messages in the caller's transaction: each kind is handed to the room that it belongs to.

========================== ==========================================================================================
message                    applied by
========================== ==========================================================================================
telemetry, alert, report   :mod:`wheeltapper_fleet.telemetry.store`: what is new is stored, its spool moves on
alert                      :mod:`wheeltapper_fleet.alerts.store` besides
execution report, refusal  :mod:`wheeltapper_fleet.campaigns.reports` besides
capture report             :mod:`wheeltapper_fleet.captures.reports` besides
baseline report            :mod:`wheeltapper_fleet.devices.baselines` besides
status                     :mod:`wheeltapper_fleet.devices.presence`; the answer is what the device has missed
========================== ==========================================================================================

Invariants:
    * What :func:`apply_batch` returns is published only after the commit: acknowledgements cover what is then in the
      database.
    * Messages may come twice and in any order; the result is the same. Reports are applied before status messages.
    * A batch costs a fixed number of statements for all devices that say what they said before, not some a device.

What this module does not do: SQL, publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from wheeltapper_fleet.alerts.store import store_alerts
from wheeltapper_fleet.campaigns.claims import facts_of_devices
from wheeltapper_fleet.campaigns.dispatch import devices_seen
from wheeltapper_fleet.campaigns.reports import ReportedOn, apply_reports
from wheeltapper_fleet.captures.reports import apply_capture_report
from wheeltapper_fleet.devices.baselines import apply_baseline_report
from wheeltapper_fleet.devices.commands import apply_command_report
from wheeltapper_fleet.devices.notices import store_notice
from wheeltapper_fleet.devices.presence import store_statuses
from wheeltapper_fleet.devices.settings import settings_for
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_fleet.ground.rounds import in_rounds
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.telemetry.rules import Refusal
from wheeltapper_fleet.telemetry.store import Delivered, Spool, contiguous_seqs, count_refusals, store_messages
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import (
    Ack,
    Alert,
    AssignmentRefused,
    BaselineReport,
    CaptureReport,
    CommandReport,
    ExecutionReport,
    Report,
    Status,
)
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["AppliedBatch", "apply_batch"]


@dataclass(frozen=True)
class AppliedBatch:
    """What to publish after the commit, in this order, and how many records came (with repetitions)."""

    publications: list[Publication]
    records: int


def apply_batch(
    connection: Connection,
    messages: Sequence[DeviceMessage],
    refusals: Iterable[Refusal],
    now: float,
    address_of: Callable[[str], str] = lambda device: "",
) -> AppliedBatch:
    """Apply a batch.

    Args:
        connection: within the transaction that the batch is to be stored by.
        messages: what devices said, in the order in which it came.
        refusals: messages that could not be read; they are counted.
        now: Unix seconds.
        address_of: gives where a device's newest connection comes from; empty if that is not known.
    """
    publications: list[Publication] = []
    delivered = [(each.device, each.message, each.payload) for each in messages if not isinstance(each.message, Status)]
    batch = store_messages(connection, delivered, now)
    acks = dict(batch.acks)
    store_alerts(connection, [(device, message) for device, message, _ in delivered if isinstance(message, Alert)], now)
    _notice_undated(connection, batch.undated, now)
    _apply_reports(connection, delivered, now)
    statuses = [(each.device, each.message) for each in messages if isinstance(each.message, Status)]
    for some in in_rounds(statuses, lambda each: each[0]):
        publications += _apply_statuses(connection, dict(some), acks, now, address_of)
    publications += [
        Publication(down_topic(device, Down.ACK), encode(Ack(epoch=epoch, seq=seq)))
        for (device, epoch), seq in acks.items()
    ]
    count_refusals(connection, [*refusals, *batch.refusals], now)
    return AppliedBatch(publications, batch.records)


def _notice_undated(connection: Connection, undated: Mapping[str, int], now: float) -> None:
    """Count the records whose time a device could not tell."""
    for device, count in undated.items():
        text = (
            f"{count} records of a boot in which the device's clock was never set: their times are seconds since that"
            " boot; give the device a clock or network time"
        )
        store_notice(connection, device, "record.undated", text, now, count)


def _apply_reports(connection: Connection, delivered: Sequence[Delivered], now: float) -> None:
    of_executions: list[ReportedOn] = []
    for device, message, _ in delivered:
        match message:
            case Report(body=ExecutionReport() | AssignmentRefused() as said):
                of_executions.append((device, said))
            case Report(body=CaptureReport() as capture):
                apply_capture_report(connection, device, capture, now)
            case Report(body=BaselineReport() as baseline) as report:
                apply_baseline_report(connection, device, f"record {report.epoch} {report.seq}", baseline, now)
            case Report(body=CommandReport() as answer):
                apply_command_report(connection, device, answer, now)
    apply_reports(connection, of_executions, now)


def _apply_statuses(
    connection: Connection,
    said: Mapping[str, Status],
    acks: dict[Spool, int],
    now: float,
    address_of: Callable[[str], str],
) -> list[Publication]:
    """Store the status of each of several devices; returns the newer assignments and settings that they lack.

    The positions of their spools are added to ``acks``, where they are not there.
    """
    before = facts_of_devices(connection, list(said))
    store_statuses(connection, {device: (status, address_of(device)) for device, status in said.items()}, now)
    online = {device: status for device, status in said.items() if status.online}
    spools = [(device, status.epoch) for device, status in online.items() if status.epoch is not None]
    contiguous = contiguous_seqs(connection, [each for each in spools if each not in acks])
    acks.update({spool: seq for spool, seq in contiguous.items() if seq})
    versions = {device: status.settings_version for device, status in online.items()}
    return devices_seen(connection, before, online, now) + settings_for(connection, versions, now)
