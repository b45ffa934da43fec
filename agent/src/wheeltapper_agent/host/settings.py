"""Settings that the fleet may change while the agent runs: level of the log, how long telemetry is gathered, how often
the status is published.

Invariants:
    * The newest version is in force; it survives a restart. What it leaves out is as the configuration says.
    * A file that cannot be read counts as none: the configuration holds, version 0 is reported, and the fleet says its
      settings again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_protocols.wire.commands import Settings, SettingsCommand

__all__ = ["SETTINGS_FILE", "SettingsKeeper"]

_LOG: Final = logging.getLogger(__name__)
SETTINGS_FILE: Final = "settings.json"


class SettingsKeeper:
    """Keeps and applies the settings.

    Args:
        file: where the newest ones are kept.
        apply: puts settings in force, at the start and whenever newer ones come.
    """

    def __init__(self, file: Path, apply: Callable[[Settings], None]) -> None:
        self._file = file
        self._apply = apply
        self._kept = self._read()
        apply(self.settings)

    @property
    def version(self) -> int:
        """Of the settings in force; 0: those of the configuration."""
        return self._kept.version

    @property
    def settings(self) -> Settings:
        """What is in force of what the fleet may set."""
        return self._kept.settings

    def take(self, command: SettingsCommand) -> bool:
        """Put newer settings in force and keep them; gives whether they are newer.

        Raises:
            OSError: they cannot be written; nothing has changed.
        """
        if command.version <= self._kept.version:
            return False
        write_atomic(self._file, msgspec.json.encode(command), 0o600)
        self._kept = command
        self._apply(command.settings)
        _LOG.info("agent: the fleet's settings %d are in force", command.version)
        return True

    def _read(self) -> SettingsCommand:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=SettingsCommand)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            _LOG.warning("agent: %s cannot be read; the configuration holds: %s", self._file.name, error)
        return SettingsCommand(version=0, settings=Settings())
