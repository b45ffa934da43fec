"""Waits until the conditions of an update hold, and reports each change of what is missing.

Invariants:
    * A wait can be interrupted at any time.
    * Every look reads the device anew and depends on nothing seen before. A clock that jumps, a plug that is pulled or
      a disk that fills counts from the next look on.

What this module does not do: judge the conditions (:mod:`wheeltapper_agent.update.conditions`), read the device
(:mod:`wheeltapper_agent.update.condition_readings`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.link.metering import Metering
from wheeltapper_agent.update.condition_readings import free_bytes, on_mains
from wheeltapper_agent.update.conditions import ConditionReadings, Unmet, unmet
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.interruption import ExecutionWait
from wheeltapper_agent.update.journal import Execution

__all__ = ["ConditionWait"]

_LOG = logging.getLogger(__name__)


class ConditionWait:
    """Waits for the conditions of one device.

    Args:
        config: which conditions must hold.
        folder: a folder on the file system that must have room.
        clock: time.
        wait: how to wait.
        verified_seconds: gives the newest Unix time that was verified.
        report: called with the execution and what it waits for, whenever that changes.
        metered: says whether traffic to the fleet costs; None: by the default routes.
    """

    def __init__(
        self,
        config: UpdateConfig,
        folder: Path,
        clock: Clock,
        wait: ExecutionWait,
        verified_seconds: Callable[[], float],
        report: Callable[[Execution, Unmet], None],
        metered: Callable[[], bool | None] | None = None,
    ) -> None:
        self._config = config
        self._conditions = config.conditions()
        self._folder = folder
        self._clock = clock
        self._wait = wait
        self._verified_seconds = verified_seconds
        self._report = report
        self._metered = metered or Metering(config.metered_interfaces, config.route_file)

    def until_met(
        self,
        execution: Execution,
        need_bytes: int = 0,
        fetching: bool = True,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Return when every condition holds.

        Args:
            execution: the one that waits.
            need_bytes: room on the disk that the release still takes.
            fetching: False: ask only for what an activation needs, which is the maintenance window and the power.
            make_room: called when room on the disk begins to lack.

        Raises:
            Interrupted: the execution shall end.
        """
        reported: tuple[str, ...] = ()
        while missing := self._missing(need_bytes, fetching, explain=False):
            codes = tuple(each.code for each in missing)
            if codes != reported:
                reported = codes
                missing = self._missing(need_bytes, fetching, explain=True) or missing
                self._report(execution, Unmet(codes[0], "; ".join(each.detail for each in missing)))
                if "update.waiting_disk" in codes:
                    make_room()
            self._wait.for_seconds(execution, self._config.condition_seconds)
        if reported:
            _LOG.info("execution %s: all conditions hold, it goes on", execution.id)

    def _missing(self, need_bytes: int, fetching: bool, explain: bool) -> tuple[Unmet, ...]:
        readings = ConditionReadings(self._clock.now(), verified_seconds=self._verified_seconds())
        if self._conditions.need_mains:
            readings = replace(readings, mains=on_mains(self._config.power_supply_dir))
        if fetching:
            free = free_bytes(self._folder)
            readings = replace(readings, metered=self._metered(), free_bytes=free)
        return unmet(self._conditions, readings, need_bytes, explain)
