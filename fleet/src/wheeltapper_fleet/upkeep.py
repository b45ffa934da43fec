"""Upkeep: once a minute the running service renews whatever of its own is to end, and warns of what it cannot renew.

Invariants:
    * Each thing is renewed by itself: a failure is logged and keeps none of the others from being renewed.
    * What is ending is logged as a warning, each thing at most once a day.

What this module does not do: say what *ending* means (:mod:`wheeltapper_fleet.trust.expiry`), sign with offline keys
(:mod:`wheeltapper_fleet.trust.ceremony`), renew devices' certificates (devices ask for it).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from wheeltapper_fleet.devices.certificates import ending_certificates
from wheeltapper_fleet.trust.ca import FleetCA, certificate_life
from wheeltapper_fleet.trust.expiry import Life, RenewedBy, ending, sentence
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["Upkeep"]

_LOG: Final = logging.getLogger(__name__)
_WARN_SECONDS: Final = 86_400.0
_LOOK_AHEAD_SECONDS: Final = 30 * 86_400.0
"""A campaign may be longer: then it relies on the renewal that the service warns of."""


@dataclass
class Upkeep:
    """Keeps alive what ends.

    Args:
        repository: its online roles are signed anew.
        ca: its own certificate is renewed.
        database: tells which devices' certificates end.
        clock: Unix seconds.
        admin_certificate: the operator's certificate of the admin API, if it has one.
        duties: more that is renewed at each turn, e.g. the certificates of servers; each by its name for the log.
    """

    repository: Repository
    ca: FleetCA
    database: Engine
    clock: Callable[[], float]
    admin_certificate: Path | None = None
    duties: Sequence[tuple[str, Callable[[], object]]] = ()
    _warned_at: dict[str, float] = field(default_factory=dict)

    def turn(self) -> None:
        """Renew what is due, and log what is ending. Blocks while files are written; never raises."""
        for name, renew in (
            ("TUF snapshot and timestamp", self.repository.refresh_timestamp),
            ("CA certificate", self.ca.renew),
            *self.duties,
        ):
            try:
                if renew():
                    _LOG.info("renewed: %s", name)
            except Exception:  # noqa: BLE001  # one thing that fails stays one thing
                _LOG.exception("%s could not be renewed; trying again in a minute", name)
        for life in self.ending():
            self._warn(life.name, sentence(life, self.clock()))

    def lives(self) -> list[Life]:
        """Everything that ends, except tokens and sessions, which are short-lived by intent; of devices' certificates
        only those that end soon. What cannot be read is logged once a day and left out: whoever asks for the rest gets
        it.
        """
        now = self.clock()
        found: list[Life] = []
        for name, read in (
            ("TUF metadata", self.repository.lives),
            ("certificates", self.ca.lives),
            ("admin certificate", self._admin_life),
            ("device certificates", lambda: ending_certificates(self.database, now)),
        ):
            try:
                found += read()
            except Exception as error:  # noqa: BLE001  # one thing that cannot be read stays one thing
                self._warn(name, f"it cannot be told when the {name} end: {error}")
        return found

    def ending(self) -> list[Life]:
        """What ends soon or has ended, the earliest first."""
        return ending(self.lives(), self.clock())

    def _admin_life(self) -> list[Life]:
        if self.admin_certificate is None:
            return []
        return [certificate_life("admin certificate", self.admin_certificate.read_bytes(), RenewedBy.OPERATOR)]

    def check_campaign(self, model: str, longest_seconds: float) -> None:
        """Refuse a campaign that devices could not verify until it ends; see :meth:`Repository.check_alive`.

        Raises:
            FleetError: ``trust.expired``.
        """
        if model in self.repository.models():
            self.repository.check_alive(model, self.clock() + min(longest_seconds, _LOOK_AHEAD_SECONDS))

    def _warn(self, name: str, text: str) -> None:
        """Log ``text`` as a warning, at most once a day for one ``name``."""
        now = self.clock()
        if not 0 <= now - self._warned_at.get(name, float("-inf")) < _WARN_SECONDS:
            self._warned_at[name] = now
            _LOG.warning("%s", text)
