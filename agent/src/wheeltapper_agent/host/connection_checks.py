"""The checks of ``doctor`` on the device's certificate and on its connections to the fleet.

Each returns a verdict (``ok``, ``warn``, ``FAIL``), what was found, and what to do about it (empty for ``ok``). A check
that cannot be made, say because a file cannot be read, raises; ``doctor`` makes a finding of that.
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

from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_agent.link.identity import Identity
from wheeltapper_agent.link.mqtt import tls_context

__all__ = ["CheckResult", "check_broker", "check_certificate", "check_https"]

CheckResult = tuple[str, str, str]
"""Verdict, what was found, advice."""
_SOON_DAYS: Final = 30.0
_TIMEOUT_SECONDS: Final = 10.0
_MAX_METADATA_BYTES: Final = 1 << 20
_ENROL_AGAIN: Final = "remove the folder identity and enrol again with a new token"


def check_certificate(identity: Identity, state: Path, now_seconds: float) -> CheckResult:
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
        return "FAIL", found, f"chmod 600 {identity.key}; if somebody may have read it, {_ENROL_AGAIN}"
    if mode.st_uid != state.stat().st_uid:
        found = f"{identity.key} does not belong to the user that owns {state}"
        return "FAIL", found, f"chown -R --reference={state} {identity.key.parent}"
    try:
        key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
        ca = x509.load_pem_x509_certificate(identity.ca.read_bytes())
    except (ValueError, TypeError) as error:
        return "FAIL", f"the key or a certificate cannot be decoded: {str(error)[:120]}", _ENROL_AGAIN
    if certificate.public_key() != key.public_key():
        return "FAIL", "the certificate is not for the key", _ENROL_AGAIN
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [identity.fleet.device]:
        return "FAIL", f"the certificate is for {', '.join(names)}, the device is {identity.fleet.device}", _ENROL_AGAIN
    with contextlib.suppress(InvalidSignature, ValueError, TypeError):
        certificate.verify_directly_issued_by(ca)
        return _check_validity(certificate, now_seconds)
    return "FAIL", "the certificate was not issued by the fleet's CA", _ENROL_AGAIN


def _check_validity(certificate: x509.Certificate, now_seconds: float) -> CheckResult:
    """Whether the certificate is valid now (RFC 5280, 4.1.2.5), and for how much longer."""
    left_days = (certificate.not_valid_after_utc.timestamp() - now_seconds) / 86400.0
    if now_seconds < certificate.not_valid_before_utc.timestamp():
        return (
            "FAIL",
            f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}",
            "set the clock, if it is wrong",
        )
    if left_days < 0:
        return (
            "FAIL",
            f"it expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
            f"set the clock, if it is wrong; else {_ENROL_AGAIN}",
        )
    if left_days < _SOON_DAYS:
        return (
            "warn",
            f"it expires in {left_days:.0f} days",
            "the agent renews it when it is connected; else enrol again in time",
        )
    return "ok", f"valid for {left_days:.0f} days", ""


def _resolve_error(host: str, port: int) -> str:
    """Why ``host`` cannot be resolved; empty where it can."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{host} cannot be resolved: {error.strerror or error}"
    return ""


def check_https(identity: Identity) -> CheckResult:
    """Fetch the newest metadata (``timestamp.json`` of TUF) from the fleet service, with the device's certificate."""
    url = identity.fleet.https_url
    parts = urlsplit(url)
    error_text = _resolve_error(parts.hostname or "", parts.port or 443)
    if error_text:
        return "FAIL", error_text, "check cable, Wi-Fi and DNS; the fleet gave this name at the enrolment"
    try:
        context = tls_context(identity.ca, identity.certificate, identity.key)
        HttpsClient(url, context, _TIMEOUT_SECONDS).request("GET", "/v1/tuf/timestamp.json", _MAX_METADATA_BYTES)
    except HttpsError as error:
        if error.status:
            return (
                "FAIL",
                f"{url} refuses this device: {error.message}",
                "ask the fleet's operator whether this device was revoked: wheeltapper device show",
            )
        return (
            "FAIL",
            error.message,
            f"check route, proxy and firewall to {parts.hostname}:{parts.port or 443}; then the certificate",
        )
    except ssl.SSLError as error:
        return "FAIL", f"the certificate cannot be used: {error.reason or error}", _ENROL_AGAIN
    return "ok", f"{url} answers and knows this device", ""


def check_broker(identity: Identity) -> CheckResult:
    """Make a TLS connection to the broker, without an MQTT login: that would disconnect the agent that runs."""
    host, port = identity.fleet.mqtt_host, identity.fleet.mqtt_port
    error_text = _resolve_error(host, port)
    if error_text:
        return "FAIL", error_text, "check cable, Wi-Fi and DNS; the fleet gave this name at the enrolment"
    try:  # apart from the connection: a file that cannot be read is no fault of the firewall
        context = tls_context(identity.ca, identity.certificate, identity.key)
    except ssl.SSLError as error:
        return "FAIL", f"the certificate cannot be used: {error.reason or error}", _ENROL_AGAIN
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            # With TLS 1.3 a server that refuses the certificate says so only after the handshake.
            connection.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                if connection.recv(1) == b"":
                    return (
                        "FAIL",
                        f"{host}:{port} closes the connection",
                        "ask the fleet's operator whether this device was revoked: wheeltapper device show",
                    )
    except ssl.SSLError as error:
        found = f"{host}:{port} and this device do not trust each other: {error.reason or error}"
        return (
            "FAIL",
            found,
            f"check clock and certificate; ask the fleet's operator whether it was revoked; else {_ENROL_AGAIN}",
        )
    except OSError as error:
        return (
            "FAIL",
            f"{host}:{port} cannot be reached: {error.strerror or error}",
            f"open port {port} (MQTT over TLS) in the firewall",
        )
    return "ok", f"{host}:{port} speaks TLS and accepts the certificate", ""
