"""A row of the spool: the bytes of a record, and the checksum that says whether the row is what was written.

SQLite has no checksums of its own: bytes that flipped are noticed here, and never sent as if they were measured. The
CRC-32 of a row covers all of it; rows of an older agent, whose CRC covers less, are still read.

Not done here: the file and its transactions (:mod:`spool_database`).
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
KINDS: Final[dict[type[Item], str]] = {TelemetryRecord: "telemetry", Alert: "alert", Report: "report"}
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "telemetry": msgspec.msgpack.Decoder(TelemetryRecord),
    "alert": msgspec.msgpack.Decoder(Alert),
    "report": msgspec.msgpack.Decoder(Report),
}
_ENCODER: Final = msgspec.msgpack.Encoder()
Row: TypeAlias = tuple[Item, bytes]
"""A record and its encoding."""


def encode_item(item: Item) -> bytes:
    """The bytes of a record; its seq and epoch are those of its row and are put in when it is read."""
    return _ENCODER.encode(item)


def start_of_checksums(epoch: str, age_seconds: float) -> int:
    """What the rows of one transaction have in common; see :func:`checksum`."""
    return zlib.crc32(f"{epoch}:{age_seconds}:".encode())


def checksum(start: int, kind: str, seq: int, payload: bytes) -> int:
    """CRC-32 of a record in its place: one that came under another seq is noticed too."""
    return zlib.crc32(payload, zlib.crc32(f"{kind}:{seq}:".encode(), start))


def _checksum_of_layout_2(epoch: str, seq: int, payload: bytes) -> int:
    """As an older agent made it: without kind and age."""
    return zlib.crc32(payload, zlib.crc32(f"{epoch}:{seq}".encode()))


def kind_of(kind: object) -> str:
    """The kind under which a row is counted: telemetry, most likely, where it is damaged."""
    return kind if isinstance(kind, str) and kind in _DECODERS else "telemetry"


Stored: TypeAlias = tuple[int, Any, Any, Any, Any]
"""A row of ``records``: seq, kind, payload, age_seconds, crc. Any of them but seq may be anything."""


def decode_item(epoch: str, row: Stored) -> Item | None:
    """The record of a row; None if the row is damaged."""
    seq, kind, payload, age_seconds, crc = row
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None or not isinstance(payload, bytes):
        return None
    if crc is None:
        sound = age_seconds is None  # layout 1 had neither
    else:
        sound = crc == checksum(start_of_checksums(epoch, age_seconds), kind, seq, payload) or (
            crc == _checksum_of_layout_2(epoch, seq, payload)
        )
    if not sound:
        return None
    try:
        item: Item = decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    if isinstance(item, TelemetryRecord):
        return msgspec.structs.replace(item, seq=seq)
    return msgspec.structs.replace(item, seq=seq, epoch=epoch)


def of_kinds(kinds: Sequence[str]) -> str:
    """The condition for rows of ``kinds``. Whoever asks for telemetry also gets what is of no kind, since that is
    damaged and must go; for the others it is put so that the partial index is used."""
    urgent = tuple(kind for kind in KINDS.values() if kind != "telemetry")
    if "telemetry" in kinds:
        left_out = ",".join(f"'{kind}'" for kind in urgent if kind not in kinds)
        return f"AND coalesce(kind, '') NOT IN ({left_out})"
    asked = ",".join(f"'{kind}'" for kind in urgent if kind in kinds)
    return f"AND kind != 'telemetry' AND kind IN ({asked})"
