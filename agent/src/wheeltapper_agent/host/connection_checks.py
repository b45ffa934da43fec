"""The checks of ``doctor`` on the device's certificate and on its connections to the fleet.

A check that cannot be made, say because a file cannot be read, raises; ``doctor`` makes a finding of that.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from wheeltapper_agent.host.finding import FAIL, OK, WARN, Finding
from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_agent.link.identity import Identity
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_protocols.errors import brief

__all__ = ["check_broker", "check_certificate", "check_https"]

_CERTIFICATE: Final = "certificate"
_HTTPS: Final = "network.https"
_BROKER: Final = "network.broker"
_SOON_DAYS: Final = 30.0
_TIMEOUT_SECONDS: Final = 10.0
_HANGUP_SECONDS: Final = 0.5
"""A server that refuses a client's certificate closes the connection within this time."""
_MAX_METADATA_BYTES: Final = 1 << 20
_ENROL_AGAIN: Final = "remove the folder identity and enrol again with a new token"
_CHECK_DNS: Final = "check cable, Wi-Fi and DNS; the fleet gave this name at the enrolment"
_ASK_REVOKED: Final = "ask the fleet's operator whether this device was revoked: `wheeltapper device show …`"
_SET_CLOCK: Final = "set the clock, if it is wrong"


def check_certificate(identity: Identity, state: Path, now_seconds: float) -> Finding:
    """Check the device's key and certificate.

    The key must be readable by its user alone; the certificate must belong to the key, name this device, be issued by
    the fleet's CA, and be valid now.

    Args:
        identity: of the device.
        state: the state folder; the key must belong to the same user.
        now_seconds: Unix time.

    Raises:
        OSError: a file cannot be read.
    """
    mode = identity.key.stat()
    if stat.S_IMODE(mode.st_mode) & 0o077:
        found = f"{identity.key} can be read by others ({stat.S_IMODE(mode.st_mode):04o})"
        advice = f"chmod 600 {identity.key}; if somebody may have read it, {_ENROL_AGAIN}"
        return Finding(_CERTIFICATE, FAIL, found, advice)
    if mode.st_uid != state.stat().st_uid:
        found = f"{identity.key} does not belong to the user that owns {state}"
        return Finding(_CERTIFICATE, FAIL, found, f"chown -R --reference={state} {identity.key.parent}")
    try:
        key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
        ca = x509.load_pem_x509_certificate(identity.ca.read_bytes())
    except (ValueError, TypeError) as error:
        found = f"the key or a certificate cannot be decoded: {brief(error)}"
        return Finding(_CERTIFICATE, FAIL, found, _ENROL_AGAIN)
    if certificate.public_key() != key.public_key():
        return Finding(_CERTIFICATE, FAIL, "the certificate is not for the key", _ENROL_AGAIN)
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [identity.fleet.device]:
        found = f"the certificate is for {', '.join(names)}, the device is {identity.fleet.device}"
        return Finding(_CERTIFICATE, FAIL, found, _ENROL_AGAIN)
    with contextlib.suppress(InvalidSignature, ValueError, TypeError):
        certificate.verify_directly_issued_by(ca)
        return _check_validity(certificate, now_seconds)
    return Finding(_CERTIFICATE, FAIL, "the certificate was not issued by the fleet's CA", _ENROL_AGAIN)


def _check_validity(certificate: x509.Certificate, now_seconds: float) -> Finding:
    """Whether the certificate is valid now (RFC 5280, 4.1.2.5), and for how much longer."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left_days = (end.timestamp() - now_seconds) / 86400.0
    if now_seconds < begin.timestamp():
        return Finding(_CERTIFICATE, FAIL, f"it is not valid before {begin:%Y-%m-%d}", _SET_CLOCK)
    if left_days < 0:
        return Finding(_CERTIFICATE, FAIL, f"it expired on {end:%Y-%m-%d}", f"{_SET_CLOCK}; else {_ENROL_AGAIN}")
    if left_days < _SOON_DAYS:
        advice = (
            "the agent renews it when it is connected: `wheeltapper-agent status` says why it did not; else enrol again"
        )
        return Finding(_CERTIFICATE, WARN, f"it expires in {left_days:.0f} days", advice)
    return Finding(_CERTIFICATE, OK, f"valid for {left_days:.0f} days")


def _resolve_error(host: str, port: int) -> str:
    """Why ``host`` cannot be resolved; empty where it can."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{host} cannot be resolved: {error.strerror or error}"
    return ""


def check_https(identity: Identity) -> Finding:
    """Fetch the newest metadata (``timestamp.json`` of TUF) from the fleet service, with the device's certificate."""
    url = identity.fleet.https_url
    parts = urlsplit(url)
    if unresolved := _resolve_error(parts.hostname or "", parts.port or 443):
        return Finding(_HTTPS, FAIL, unresolved, _CHECK_DNS)
    try:
        context = tls_context(identity.ca, identity.certificate, identity.key)
        HttpsClient(url, context, _TIMEOUT_SECONDS).request("GET", "/v1/tuf/timestamp.json", _MAX_METADATA_BYTES)
    except HttpsError as error:
        if error.status:
            return Finding(_HTTPS, FAIL, f"{url} refuses this device: {error.message}", _ASK_REVOKED)
        advice = f"check route, proxy and firewall to {parts.hostname}:{parts.port or 443}; then the certificate"
        return Finding(_HTTPS, FAIL, error.message, advice)
    except ssl.SSLError as error:
        return Finding(_HTTPS, FAIL, f"the certificate cannot be used: {error.reason or error}", _ENROL_AGAIN)
    return Finding(_HTTPS, OK, f"{url} answers and knows this device")


def check_broker(identity: Identity) -> Finding:
    """Make a TLS connection to the broker, without an MQTT login: that would disconnect the agent that runs."""
    host, port = identity.fleet.mqtt_host, identity.fleet.mqtt_port
    if unresolved := _resolve_error(host, port):
        return Finding(_BROKER, FAIL, unresolved, _CHECK_DNS)
    try:  # apart from the connection: a file that cannot be read is no fault of the firewall
        context = tls_context(identity.ca, identity.certificate, identity.key)
    except ssl.SSLError as error:
        return Finding(_BROKER, FAIL, f"the certificate cannot be used: {error.reason or error}", _ENROL_AGAIN)
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            # With TLS 1.3 a server refuses a certificate only after the handshake.
            connection.settimeout(_HANGUP_SECONDS)
            with contextlib.suppress(TimeoutError):
                if connection.recv(1) == b"":
                    return Finding(_BROKER, FAIL, f"{host}:{port} closes the connection", _ASK_REVOKED)
    except ssl.SSLError as error:
        found = f"{host}:{port} and this device do not trust each other: {error.reason or error}"
        advice = f"check clock and certificate; {_ASK_REVOKED}; else {_ENROL_AGAIN}"
        return Finding(_BROKER, FAIL, found, advice)
    except OSError as error:
        found = f"{host}:{port} cannot be reached: {error.strerror or error}"
        return Finding(_BROKER, FAIL, found, f"open port {port} (MQTT over TLS) in the firewall")
    return Finding(_BROKER, OK, f"{host}:{port} speaks TLS and accepts the certificate")
