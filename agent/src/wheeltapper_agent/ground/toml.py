"""Reads TOML files into frozen dataclasses. An unknown key is an error, and so is a value of another type.

Example::

    device = build(DeviceConfig, read_toml(path)["device"], "device", path.parent)
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from wheeltapper_agent.ground.errors import AgentError

__all__ = ["build", "read_toml"]


_T = TypeVar("_T")


_MAX_NUMBER: Final = 1e300
"""A larger number in a configuration is a mistake; so are ``inf`` and ``nan``."""


def _value(hint: Any, value: Any, where: str, base: Path) -> Any:
    """A value of the TOML file as the type ``hint``.

    Args:
        hint: type of the dataclass's field.
        value: as ``tomllib`` read it.
        where: name of the key, for the error message.
        base: folder that relative paths are relative to.

    Raises:
        AgentError: ``config.invalid``, and those of :func:`build` for a table.
    """
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        if value in options:
            return value
    elif hint is Path:
        if isinstance(value, str) and value:
            return base / value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER:
            return float(value)
    elif hint in (str, bool, int):
        if type(value) is hint:
            return value
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where, base)
    elif type(None) in options:
        return _value(options[0], value, where, base)
    elif typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(options[0], entry, f"{where}[{index}]", base) for index, entry in enumerate(value))
    raise AgentError("config.invalid", f"{where} cannot be {value!r}; expected {hint}")


def build(kind: type[_T], table: Any, where: str, base: Path, **ready: Any) -> _T:
    """An instance of the dataclass ``kind`` from a TOML table.

    Args:
        kind: the dataclass. Its fields may be strings, numbers, booleans, paths, literals, tuples, dataclasses, and
            any of them or None.
        table: as ``tomllib`` read it.
        where: name of the table, for error messages.
        base: folder that relative paths are relative to.
        ready: fields that the caller has built itself.

    Raises:
        AgentError: ``config.unknown_key``, ``config.missing_key``, ``config.invalid``.
    """
    if not isinstance(table, dict):
        raise AgentError("config.invalid", f"{where} must be a table")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise AgentError(
            "config.unknown_key", f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(hints))}"
        )
    values = {
        key: _value(hints[key], value, f"{where}.{key}", base) for key, value in table.items() if key not in ready
    }
    try:
        return kind(**values, **ready)
    except TypeError as error:
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # kind is a dataclass
        required = [entry.name for entry in fields if entry.default is entry.default_factory is dataclasses.MISSING]
        raise AgentError("config.missing_key", f"{where} needs {', '.join(required)}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        AgentError: ``config.unreadable``, ``config.malformed``.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AgentError("config.unreadable", f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError("config.malformed", f"{path} is not TOML: {error}") from error
