"""The part of ``doctor`` that looks at certificate and connections; a check gives verdict, finding, advice."""

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

from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_agent.link.identity import Identity
from wheeltapper_agent.link.mqtt import tls_context

__all__ = ["check_broker", "check_certificate", "check_https"]

_Result = tuple[str, str, str]
_SOON_DAYS: Final = 30.0
_TIMEOUT_SECONDS: Final = 10.0
_MAX_METADATA_BYTES: Final = 1 << 20
_AGAIN: Final = "remove the folder identity and enrol again with a new token"


def check_certificate(identity: Identity, state: Path, now_seconds: float) -> _Result:
    """Key, certificate and CA: there, closed, a pair, of this device, of this CA, in time."""
    mode = identity.key.stat()
    if stat.S_IMODE(mode.st_mode) & 0o077:
        found = f"{identity.key} is open to others ({stat.S_IMODE(mode.st_mode):04o})"
        return "FAIL", found, f"chmod 600 {identity.key}; whoever may have read it: {_AGAIN}"
    if mode.st_uid != state.stat().st_uid:
        found = f"{identity.key} is not of the user that owns {state}"
        return "FAIL", found, f"chown -R --reference={state} {identity.key.parent}"
    try:
        key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
        ca = x509.load_pem_x509_certificate(identity.ca.read_bytes())
    except (ValueError, TypeError) as error:
        return "FAIL", f"key or certificate cannot be read: {str(error)[:120]}", _AGAIN
    if certificate.public_key() != key.public_key():
        return "FAIL", "the certificate is not for the key", _AGAIN
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [identity.fleet.device]:
        return "FAIL", f"the certificate is for {', '.join(names)}, the device is {identity.fleet.device}", _AGAIN
    with contextlib.suppress(InvalidSignature, ValueError, TypeError):
        certificate.verify_directly_issued_by(ca)
        return _in_time(certificate, now_seconds)
    return "FAIL", "the certificate is not of the fleet's CA", _AGAIN


def _in_time(certificate: x509.Certificate, now_seconds: float) -> _Result:
    left_days = (certificate.not_valid_after_utc.timestamp() - now_seconds) / 86400.0
    if now_seconds < certificate.not_valid_before_utc.timestamp():
        return "FAIL", f"it is valid only from {certificate.not_valid_before_utc:%Y-%m-%d} on", "set the clock"
    if left_days < 0:
        return (
            "FAIL",
            f"it expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
            f"set the clock if it is wrong; else {_AGAIN}",
        )
    if left_days < _SOON_DAYS:
        return "warn", f"it expires in {left_days:.0f} days", "enrol again before that, unless the agent renews it"
    return "ok", f"good for {left_days:.0f} days", ""


def _resolved(host: str, port: int) -> str:
    """Empty if the name can be resolved, else why not."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{host} cannot be resolved: {error.strerror or error}"
    return ""


def check_https(identity: Identity) -> _Result:
    """Fetch the fleet's newest metadata with the device's certificate."""
    url = identity.fleet.https_url
    parts = urlsplit(url)
    why = _resolved(parts.hostname or "", parts.port or 443)
    if why:
        return "FAIL", why, "check cable, Wi-Fi, DNS; the name comes from the enrolment"
    try:
        context = tls_context(identity.ca, identity.certificate, identity.key)
        HttpsClient(url, context, _TIMEOUT_SECONDS).request("GET", "/v1/tuf/timestamp.json", _MAX_METADATA_BYTES)
    except HttpsError as error:
        if error.status:
            return (
                "FAIL",
                f"{url} refuses this device: {error.message}",
                "ask the fleet: wheeltapper device show; was it revoked?",
            )
        return (
            "FAIL",
            error.message,
            f"check route, proxy and firewall to {parts.hostname}:{parts.port or 443}; then the certificate",
        )
    except ssl.SSLError as error:
        return "FAIL", f"the certificate cannot be used: {error.reason or error}", _AGAIN
    return "ok", f"{url} answers and knows the device", ""


def check_broker(identity: Identity) -> _Result:
    """Shake hands with the broker, without logging in: that would throw out the agent that runs."""
    host, port = identity.fleet.mqtt_host, identity.fleet.mqtt_port
    why = _resolved(host, port)
    if why:
        return "FAIL", why, "check cable, Wi-Fi, DNS; the name comes from the enrolment"
    try:  # a file that cannot be read is no matter of the firewall
        context = tls_context(identity.ca, identity.certificate, identity.key)
    except ssl.SSLError as error:
        return "FAIL", f"the certificate cannot be used: {error.reason or error}", _AGAIN
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            # With TLS 1.3 a server that refuses the certificate says so only after the handshake.
            connection.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                if connection.recv(1) == b"":
                    return "FAIL", f"{host}:{port} hangs up", "ask the fleet: wheeltapper device show; was it revoked?"
    except ssl.SSLError as error:
        found = f"{host}:{port} and this device do not trust each other: {error.reason or error}"
        return (
            "FAIL",
            found,
            f"check clock and certificate; ask the fleet whether the device was revoked; else {_AGAIN}",
        )
    except OSError as error:
        return (
            "FAIL",
            f"{host}:{port} cannot be reached: {error.strerror or error}",
            f"open port {port} (MQTT over TLS) in the firewall",
        )
    return "ok", f"{host}:{port} speaks TLS and takes the certificate", ""
