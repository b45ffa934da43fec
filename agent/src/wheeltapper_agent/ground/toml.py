"""Reads TOML files into frozen dataclasses. An unknown key is an error, and so is a value of another type or outside of
the bounds of its field (:mod:`wheeltapper_agent.ground.bounds`).

Example::

    device = build(DeviceConfig, read_toml(path)["device"], "device", path.parent)
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from wheeltapper_agent.ground.bounds import Bounds, shown
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_protocols.errors import ProtocolError

__all__ = ["build", "read_toml"]


_T = TypeVar("_T")


_MAX_NUMBER: Final = 1e300
_MAX_INTEGER: Final = 2**63 - 1
"""A larger number in a configuration is a mistake, also in that of a plug-in, which need not give bounds; so are
``inf`` and ``nan``."""
_KINDS: Final = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", Path: "a path"}


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
    if typing.get_origin(hint) is Annotated:
        return _bounded(options, value, where, base)
    if hint is Any:
        return value  # the class checks it
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
        if type(value) is hint and (hint is not int or abs(value) <= _MAX_INTEGER):
            return value
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where, base)
    elif type(None) in options:
        return _value(options[0], value, where, base)
    elif len(options) == 2 and options[0] is str and options[1] is not Ellipsis:  # a text or a number
        return value if isinstance(value, str) else _value(options[1], value, where, base)
    elif typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(options[0], entry, f"{where}[{index}]", base) for index, entry in enumerate(value))
    raise AgentError("config.invalid", f"{where} cannot be {shown(value)}; set {_expected(hint)}")


def _bounded(options: tuple[Any, ...], value: Any, where: str, base: Path) -> Any:
    """A value of the type ``Annotated[options]``, within its bounds.

    Raises:
        AgentError: ``config.invalid``.
    """
    bounds = next((each for each in options[1:] if isinstance(each, Bounds)), None)
    if bounds is None:
        return _value(options[0], value, where, base)
    hints = typing.get_args(options[0]) or (options[0],)
    if isinstance(value, bool) or not isinstance(value, int | float) or (float not in hints and type(value) is not int):
        kind = _KINDS[float if float in hints else int]
        raise AgentError("config.invalid", f"{where} cannot be {shown(value)}; set {kind}, {bounds}")
    bounds.check(value, where)
    return float(value) if float in hints else value


def _expected(hint: Any) -> str:
    """The type ``hint`` for a message."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, options))
    if typing.get_origin(hint) is tuple:
        return f"a list; each entry {_expected(options[0])}"
    if typing.get_origin(hint) is Annotated or type(None) in options:
        return _expected(options[0])
    return _KINDS.get(hint, "a table")


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
    hints = typing.get_type_hints(kind, include_extras=True)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise AgentError(
            "config.unknown_key", f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(hints))}"
        )
    values = {
        key: _value(hints[key], value, f"{where}.{key}", base) for key, value in table.items() if key not in ready
    }
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # kind is a dataclass
    required = [entry.name for entry in fields if entry.default is entry.default_factory is dataclasses.MISSING]
    if not set(required) <= {*values, *ready}:
        raise AgentError("config.missing_key", f"{where} needs {', '.join(required)}")
    try:
        return kind(**values, **ready)
    except (AgentError, ProtocolError):
        raise
    except Exception as error:  # the check of a plug-in's own class may raise anything
        raise AgentError("config.invalid", f"{where}: {type(error).__name__}: {error}"[:500]) from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        AgentError: ``config.unreadable``, ``config.malformed``.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AgentError("config.unreadable", f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also a number of more than 4,300 digits
        raise AgentError("config.malformed", f"{path} is not TOML: {error}") from error
