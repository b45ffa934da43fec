"""Why a connection to the broker ended: stable codes, and texts for people. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["TAKEN_OVER", "disconnect_code", "disconnect_text"]

TAKEN_OVER: Final = "mqtt.taken_over"
# Reason codes of DISCONNECT, OASIS MQTT 5.0, section 3.14.2.1. MQTT 3.1.1 has none: a broker just closes.
_BY_REASON: Final = {
    139: "mqtt.shutdown",
    141: "mqtt.keepalive",
    142: TAKEN_OVER,
}
_TEXTS: Final = {
    TAKEN_OVER: "another agent connects with this device's identity: a copied SD card? Enrol one of the two anew",
    "mqtt.shutdown": "the broker shuts down",
    "mqtt.keepalive": "the broker did not answer in time",
    "mqtt.closed": "the broker closed the connection",
    "mqtt.unacknowledged": "the broker acknowledges nothing that is published",
    "mqtt.too_large": "the broker sent a packet that is too large",
}
_LOST: Final = "it broke or was closed without a reason"
_OFTEN: Final = 3


def disconnect_code(reason: int, from_server: bool) -> str:
    """The stable code for the end of a connection that stood.

    Args:
        reason: reason code as paho gives it, in MQTT 5 the broker's.
        from_server: whether the broker sent it in a DISCONNECT packet.
    """
    if reason == 141 or from_server:
        return _BY_REASON.get(reason, "mqtt.closed")
    return "mqtt.lost"


def disconnect_text(code: str, reason: str, in_a_row: int) -> str:
    """What to log for a person.

    Args:
        code: of :func:`disconnect_code`, or another one.
        reason: the broker's or paho's own words.
        in_a_row: how many connections ended soon, this one included.
    """
    text = _TEXTS.get(code, _LOST)
    if code == "mqtt.lost" and in_a_row >= _OFTEN:
        text += "; again and again, soon after it was made: does another agent use this identity (a copied SD card)?"
    return f"{code}: the connection to the broker ended: {text}" + (f" ({reason})" if reason else "")
