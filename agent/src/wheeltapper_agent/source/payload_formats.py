"""What a payload looks like that is not what the configuration says. Pure.

The answer is for an error message only: nothing is ever read as another format than the configured one.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

__all__ = ["looks_like"]

_MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\xd9\xd9\xf7", "CBOR (RFC 8949)"),
)
_HEAD_BYTES: Final = 4096
_LINE_PROTOCOL: Final = re.compile(
    rb"[^\s,={}\[\]\"]+(?:,[^\s,]+=[^\s,]+)* [^\s,={}\[\]]+=[^\s]+(?: -?\d+)?\s*(?:\n|$)"
)
"""``measurement,tag=value field=1.5 1465839830100400200``"""
_PLAIN_NUMBERS: Final = re.compile(rb"\s*[-+]?\d[\d.eE+-]{0,23}(?:[,;\s]+[-+]?\d[\d.eE+-]{0,23})*[,;\s]*")
_LEAST_TEXT_BYTES: Final = 8
"""Fewer bytes may well be a raw number. In int16 even ``1,2,3,4,`` is a slow ramp from 11313 on."""
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/\r\n]{16,}={0,2}\s*")


def looks_like(payload: bytes | bytearray, expected: str) -> str:
    """Return the name of the format in ``payload``; empty if it is not known or may well be the expected one.

    Args:
        payload: of any content.
        expected: ``json``, ``msgpack``, ``float32`` or ``int16``.
    """
    if not payload:
        return "an empty message"
    head = bytes(payload[:_HEAD_BYTES])
    raw = expected in ("float32", "int16")
    if head.lstrip()[:1] in (b"{", b"[") and expected != "json":
        return "JSON" if _decodes(payload, "json") else ""
    plain_can_be = not raw or (expected == "float32" and len(head) >= _LEAST_TEXT_BYTES)
    if plain_can_be and len(payload) <= _HEAD_BYTES and _PLAIN_NUMBERS.fullmatch(head):
        return "numbers in plain text, such as CSV"
    if raw:
        return ""
    if head[:1] == b"x" and head[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
        return "zlib"
    if named := next((name for magic, name in _MAGICS if head.startswith(magic)), ""):
        return named
    if _LINE_PROTOCOL.match(head):
        return "InfluxDB line protocol"
    if len(payload) <= _HEAD_BYTES and _BASE64.fullmatch(head):
        return "base64"
    return _looks_binary(payload, head, expected)


def _looks_binary(payload: bytes | bytearray, head: bytes, expected: str) -> str:
    """Return the name of a binary format."""
    first = head[0]
    if expected != "msgpack" and (0x80 <= first <= 0x9F or first >= 0xDC) and _decodes(payload, "msgpack"):
        return "MessagePack; set payload = 'msgpack'"
    if 0x80 <= first <= 0xBF:
        return "CBOR (RFC 8949)"
    if first == 0x08 and b"\x12" in head[2:12]:
        return "protobuf, such as Sparkplug B"
    return ""


def _decodes(payload: bytes | bytearray, form: str) -> bool:
    """Whether the payload is a whole value of JSON or MessagePack."""
    try:
        (msgspec.json if form == "json" else msgspec.msgpack).decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return False
    return True
