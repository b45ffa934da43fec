"""Applies one batch of messages in the caller's transaction: each kind is handed to the room that it belongs to.

========================== ==========================================================================================
message                    applied by
========================== ==========================================================================================
telemetry, alert, report   :mod:`wheeltapper_fleet.telemetry.store`: what is new is stored, its spool moves on
alert                      :mod:`wheeltapper_fleet.alerts.store` besides
execution report, refusal  :mod:`wheeltapper_fleet.campaigns.reports` besides
capture report             :mod:`wheeltapper_fleet.captures.reports` besides
status                     :mod:`wheeltapper_fleet.devices.presence`; the answer is what the device has missed
========================== ==========================================================================================

Invariants:
    * What :func:`apply_batch` returns is published only after the commit: acknowledgements cover what is then in the
      database.
    * Messages may come twice and in any order; the result is the same.

What this module does not do: SQL, publish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from wheeltapper_fleet.alerts.store import store_alerts
from wheeltapper_fleet.campaigns.claims import DeviceFacts, device_facts
from wheeltapper_fleet.campaigns.dispatch import device_seen
from wheeltapper_fleet.campaigns.reports import apply_assignment_refused, apply_execution_report
from wheeltapper_fleet.captures.reports import apply_capture_report
from wheeltapper_fleet.devices.commands import apply_command_report
from wheeltapper_fleet.devices.notices import store_notice
from wheeltapper_fleet.devices.presence import store_status
from wheeltapper_fleet.devices.settings import settings_for
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.telemetry.rules import Refusal
from wheeltapper_fleet.telemetry.store import Delivered, Spool, contiguous_seq, count_refusals, store_messages
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import (
    Ack,
    Alert,
    AssignmentRefused,
    CaptureReport,
    CommandReport,
    ExecutionReport,
    Report,
    Status,
    Telemetry,
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
    _notice_undated(connection, delivered, now)
    for each in messages:
        match each.message:
            case Report() as report:
                _apply_report(connection, each.device, report, now)
            case Status() as status:
                before = device_facts(connection, each.device)
                store_status(connection, each.device, status, now, address_of(each.device))
                if status.online:
                    publications += _missed(connection, each.device, before, status, acks, now)
    publications += [
        Publication(down_topic(device, Down.ACK), encode(Ack(epoch=epoch, seq=seq)))
        for (device, epoch), seq in acks.items()
    ]
    count_refusals(connection, [*refusals, *batch.refusals], now)
    return AppliedBatch(publications, batch.records)


def _notice_undated(connection: Connection, delivered: Sequence[Delivered], now: float) -> None:
    """Count the records whose time a device could not tell; those that come twice count twice."""
    counts: Counter[str] = Counter()
    for device, message, _ in delivered:
        records = message.records if isinstance(message, Telemetry) else [message]
        counts[device] += sum([record.undated for record in records])
    for device, count in counts.items():
        if count:
            text = (
                f"{count} records of a boot in which the device's clock was never set: their times are seconds since"
                " that boot; give the device a clock or network time"
            )
            store_notice(connection, device, "record.undated", text, now, count)


def _apply_report(connection: Connection, device: str, report: Report, now: float) -> None:
    match report.body:
        case ExecutionReport() as execution:
            apply_execution_report(connection, device, execution, now)
        case AssignmentRefused() as refusal:
            apply_assignment_refused(connection, device, refusal, now)
        case CaptureReport() as capture:
            apply_capture_report(connection, device, capture, now)
        case CommandReport() as answer:
            apply_command_report(connection, device, answer, now)


def _missed(
    connection: Connection,
    device: str,
    before: DeviceFacts | None,
    status: Status,
    acks: dict[Spool, int],
    now: float,
) -> list[Publication]:
    """A newer assignment than the device has, and newer settings. The position of its spool is added to ``acks``, if it
    is not there."""
    assignment = device_seen(connection, before, device, now)
    if status.epoch is not None and (device, status.epoch) not in acks:
        contiguous = contiguous_seq(connection, (device, status.epoch))
        if contiguous:
            acks[device, status.epoch] = contiguous
    found = (assignment, settings_for(connection, device, status, now))
    return [each for each in found if each is not None]
