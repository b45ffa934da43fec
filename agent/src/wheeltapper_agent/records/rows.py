"""One row of the spool: a record as bytes, and a checksum that shows whether the row is what was written. Pure.

SQLite has no checksums of its own. Bytes that flipped on the disk are noticed here, so that they are never sent as if
they had been measured. The CRC-32 covers the whole row: epoch, number, kind, age and record.

Not done here: the database and its transactions (:mod:`~wheeltapper_agent.records.database`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from wheeltapper_protocols.wire.messages import Alert, Report, TelemetryRecord

__all__ = [
    "KINDS",
    "Item",
    "Row",
    "Stored",
    "checksum",
    "decode_item",
    "encode_item",
    "kind_of",
    "of_kinds",
    "start_of_checksums",
]

Item: TypeAlias = TelemetryRecord | Alert | Report
"""A record."""
KINDS: Final[dict[type[Item], str]] = {TelemetryRecord: "telemetry", Alert: "alert", Report: "report"}
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "telemetry": msgspec.msgpack.Decoder(TelemetryRecord),
    "alert": msgspec.msgpack.Decoder(Alert),
    "report": msgspec.msgpack.Decoder(Report),
}
_ENCODER: Final = msgspec.msgpack.Encoder()
Row: TypeAlias = tuple[Item, bytes]
"""A record and its encoding."""
Stored: TypeAlias = tuple[int, Any, Any, Any, Any]
"""A row of the table ``records``: seq, kind, payload, age_seconds, crc. In a damaged row any of them but seq may hold
anything."""


def encode_item(item: Item) -> bytes:
    """A record as MessagePack. The seq and epoch in these bytes do not count: :func:`decode_item` takes those of the
    row."""
    return _ENCODER.encode(item)


def start_of_checksums(epoch: str, age_seconds: float) -> int:
    """The part of :func:`checksum` that all rows of one transaction have in common."""
    return zlib.crc32(f"{epoch}:{age_seconds}:".encode())


def checksum(start: int, kind: str, seq: int, payload: bytes) -> int:
    """The CRC-32 of a row.

    Args:
        start: of :func:`start_of_checksums`.
        kind: the kind of record.
        seq: its number. A record that was moved to another number has a wrong checksum, too.
        payload: of :func:`encode_item`.
    """
    return zlib.crc32(payload, zlib.crc32(f"{kind}:{seq}:".encode(), start))


def kind_of(kind: object) -> str:
    """The kind under which a row is counted. A row whose kind is damaged counts as telemetry, the most frequent one."""
    return kind if isinstance(kind, str) and kind in _DECODERS else "telemetry"


def decode_item(epoch: str, row: Stored) -> Item | None:
    """The record of a row, with the row's number and epoch; None if the row is damaged."""
    seq, kind, payload, age_seconds, crc = row
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None or not isinstance(payload, bytes):
        return None
    if crc != checksum(start_of_checksums(epoch, age_seconds), kind, seq, payload):
        return None
    try:
        item: Item = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    if isinstance(item, TelemetryRecord):
        return msgspec.structs.replace(item, seq=seq)
    return msgspec.structs.replace(item, seq=seq, epoch=epoch)


def of_kinds(kinds: Sequence[str]) -> str:
    """The SQL condition, to follow another one, for rows of ``kinds`` in the table ``records``.

    Asking for telemetry also gives rows of an unknown kind: they are damaged and must be dropped. The condition for
    alerts and reports is worded as in the index ``urgent``, so that SQLite uses it.
    """
    urgent = tuple(kind for kind in KINDS.values() if kind != "telemetry")
    if "telemetry" in kinds:
        left_out = ",".join(f"'{kind}'" for kind in urgent if kind not in kinds)
        return f"AND coalesce(kind, '') NOT IN ({left_out})"
    asked = ",".join(f"'{kind}'" for kind in urgent if kind in kinds)
    return f"AND kind != 'telemetry' AND kind IN ({asked})"
