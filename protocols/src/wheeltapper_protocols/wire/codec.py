"""Messages to bytes and back: MessagePack for telemetry, JSON for everything else.

Invariants:
    * Whatever the bytes, :func:`decode` and :func:`decode_down` return a valid message or raise :class:`WireError`.
    * Payloads are capped in both directions, and so is what they decompress to.

Example:
    >>> from wheeltapper_protocols.wire.messages import Status
    >>> payload = encode(Status(online=True, at=1767225600.0))
    >>> decode(Up.STATUS, payload).online
    True
"""

from __future__ import annotations

import re
from threading import local
from typing import Any, Final, TypeVar

import msgspec
import zstandard

from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.messages import Ack, Alert, Command, Message, Report, Status, Telemetry
from wheeltapper_protocols.wire.topics import Down, Up

__all__ = ["MAX_DECOMPRESSED_BYTES", "MAX_PAYLOAD_BYTES", "decode", "decode_down", "encode"]

MAX_PAYLOAD_BYTES: Final = 256 * 1024
MAX_DECOMPRESSED_BYTES: Final = 1024 * 1024
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_MINIMUM_BYTES: Final = 512
"""Shorter payloads are not compressed: they do not get shorter."""
_MAX_NESTING: Final = 200
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[{\]}]")
_M = TypeVar("_M", bound=msgspec.Struct)

_MESSAGE_PACKED: Final[tuple[type[msgspec.Struct], ...]] = (Telemetry,)
_CHECKED_ON_ENCODING: Final[tuple[type[msgspec.Struct], ...]] = (Alert, Report, Command)
"""These are decoded again before they are sent: their lists and nested objects are not checked when they are built."""
_UP: Final[dict[Up, type[msgspec.Struct]]] = {
    Up.STATUS: Status,
    Up.TELEMETRY: Telemetry,
    Up.ALERT: Alert,
    Up.REPORT: Report,
}
_DOWN: Final[dict[Down, type[msgspec.Struct]]] = {Down.COMMAND: Command, Down.ACK: Ack}
_DECODERS: Final[dict[type[msgspec.Struct], Any]] = {
    kind: (msgspec.msgpack if kind in _MESSAGE_PACKED else msgspec.json).Decoder(kind)
    for kind in (*_UP.values(), *_DOWN.values())
}


def encode(message: Message) -> bytes:
    """The bytes of a message: MessagePack for telemetry, compressed by zstd where that is shorter; JSON otherwise.

    Raises:
        WireError: ``wire.invalid`` (a value that no reader would accept), ``wire.too_large``.
    """
    if isinstance(message, _MESSAGE_PACKED):
        payload = msgspec.msgpack.encode(message)
        if len(payload) >= _ZSTD_MINIMUM_BYTES:
            payload = min(payload, zstandard.ZstdCompressor(level=3).compress(payload), key=len)
    else:
        payload = msgspec.json.encode(message)
        if isinstance(message, _CHECKED_ON_ENCODING):
            _decode(type(message), payload)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError("wire.too_large", f"the message has {len(payload)} bytes; the cap is {MAX_PAYLOAD_BYTES}")
    return payload


def decode(kind: Up, payload: bytes) -> Message:
    """The message that a device sent on its topic ``up/<kind>``.

    Raises:
        WireError: ``wire.too_large``, ``wire.malformed`` (not JSON, MessagePack or zstd), ``wire.invalid`` (a
            field is missing, out of range or of another type).
    """
    return _decode(_UP[kind], payload)  # type: ignore[return-value]  # _UP holds Message types only


def decode_down(kind: Down, payload: bytes) -> Command | Ack:
    """The message that the fleet sent on ``down/<kind>``. Assignments are read by :mod:`assignment` instead.

    Raises:
        WireError: with the codes of :func:`decode`; ``wire.topic`` for an assignment.
    """
    struct = _DOWN.get(kind)
    if struct is None:
        raise WireError("wire.topic", f"down/{kind.value} carries a signed envelope: read it with decode_assignment")
    return _decode(struct, payload)  # type: ignore[return-value]  # _DOWN holds Command and Ack only


def _decode(struct: type[_M], payload: bytes) -> _M:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError("wire.too_large", f"the payload has {len(payload)} bytes; the cap is {MAX_PAYLOAD_BYTES}")
    if struct in _MESSAGE_PACKED and payload[:4] == _ZSTD_MAGIC:
        payload = _decompress(payload)
    if struct not in _MESSAGE_PACKED and _too_deep(payload):
        raise WireError("wire.malformed", f"{struct.__name__.lower()}: it is nested deeper than {_MAX_NESTING}")
    try:
        decoded: _M = _DECODERS[struct].decode(payload)
    except msgspec.ValidationError as error:
        raise WireError("wire.invalid", f"{struct.__name__.lower()}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise WireError("wire.malformed", f"{struct.__name__.lower()}: {error}") from error
    return decoded


def _too_deep(payload: bytes) -> bool:
    """Whether JSON is nested deeper than any message is. How deep msgspec itself reads depends on Python's version."""
    if payload.count(b"[") + payload.count(b"{") <= _MAX_NESTING:
        return False
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", payload)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest > _MAX_NESTING


_OF_THREAD: Final = local()
"""Each thread's decompressor: to make one costs more than to use it."""


def _decompressor() -> zstandard.ZstdDecompressor:
    try:
        found: zstandard.ZstdDecompressor = _OF_THREAD.decompressor
    except AttributeError:
        found = _OF_THREAD.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_DECOMPRESSED_BYTES * 8)
    return found


def _decompress(payload: bytes) -> bytes:
    """Decompress ``payload``, up to :data:`MAX_DECOMPRESSED_BYTES` whatever size the frame's header states."""
    try:
        if 0 < zstandard.frame_content_size(payload) <= MAX_DECOMPRESSED_BYTES:  # as the encoder states it
            return _decompressor().decompress(payload, MAX_DECOMPRESSED_BYTES)
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_DECOMPRESSED_BYTES * 8).stream_reader(payload)
        content = reader.read(MAX_DECOMPRESSED_BYTES + 1)
    except zstandard.ZstdError as error:
        raise WireError("wire.malformed", f"the payload starts like a zstd frame but is none: {error}") from error
    if len(content) > MAX_DECOMPRESSED_BYTES:
        raise WireError("wire.too_large", f"the payload decompresses to more than {MAX_DECOMPRESSED_BYTES} bytes")
    return content
