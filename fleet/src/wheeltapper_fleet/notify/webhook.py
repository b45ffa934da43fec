"""Sends one webhook.

Invariants (a target's address is somebody's input):
    * Only http and https, without a login in the URL.
    * Only to public addresses, or to networks that the operator allowed. The name is resolved once, every address is
      checked, and the connection goes to a checked address: a name that resolves differently the second time (DNS
      rebinding) leads nowhere else.
    * No redirect is followed, no proxy of the environment is used, and nothing of the answer is read but its status.
    * Each step has a timeout. No error text holds the URL, whose path may be a secret.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.notify.settings import Network
from wheeltapper_fleet.notify.signing import headers_of

__all__ = ["SendError", "check_url", "send_webhook"]

_TIMEOUT_SECONDS: Final = 10.0
_PASSING: Final = frozenset({408, 409, 425, 429})
"""Refusals that say nothing against the message itself."""


class SendError(Exception):
    """A delivery failed. ``of_message``: it would fail again, and says nothing of others to the same target."""

    def __init__(self, text: str, of_message: bool = False) -> None:
        super().__init__(text)
        self.of_message = of_message


def check_url(url: str) -> None:
    """Refuse a URL that no webhook may go to, as far as it can be told without asking anybody.

    Raises:
        FleetError: ``notify.url``.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FleetError("notify.url", f"this is no URL: {error}", 422) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FleetError("notify.url", "a webhook's URL begins with https:// (or http://) and a host", 422)
    if parts.username is not None or parts.password is not None:
        raise FleetError("notify.url", "a webhook's URL holds no login; the signature says who sends it", 422)
    if port == 0:
        raise FleetError("notify.url", "port 0 is no port", 422)


def send_webhook(
    url: str, secret: str, message: str, now: float, body: bytes, allowed: Sequence[Network], ca_file: str = ""
) -> None:
    """Send a signed webhook.

    Args:
        url: where to.
        secret: the target's secret.
        message: the id of what is told.
        now: Unix seconds, which are signed.
        body: JSON.
        allowed: networks outside of the public internet that it may go to.
        ca_file: the CAs that the receiver is verified with; empty: the system's.

    Raises:
        SendError: it did not arrive.
    """
    try:
        check_url(url)
        target = httpx.URL(url)
    except (FleetError, httpx.InvalidURL) as error:
        why = error.message if isinstance(error, FleetError) else error
        raise SendError(f"its URL is refused: {why}") from error
    address = _checked_address(target.host, target.port or (443 if target.scheme == "https" else 80), allowed)
    headers = {**headers_of(secret, message, int(now), body), "host": target.netloc.decode("ascii")}
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        with (
            httpx.Client(verify=context, trust_env=False, follow_redirects=False, timeout=_TIMEOUT_SECONDS) as client,
            client.stream(
                "POST",
                target.copy_with(host=address),
                content=body,
                headers=headers,
                extensions={"sni_hostname": target.host},
            ) as answer,
        ):
            status = answer.status_code
    except (httpx.HTTPError, OSError) as error:
        raise SendError(f"cannot be reached: {type(error).__name__}") from error
    if not 200 <= status < 300:
        of_message = 400 <= status < 500 and status not in _PASSING
        raise SendError(f"it answered with status {status}", of_message)


def _checked_address(host: str, port: int, allowed: Sequence[Network]) -> str:
    """An address of ``host``, all of whose addresses a webhook may go to.

    Raises:
        SendError: the name is not known, or leads where webhooks may not go.
    """
    if host.rstrip(".").lower() == "localhost":  # RFC 6761, 6.3: whatever the system's tables say
        addresses = ["127.0.0.1"]
    else:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise SendError(f"the name of its host is not known: {type(error).__name__}") from error
        addresses = [str(each[4][0]) for each in found]
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if not (mapped.is_global and not mapped.is_multicast) and not any(mapped in network for network in allowed):
            raise SendError(
                f"its host has the address {text}, which is not public: notify.allow_private allows networks"
            )
    return addresses[0]
