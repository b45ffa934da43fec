"""The device renews its certificate, with a new key, long before the present one ends.

The new key and certificate wait as ``next.key`` and ``next.crt`` beside ``device.key`` and ``device.crt`` until the
fleet has accepted them once; then they take their place. What is in the folder says how far a renewal came:

====================  ==========================================================================================
``next.key``          asked, or about to ask: the key is used for the next request
both                  the fleet may have seen the new certificate: it is shown (again) before anything else is done
``next.crt`` alone    the new key is in place already, the certificate is not: it belongs to ``device.key``
====================  ==========================================================================================

Invariants:
    * After a power cut at any moment there is an identity that the fleet accepts: the fleet accepts the old certificate
      until it has seen the new one, and the new one is never removed once it may have been seen.
    * A new certificate is taken only if it is of this device, of the new key, and issued by the fleet's CA.
    * A renewed CA is taken only if it has the key of the one before.
    * A clock that is before the certificate's begin is wrong: nothing is renewed by it.

Not done here: when (:mod:`wheeltapper_agent.link.validity`). A certificate that has ended cannot be renewed: the
device is enrolled again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import fsync_folder, write_atomic
from wheeltapper_agent.ground.repeated import RepeatedFaults
from wheeltapper_agent.link.https import HttpsClient, HttpsError
from wheeltapper_agent.link.identity import NEXT_CERTIFICATE, NEXT_KEY, Identity, make_key, make_request
from wheeltapper_agent.link.mqtt import tls_context
from wheeltapper_agent.link.validity import Validity, read_validity, renewal_time
from wheeltapper_protocols.errors import brief

__all__ = ["CertificateRenewal", "settle"]

_LOG = logging.getLogger(__name__)
_CHECK_SECONDS: Final = 3600.0
"""How often it is looked whether a renewal is due, at most; a life of less than a year is looked at more often."""
_CHECK_SHARE: Final = 1 / 8760
_MAX_ANSWER_BYTES: Final = 128 * 1024
_WAITS_SECONDS: Final = 60.0
"""How often a new certificate that waits is shown, at most: the fleet may accept no other any more."""
_VOID: Final = "device.certificate_replaced"
"""By this the fleet says that a certificate is not, or no longer, this device's current or next one."""


class _Answer(Struct, frozen=True):
    """The fleet's answer to a renewal."""

    certificate: Annotated[str, Meta(max_length=65536)]
    ca: Annotated[str, Meta(max_length=65536)]


def settle(identity: Identity) -> Identity:
    """Bring a renewal to its end whose new key is in place and whose certificate is not, after a power cut.

    Raises:
        AgentError: ``identity.storage``.
    """
    if identity.certificate.name != NEXT_CERTIFICATE:
        return identity
    folder = identity.key.parent
    final = folder / "device.crt"
    try:
        os.replace(identity.certificate, final)
        fsync_folder(folder)
    except OSError as error:
        raise AgentError("identity.storage", f"{final} cannot be written: {error}") from error
    return replace(identity, certificate=final)


class CertificateRenewal:
    """Renews the certificate of one device. :meth:`turn` is called all the time; the work is done in a thread.

    Args:
        identity: of the device; see :func:`settle`.
        client: the connection to the fleet. It uses the new certificate as soon as there is one.
        clock: time.
        on_renewed: called when the new certificate is in place: connect again.
        timeout_seconds: see :class:`~wheeltapper_agent.link.https.HttpsClient`.
    """

    def __init__(
        self,
        identity: Identity,
        client: HttpsClient,
        clock: Clock,
        on_renewed: Callable[[], None],
        timeout_seconds: float = 20.0,
    ) -> None:
        self._identity, self._client, self._clock = identity, client, clock
        self._on_renewed, self._timeout_seconds = on_renewed, timeout_seconds
        folder = identity.key.parent
        self._next = replace(identity, key=folder / NEXT_KEY, certificate=folder / NEXT_CERTIFICATE)
        self._faults = RepeatedFaults(_LOG, clock)
        self._thread: threading.Thread | None = None
        self._check_at_s = float("-inf")
        self.renewals = 0
        """Since the start of the agent."""

    def turn(self) -> None:
        """Start the work in a thread of its own if it is time to look. Returns at once."""
        if self._clock.monotonic() < self._check_at_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._check_at_s = self._clock.monotonic() + self._pause_seconds()
        if self._waits() or self.is_due():
            self._thread = threading.Thread(target=self._work, name="certificate", daemon=True)
            self._thread.start()

    def validity(self) -> Validity | None:
        """From when to when the present certificate is valid; None if it cannot be read."""
        with contextlib.suppress(OSError, AgentError):
            return read_validity(self._identity.certificate.read_bytes())
        return None

    def is_due(self) -> bool:
        """Whether the present certificate is to be renewed now."""
        validity, now = self.validity(), self._clock.now()
        if validity is None or now < validity.begins_at:
            return False
        if now < validity.ends_at:
            self._faults.ended("identity.expired")
        else:
            self._faults.happened(
                "identity.expired: the device's certificate has ended; if the clock is right, enrol the device again "
                "(`wheeltapper device forget …`, `wheeltapper device token …`)",
                kind="identity.expired",
            )
            return False
        return now >= renewal_time(validity, self._identity.fleet.device)

    def figures(self) -> dict[str, Any]:
        """What the status says: the end of the certificate, days left, what went wrong."""
        validity = self.validity()
        faults = [fault.text for fault in self._faults.counts() if not fault.over]
        return {
            "expires_at": validity.ends_at if validity else None,
            "days_left": int((validity.ends_at - self._clock.now()) // 86_400) if validity else None,
            "renews_at": renewal_time(validity, self._identity.fleet.device) if validity else None,
            "trouble": faults[0] if faults else None,
        }

    def _pause_seconds(self) -> float:
        validity = self.validity()
        life_seconds = validity.ends_at - validity.begins_at if validity else float("inf")
        pause_seconds = min(_WAITS_SECONDS if self._waits() else _CHECK_SECONDS, max(1.0, life_seconds * _CHECK_SHARE))
        return pause_seconds * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret

    def _waits(self) -> bool:
        """Whether a new certificate waits for the fleet to accept it."""
        return self._next.certificate.exists() and self._next.key.exists()

    def _work(self) -> None:
        try:
            self.renew()
            self._faults.ended()
        except AgentError as error:
            self._faults.happened(f"the device's certificate cannot be renewed yet: {error}", kind=error.code)
        except Exception:  # noqa: BLE001  # the next turn must come, whatever happened
            _LOG.exception("the renewal of the device's certificate failed; it is tried again")

    def renew(self) -> None:
        """Take one renewal as far as it goes: ask, show the new certificate, put it in place.

        Raises:
            AgentError: it is tried again later; ``fetch.*``, ``identity.response``, ``identity.storage``.
        """
        try:
            if not self._waits():
                self._ask()
            if self._accepted():
                self._put_in_place()
        except OSError as error:
            raise AgentError("identity.storage", f"the new certificate cannot be stored: {error}") from error

    def _ask(self) -> None:
        """Get a certificate for a new key, check it, and store it as the next one."""
        device = self._identity.fleet.device
        try:
            key = make_key(self._next.key)
        except AgentError:  # damaged, and of no use yet
            self._next.key.unlink()
            key = make_key(self._next.key)
        body = json.dumps({"csr": make_request(key, device)}).encode()
        raw = self._client.request(
            "POST", "/v1/certificate", _MAX_ANSWER_BYTES, body, {"Content-Type": "application/json"}
        )
        try:
            answer = msgspec.json.decode(raw, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AgentError("identity.response", f"the fleet's answer cannot be read: {error}") from error
        ca = self._checked(answer, key)
        if ca != self._identity.ca.read_bytes():
            write_atomic(self._identity.ca, ca, 0o644)
        write_atomic(self._next.certificate, answer.certificate.encode(), 0o644)

    def _checked(self, answer: _Answer, key: Any) -> bytes:
        """The fleet's CA (PEM), if the answer's certificate is of this device and key, and the CA has the known key.

        Raises:
            AgentError: ``identity.response``.
        """
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.x509.oid import NameOID

        try:
            known = x509.load_pem_x509_certificate(self._identity.ca.read_bytes())
            ca = x509.load_pem_x509_certificate(answer.ca.encode())
            certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
            certificate.verify_directly_issued_by(ca)
            names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        except (ValueError, TypeError, InvalidSignature) as error:
            raise AgentError("identity.response", f"the fleet's answer cannot be verified: {error}") from error
        if names != [self._identity.fleet.device] or certificate.public_key() != key.public_key():
            raise AgentError("identity.response", "the certificate in the fleet's answer is not this device's")
        if (ca.subject, ca.public_key()) != (known.subject, known.public_key()):
            raise AgentError("identity.response", "the CA in the fleet's answer is another than the device knows")
        return ca.public_bytes(serialization.Encoding.PEM)

    def _accepted(self) -> bool:
        """Show the next certificate to the fleet; one that the fleet does not know is removed.

        Raises:
            HttpsError: it could not be shown.
        """
        try:
            context = tls_context(self._next.ca, self._next.certificate, self._next.key)
        except ssl.SSLError as error:
            self._drop(f"the new certificate is damaged: {brief(error)}", "identity.damaged")
            return False
        shown = HttpsClient(self._client.base_url, context, self._timeout_seconds)
        try:
            shown.request("GET", "/v1/certificate", _MAX_ANSWER_BYTES)
        except HttpsError as error:
            if error.remote_code != _VOID:
                raise
            self._drop(f"the fleet does not accept the new certificate: {error}", _VOID)
            return False
        finally:
            shown.close()
        return True

    def _drop(self, why: str, kind: str) -> None:
        """Remove the next certificate, which is of no use, and its key."""
        self._faults.happened(f"{why}; the device asks for another one", kind=kind)
        self._next.certificate.unlink(missing_ok=True)  # before the key: a certificate alone means another thing
        fsync_folder(self._next.key.parent)
        self._next.key.unlink(missing_ok=True)

    def _put_in_place(self) -> None:
        folder = self._identity.key.parent
        os.replace(self._next.key, self._identity.key)
        fsync_folder(folder)
        settle(replace(self._identity, certificate=self._next.certificate))
        self._client.use(tls_context(self._identity.ca, self._identity.certificate, self._identity.key))
        self.renewals += 1
        _LOG.info("identity: the device's certificate was renewed")
        self._on_renewed()
