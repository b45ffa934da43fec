"""Signs webhooks as Standard Webhooks says, so that receivers verify them with a library that is there. Pure.

The signature is HMAC-SHA256 over ``id.timestamp.body`` with the target's secret. A receiver compares it in constant
time, refuses timestamps that are minutes away (a replay), and ignores an id that it has seen: each may come twice.

Source: Standard Webhooks specification 1.0, "Signature scheme" and "Webhook headers".
"""

from __future__ import annotations

import base64
import hashlib
import hmac

__all__ = ["SECRET_PREFIX", "headers_of", "secret_text", "sign"]

SECRET_PREFIX = "whsec_"  # noqa: S105  # the prefix of every secret, not one


def secret_text(key: bytes) -> str:
    """A secret of 24 to 64 bytes as receivers know it."""
    return SECRET_PREFIX + base64.b64encode(key).decode("ascii")


def sign(secret: str, message: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature`` of a message with its id, sent at ``timestamp`` (Unix seconds)."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")


def headers_of(secret: str, message: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a webhook."""
    return {
        "content-type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, message, timestamp, body),
    }
