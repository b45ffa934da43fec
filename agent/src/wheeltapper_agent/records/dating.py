"""Dates records that were made before the device's clock was set.

A board without a clock of its own begins in 1970 until its network time comes. Within one boot the seconds since the
boot are known all the same. A record that is made before keeps these, with the mark ``undated``, and is dated when it
is sent: by then the clock is known.

Invariants:
    * While the clock is set nothing is changed; a time that comes from a source's own clock never is.
    * A record is dated only within the boot in which it was made; one of an earlier boot stays marked, for the fleet to
      count.
    * Dating changes what is sent, never what is stored: a record that is sent twice has the same number.

Example::

    dating = Dating(clock, state_dir / "boot.json")
    dating.begin(spool.epoch, spool.newest)
    stored = dating.stamped(record)
    sent = dating.dated(stored, spool.epoch, seq)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.ground.system_clock import since_boot
from wheeltapper_agent.records.rows import Item
from wheeltapper_protocols.wire.messages import Alert, Report

__all__ = ["BOOT_FILE", "EARLIEST_SECONDS", "Dating"]

_LOG = logging.getLogger(__name__)
BOOT_FILE: Final = "boot.json"
"""In the state folder."""
EARLIEST_SECONDS: Final = 1_577_836_800.0
"""2020-01-01, before this software was written: a clock that says less was not set. Clocks begin in 1970, 2000 or 2010.
"""
_BACK_SECONDS: Final = 7 * 86_400.0
_AHEAD_SECONDS: Final = 60.0
"""A time so far before or after what the clock says comes from that clock."""


class _Boot(msgspec.Struct, frozen=True):
    """The present boot, and the first record that was made in it."""

    boot: str
    epoch: str
    first_seq: int


class Dating:
    """Marks records while the clock is not set, and dates them afterwards. Any thread may use it.

    Args:
        clock: the device's.
        file: remembers the first record of this boot over restarts of the agent.
        booted: gives the id of the present boot, and the seconds since.
    """

    def __init__(self, clock: Clock, file: Path, booted: Callable[[], tuple[str, float]] = since_boot) -> None:
        self._clock, self._file, self._booted = clock, file, booted
        self._boot: _Boot | None = None

    def begin(self, epoch: str, newest: int) -> None:
        """Note which record is the first of this boot. To be called before the agent makes one.

        Args:
            epoch: of the spool.
            newest: number of its newest record.
        """
        boot, _ = self._booted()
        try:
            stored = msgspec.json.decode(self._file.read_bytes(), type=_Boot)
        except (OSError, msgspec.DecodeError):
            stored = None
        if stored is not None and boot and stored.boot == boot:
            self._boot = stored
            return
        self._boot = _Boot(boot, epoch, newest + 1)
        try:
            write_atomic(self._file, msgspec.json.encode(self._boot))
        except OSError as error:
            _LOG.warning("agent: %s cannot be written: %s", self._file.name, error)

    def known(self) -> bool:
        """Whether the device's clock was set."""
        return self._clock.now() >= EARLIEST_SECONDS

    def stamped(self, item: Item) -> Item:
        """``item`` as it is stored: where its times come from a clock that was not set, with the seconds since the boot
        in their place, and the mark."""
        now = self._clock.now()
        if now >= EARLIEST_SECONDS:
            return item
        since = self._booted()[1] - now
        """What leads from the clock's time to the seconds since the boot."""
        own: dict[str, object] = {}
        if not isinstance(item, Report) and now - _BACK_SECONDS <= item.t_s <= now + _AHEAD_SECONDS:
            own["t_s"] = max(0.0, item.t_s + since)
        if isinstance(item, Alert) and not own:  # the source knows the time
            return msgspec.structs.replace(item, at=item.t_s) if item.t_s >= EARLIEST_SECONDS else item
        if isinstance(item, Alert | Report):
            own["at"] = max(0.0, item.at + since)
        return msgspec.structs.replace(item, undated=True, **own) if own else item

    def dated(self, item: Item, epoch: str, seq: int) -> Item:
        """``item`` as it is sent.

        Args:
            item: as stored.
            epoch: of the spool.
            seq: its number.

        Returns:
            The same, with its times in Unix seconds if that is possible.
        """
        if not item.undated or not self.known() or not self._is_of_this_boot(epoch, seq):
            return item
        offset = self._clock.now() - self._booted()[1]
        times: dict[str, object] = {}
        if not isinstance(item, Report):
            times["t_s"] = max(0.0, item.t_s + offset)
        if isinstance(item, Alert | Report):
            times["at"] = max(0.0, item.at + offset)
        return msgspec.structs.replace(item, undated=False, **times)

    def _is_of_this_boot(self, epoch: str, seq: int) -> bool:
        """Whether a record was made in this boot; all are whose epoch began in it."""
        return self._boot is not None and (self._boot.epoch != epoch or seq >= self._boot.first_seq)
