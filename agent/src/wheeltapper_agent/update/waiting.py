"""Waits until the conditions of an update hold, and says once for each change why it waits.

Invariant: a wait can be broken off at any time, and depends on nothing that was seen before: a clock that jumps, a
plug that is pulled or a disk that fills counts from the next look on.

What this module does not do: judge (:mod:`core.conditions`), read the device (:mod:`adapters.surroundings`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.update.condition_readings import free_bytes, metered, on_mains
from wheeltapper_agent.update.conditions import Surroundings, Unmet, unmet
from wheeltapper_agent.update.config import UpdateConfig
from wheeltapper_agent.update.effect_result import Patience
from wheeltapper_agent.update.journal import Execution

__all__ = ["Waiting"]

_LOG = logging.getLogger(__name__)
Say = Callable[[Execution, Unmet], None]
"""Tells the fleet why ``Execution`` waits."""


class Waiting:
    """The conditions of one device.

    Args:
        config: what must hold.
        folder: on the file system that must have room.
        clock: time.
        patience: how to wait.
        verified_seconds: says the newest Unix time that was verified.
    """

    def __init__(
        self,
        config: UpdateConfig,
        folder: Path,
        clock: Clock,
        patience: Patience,
        verified_seconds: Callable[[], float],
    ) -> None:
        self._config = config
        self._conditions = config.conditions()
        self._folder = folder
        self._clock = clock
        self._patience = patience
        self._verified_seconds = verified_seconds

    def until_met(
        self,
        execution: Execution,
        say: Say,
        need_bytes: int = 0,
        fetching: bool = True,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Return when everything holds.

        Args:
            execution: that waits.
            say: called when what is missing changes.
            need_bytes: room that the release still takes.
            fetching: False: only what an activation needs, the window and the power.
            make_room: called when room on the disk begins to lack.

        Raises:
            Interrupted: somebody asked to stop.
        """
        said: tuple[str, ...] = ()
        while missing := self._missing(need_bytes, fetching, explain=False):
            codes = tuple(each.code for each in missing)
            if codes != said:
                said = codes
                missing = self._missing(need_bytes, fetching, explain=True) or missing
                say(execution, Unmet(codes[0], "; ".join(each.detail for each in missing)))
                if "update.waiting_disk" in codes:
                    make_room()
            self._patience.wait(execution, self._config.condition_seconds)
        if said:
            _LOG.info("execution %s: waited long enough", execution.id)

    def _missing(self, need_bytes: int, fetching: bool, explain: bool) -> tuple[Unmet, ...]:
        seen = Surroundings(self._clock.now(), verified_seconds=self._verified_seconds())
        if self._conditions.need_mains:
            seen = replace(seen, mains=on_mains(self._config.power_supply_dir))
        if fetching:
            free = free_bytes(self._folder)
            paid = metered(self._config.route_file, self._config.metered_interfaces)
            seen = replace(seen, metered=paid, free_bytes=free)
        return unmet(self._conditions, seen, need_bytes, explain)
