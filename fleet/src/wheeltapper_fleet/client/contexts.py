"""The fleets that a person works with: each a name, a URL and a token, one of them the present one.

They are kept in one file, ``contexts.toml`` below the user's folder of settings, which only the user can read.

Invariants:
    * The file is written whole or not at all, with mode 0600; its folder with 0700.
    * A file that others can read is refused, since tokens are in it (``context.readable``).

Example:
    >>> store = ContextStore(contexts_file(os.environ))
    >>> store.put(FleetContext("plant-7", "https://fleet.plant-7:8080", "wt1.…"))
    >>> store.current().name
    'plant-7'
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["ContextStore", "FleetContext", "contexts_file"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MOST_BYTES: Final = 256 * 1024
_PRIVATE: Final = 0o600


def contexts_file(environ: Mapping[str, str]) -> Path:
    """Where a user's contexts are kept.

    Source: XDG Base Directory Specification, ``XDG_CONFIG_HOME``.
    """
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".config")
    return Path(home) / "wheeltapper" / "contexts.toml"


@dataclass(frozen=True)
class FleetContext:
    """One fleet: what the user calls it, the admin API's URL, and the API token."""

    name: str
    url: str
    token: str = field(repr=False)


class ContextStore:
    """The contexts in one file.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> dict[str, FleetContext]:
        """Every context by its name, sorted.

        Raises:
            FleetError: ``context.unreadable``, ``context.readable``.
        """
        return self._read()[0]

    def current(self, wanted: str | None = None) -> FleetContext | None:
        """The context ``wanted``, or the present one; None where there is none.

        Raises:
            FleetError: ``context.not_found``, ``context.unreadable``, ``context.readable``.
        """
        found, current = self._read()
        name = wanted or current
        if not name:
            return None
        if name not in found:
            known = ", ".join(found) or "none; `wheeltapper login URL` makes one"
            raise FleetError("context.not_found", f"there is no context {name[:80]!r}; known are: {known}", 404)
        return found[name]

    def put(self, context: FleetContext) -> None:
        """Add a context, or replace the one of its name, and make it the present one.

        Raises:
            FleetError: ``context.name``, ``context.unreadable``, ``context.readable``.
        """
        if not _NAME.fullmatch(context.name):
            raise FleetError("context.name", "a context's name is 1 to 63 of letters, digits, '.', '_' and '-'", 400)
        found, _ = self._read()
        self._write({**found, context.name: context}, context.name)

    def use(self, name: str) -> None:
        """Make ``name`` the present context.

        Raises:
            FleetError: ``context.not_found``, ``context.unreadable``, ``context.readable``.
        """
        self.current(name)
        self._write(self.all(), name)

    def remove(self, name: str) -> None:
        """Forget a context and its token.

        Raises:
            FleetError: ``context.not_found``, ``context.unreadable``, ``context.readable``.
        """
        self.current(name)
        found, current = self._read()
        del found[name]
        self._write(found, "" if current == name else current)

    def _read(self) -> tuple[dict[str, FleetContext], str]:
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return {}, ""
        except OSError as error:
            raise FleetError("context.unreadable", f"cannot read {self.path}: {error.strerror}", 400) from error
        if mode & 0o077:
            message = f"others can read {self.path}, which has tokens in it: chmod 600 it, and make new tokens"
            raise FleetError("context.readable", message, 400)
        try:
            return _parsed(tomllib.loads(content[:_MOST_BYTES].decode()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{self.path} is no list of contexts ({error}): mend it, or remove it and log in again"
            raise FleetError("context.unreadable", message, 400) from error

    def _write(self, found: Mapping[str, FleetContext], current: str) -> None:
        lines = [f"current = {json.dumps(current)}\n"]
        for each in sorted(found.values(), key=lambda context: context.name):
            lines.append(f"\n[contexts.{json.dumps(each.name)}]\n")
            lines.append(f"url = {json.dumps(each.url)}\ntoken = {json.dumps(each.token)}\n")
        files.make_folder(self.path.parent, private=True)
        files.write_atomic(self.path, "".join(lines).encode(), _PRIVATE)


def _parsed(content: Mapping[str, Any]) -> tuple[dict[str, FleetContext], str]:
    found = {
        str(name): FleetContext(str(name), str(value["url"]), str(value["token"]))
        for name, value in sorted(content.get("contexts", {}).items())
    }
    return found, str(content.get("current", ""))
