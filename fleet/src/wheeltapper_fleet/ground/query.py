"""The query language: which devices, by state, site, tags, attributes and what they run. Pure.

One grammar for API, command line, page and campaigns; lowest priority first::

    query      = [ or ]                                       (nothing at all: every device)
    or         = and { "or" and }
    and        = not { "and" not }
    not        = "not" not | "(" or ")" | "has" field | "online" | comparison
    comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
               | field "in" "(" value { "," value } ")"
               | field "like" "(" text ")"                    (* is any text, ? is any character)
    field      = "id" | "state" | "online" | "site" | "last_seen" | "enrolled" | "tag." name | "attr." name
               | ( "model" | "release" ) "(" pipeline ")"
    value      = text | number | "true" | "false" | number unit "ago"      (unit: s, m, h, d)

A text is a word (``north``) or quoted (``"north hall"``, with ``\\"`` and ``\\\\``). A time is Unix seconds, an ISO
8601 text (UTC where it names no zone), or an age: ``last_seen < 7d ago``.

Invariants:
    * Every condition is true or false. What a device lacks equals nothing, is below and above nothing, so ``a != b`` is
      the same as ``not a = b``, and is true for a device that lacks ``a``.
    * A tag or an attribute is a text. Compared with a number it is the number that it spells, if it does; ordered
      against a text, the numbers within both compare as numbers: ``0.9.1`` is below ``0.10.0``.
    * A query that is not of this grammar is refused with the column of the fault, from 1. Nothing is guessed.
    * :meth:`Query.matches` is what SQL must say (:mod:`wheeltapper_fleet.devices.selection`).

What this module does not do: read devices.

Example:
    >>> parse('site = north and not (tag.line in (3, 4) or last_seen < 1h ago)').matches({"site": "north"})
    True
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, TypeAlias

from wheeltapper_fleet.ground.errors import FleetError

__all__ = [
    "MAX_CHARACTERS",
    "STATES",
    "Ago",
    "And",
    "Compare",
    "Field",
    "Has",
    "Node",
    "Not",
    "Or",
    "Query",
    "Value",
    "glob_pattern",
    "natural",
    "parse",
    "spelled_number",
]

MAX_CHARACTERS: Final = 8192
_MAX_TERMS: Final = 256
"""Conditions of a query, and values of its lists together."""
_MAX_DEPTH: Final = 32
_MAX_WILDCARDS: Final = 8
_MAX_NAME: Final = 120
STATES: Final = ("pending", "active", "quarantined", "revoked", "retired")
"""The states of a device's life; :mod:`wheeltapper_fleet.devices.rules` moves between them."""
_TEXTS: Final = ("id", "site", "model")
_TIMES: Final = ("last_seen", "enrolled")
_NAMED: Final = ("tag", "attr")
_OF_PIPELINE: Final = ("model", "release")
_KEYWORDS: Final = ("and", "or", "not", "in", "like", "has", "true", "false", "ago")
_FIELDS: Final = (
    'id, state, online, site, last_seen, enrolled, tag.NAME, attr.NAME, model("PIPELINE"), release("PIPELINE")'
)
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_OPERATORS: Final = ("=", "!=", "<", "<=", ">", ">=")
_NUMBER: Final = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?\Z", re.ASCII)
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<text>"(?:[^"\\]|\\["\\])*")
      | (?P<age>[0-9]{1,9}[smhd](?![A-Za-z0-9_.-]))
      | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.-]))
      | (?P<word>[A-Za-z0-9_][A-Za-z0-9_.:/-]*)
      | (?P<sign><=|>=|!=|[=<>(),])""",
    re.VERBOSE | re.ASCII,
)
_UNSTORABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Characters that no database value has: control characters, and halves of a pair."""


@dataclass(frozen=True)
class Field:
    """What is compared: a column (``id``), or one of many by name (``tag``, ``attr``, ``model``, ``release``)."""

    kind: str
    name: str = ""

    @property
    def key(self) -> str:
        """Its key in the facts of :meth:`Query.matches`: ``site``, ``tag.line``, ``release.main``."""
        return f"{self.kind}.{self.name}" if self.name else self.kind


@dataclass(frozen=True)
class Ago:
    """A time that lies this many seconds before the moment of the question."""

    seconds: float


Value: TypeAlias = str | float | bool | Ago


@dataclass(frozen=True)
class Compare:
    """``field operator value``; ``in`` has several values and is true for any; ``like`` has one text with ``*``, ``?``.

    ``!=`` is the :class:`Not` of ``=``.
    """

    field: Field
    operator: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Has:
    """The device has the field at all."""

    field: Field


@dataclass(frozen=True)
class Not:
    """The opposite of ``of``."""

    of: Node


@dataclass(frozen=True)
class And:
    """All of ``of``; of none: true."""

    of: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """Any of ``of``."""

    of: tuple[Node, ...]


Node: TypeAlias = Compare | Has | Not | And | Or


@dataclass(frozen=True)
class Query:
    """A query as a tree; ``text`` is what was written."""

    text: str
    tree: Node

    @property
    def everything(self) -> bool:
        """Whether nothing was asked for, so that every device matches."""
        return self.tree == And(())

    def matches(self, facts: Mapping[str, object], now: float = 0.0) -> bool:
        """Whether a device with ``facts`` (by :attr:`Field.key`; what is missing or None, it lacks) is meant.

        Args:
            facts: texts; numbers for ``release``; Unix seconds for times; a bool for ``online``.
            now: Unix seconds, for ages.
        """
        return _holds(self.tree, facts, now)


def parse(text: str) -> Query:
    """Read a query.

    Raises:
        FleetError: ``query.invalid``, with the column of the fault and the place in the text.
    """
    if len(text) > MAX_CHARACTERS:
        raise FleetError("query.invalid", f"the query has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    reader = _Reader(text)
    tree: Node = And(()) if reader.kind == "end" else reader.any_of(0)
    if reader.kind != "end":
        reader.fail(f"{reader.shown} comes after the query has ended; join conditions with 'and' or 'or'")
    return Query(text, tree)


def natural(text: str) -> str:
    """A key by which texts sort so that the numbers within compare as numbers: ``v9`` before ``v10``."""
    return re.sub("[0-9]+", lambda found: f"{len(found[0].lstrip('0')):03d}{found[0].lstrip('0')}", text)


def spelled_number(text: str) -> float | None:
    """The number that a text spells in full (``12``, ``-0.5``, ``1e3``); None if it spells none."""
    if _NUMBER.match(text) is None:
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def glob_pattern(glob: str) -> re.Pattern[str]:
    """The expression that matches what ``like`` means by ``glob``, for a full match."""
    parts = (".*" if each == "*" else "." if each == "?" else re.escape(each) for each in glob)
    return re.compile("".join(parts), re.DOTALL)


# --- the meaning ------------------------------------------------------------------------------------------------------


def _holds(node: Node, facts: Mapping[str, object], now: float) -> bool:
    match node:
        case And(of):
            return all(_holds(each, facts, now) for each in of)
        case Or(of):
            return any(_holds(each, facts, now) for each in of)
        case Not(of):
            return not _holds(of, facts, now)
        case Has(field):
            return facts.get(field.key) is not None
        case Compare(field, operator, values):
            fact = facts.get(field.key)
            return fact is not None and any(_compares(fact, operator, value, now) for value in values)


def _compares(fact: object, operator: str, value: Value, now: float) -> bool:
    if isinstance(value, Ago):
        value = now - value.seconds
    if operator == "like":
        return glob_pattern(str(value)).fullmatch(str(fact)) is not None
    if isinstance(fact, str) and isinstance(value, float):
        number = spelled_number(fact)
        return number is not None and _ORDERS[operator](number, value)
    if isinstance(fact, str) and isinstance(value, str) and operator in _ORDERED:
        return _ORDERED[operator](natural(fact), natural(value))
    if isinstance(fact, bool | str) or isinstance(value, bool | str):
        return fact == value
    return isinstance(fact, int | float) and _ORDERS[operator](float(fact), value)


_ORDERED: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_ORDERS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "=": lambda a, b: a == b,
    "in": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


# --- the grammar ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int
    """Where it begins, from 0."""


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            what = "this text has no closing quote" if text[at] == '"' else f"{text[at]!r} means nothing here"
            _fail(text, at, what)
        if found.lastgroup != "space":
            yield _Token(found.lastgroup or "", found[0], at)
        at = found.end()
    yield _Token("end", "", len(text))


def _fail(text: str, at: int, what: str) -> NoReturn:
    """Refuse ``text`` for what stands at ``at``, and show the place."""
    begin = max(0, at - 30)
    excerpt = "".join(each if each.isprintable() else "?" for each in text[begin : at + 30])
    message = f"column {at + 1}: {what}\n  {excerpt}\n  {' ' * (at - begin)}^"
    raise FleetError("query.invalid", message, 422)


class _Reader:
    """Reads a query from left to right; the token at hand decides."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._terms = 0
        self._at = next(self._tokens)

    @property
    def kind(self) -> str:
        """``text``, ``age``, ``number``, ``word``, ``sign`` or ``end``."""
        return self._at.kind

    @property
    def shown(self) -> str:
        """The token at hand, for a message."""
        return "the end" if self.kind == "end" else repr(self._at.text[:40])

    def fail(self, what: str, token: _Token | None = None) -> NoReturn:
        """Refuse the query for the token at hand, or for one that was read before."""
        _fail(self._text, (token or self._at).at, what)

    def _take(self) -> _Token:
        taken = self._at
        if taken.kind != "end":
            self._at = next(self._tokens)
        return taken

    def _is(self, *texts: str) -> bool:
        return self.kind in ("word", "sign") and self._at.text.lower() in texts

    def _expect(self, text: str) -> None:
        if not self._is(text):
            self.fail(f"{text!r} is expected here, not {self.shown}")
        self._take()

    def _count(self) -> None:
        self._terms += 1
        if self._terms > _MAX_TERMS:
            self.fail(f"more than {_MAX_TERMS} conditions and values")

    def any_of(self, depth: int) -> Node:
        """``or``."""
        found = [self._all_of(depth)]
        while self._is("or"):
            self._take()
            found.append(self._all_of(depth))
        return found[0] if len(found) == 1 else Or(tuple(found))

    def _all_of(self, depth: int) -> Node:
        found = [self._one(depth)]
        while self._is("and"):
            self._take()
            found.append(self._one(depth))
        return found[0] if len(found) == 1 else And(tuple(found))

    def _one(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            self.fail(f"more than {_MAX_DEPTH} conditions within each other")
        if self._is("not"):
            self._take()
            return Not(self._one(depth + 1))
        if self._is("("):
            self._take()
            inner = self.any_of(depth + 1)
            self._expect(")")
            return inner
        self._count()
        if self._is("has"):
            self._take()
            return Has(self._field())
        return self._comparison()

    def _field(self) -> Field:
        token = self._take()
        kind, dot, name = token.text.partition(".")
        if token.kind != "word" or kind.lower() in _KEYWORDS:
            self.fail(f"a field is expected here: {_FIELDS}", token)
        if kind in _NAMED and dot:
            if not name and self.kind == "text":  # tag."any name"
                name = self._unquoted(self._take())
            if not name or len(name) > _MAX_NAME:
                self.fail(f"{kind}. needs a name of up to {_MAX_NAME} characters, such as {kind}.line", token)
            return Field(kind, name)
        if token.text in _OF_PIPELINE:
            self._expect("(")
            name = self._name()
            self._expect(")")
            return Field(kind, name)
        if token.text not in (*_TEXTS, "state", "online", *_TIMES):
            self.fail(f"there is no field {token.text[:40]!r}; there are {_FIELDS}", token)
        return Field(token.text)

    def _name(self) -> str:
        token = self._take()
        name = self._unquoted(token) if token.kind == "text" else token.text
        if token.kind not in ("text", "word", "number", "age") or not name or len(name) > _MAX_NAME:
            self.fail("the name of a pipeline is expected here", token)
        return name

    def _comparison(self) -> Node:
        field = self._field()
        token = self._at
        if field.kind == "online" and not self._is(*_OPERATORS, "in", "like"):
            return Compare(field, "=", (True,))
        if self._is("in"):
            self._take()
            self._expect("(")
            values = [self._value(field, "in")]
            while self._is(","):
                self._take()
                self._count()
                values.append(self._value(field, "in"))
            self._expect(")")
            return Compare(field, "in", tuple(values))
        if self._is("like"):
            self._take()
            return Compare(field, "like", (self._glob(field, token),))
        if not self._is(*_OPERATORS):
            self.fail(f"after {field.key} one of {' '.join(_OPERATORS)} in like is expected, not {self.shown}")
        operator = self._take().text
        if operator in _ORDERED and field.kind in (*_TEXTS, "state", "online"):
            self.fail(f"{field.key} has no order; use = != in like", token)
        compared = Compare(field, "=" if operator == "!=" else operator, (self._value(field, operator),))
        return Not(compared) if operator == "!=" else compared

    def _glob(self, field: Field, token: _Token) -> str:
        if field.kind not in (*_TEXTS, *_NAMED):
            self.fail(f"{field.key} is no text; 'like' is for texts", token)
        self._expect("(")
        token = self._take()
        glob = self._unquoted(token) if token.kind == "text" else token.text
        if token.kind not in ("text", "word", "number", "age"):
            self.fail('like needs a text with * and ?, such as like("press-*")', token)
        glob = re.sub(r"\*+", "*", glob)
        if sum(glob.count(each) for each in "*?") > _MAX_WILDCARDS:
            self.fail(f"more than {_MAX_WILDCARDS} wildcards", token)
        self._expect(")")
        return glob

    def _value(self, field: Field, operator: str) -> Value:
        token = self._take()
        if token.kind not in ("text", "word", "number", "age") or (
            token.kind == "word" and token.text.lower() in ("and", "or", "not", "in", "like", "has")
        ):
            shown = "the end" if token.kind == "end" else repr(token.text[:40])
            self.fail(f"a value is expected here, not {shown}; put texts into double quotes", token)
        text = self._unquoted(token) if token.kind == "text" else token.text
        match field.kind:
            case "online":
                if token.kind != "word" or text.lower() not in ("true", "false"):
                    self.fail("online is true or false", token)
                return text.lower() == "true"
            case "state":
                if text not in STATES:
                    self.fail(f"there is no state {text[:40]!r}; there are {', '.join(STATES)}", token)
                return text
            case "last_seen" | "enrolled":
                return self._time(token, text)
            case "release":
                return self._number(token, text)
            case "tag" | "attr" if token.kind == "number":
                return self._number(token, text)
        return text

    def _number(self, token: _Token, text: str) -> float:
        number = spelled_number(text) if token.kind == "number" else None
        if number is None:
            self.fail("a number is expected here, such as 12 or -0.5", token)
        return number

    def _time(self, token: _Token, text: str) -> Value:
        if token.kind == "age":
            self._expect("ago")
            return Ago(float(text[:-1]) * _UNITS[text[-1]])
        if token.kind == "number":
            return self._number(token, text)
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.fail("a time is expected here: 2026-11-29T12:00:00Z, 7d ago, or Unix seconds", token)

    def _unquoted(self, token: _Token) -> str:
        text = re.sub(r"\\(.)", r"\1", token.text[1:-1])
        if (unstorable := _UNSTORABLE.search(token.text)) is not None:
            _fail(self._text, token.at + unstorable.start(), "a text cannot have this character")
        return text
