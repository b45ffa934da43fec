"""What a version of a dataset is: a small manifest, and the list of its items in a file of its own. Pure.

A version is immutable. Its manifest names the list of items by SHA-256, each item its content by SHA-256, so the hash
of the manifest stands for every byte. Both are canonical JSON: equal values are equal bytes on every machine.

    * **item**: a recording or a table, or some snapshots (rows) of one; with its machine, operating condition,
      labels, time, split, and what it looks like (rate, window, channels, units, statistics).
    * **schema**: the forms that items have, each with its count.
    * **split**: how items were divided. By machine: no machine is on two sides.

Example:
    >>> parse_ref("bearings@3")
    Ref(name='bearings', version=3)

Invariant: :func:`encode` of :func:`decode` of a manifest gives its bytes again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from wheeltapper_fleet.learning.errors import DatasetError
from wheeltapper_protocols.wire.ids import SHA256_PATTERN

__all__ = [
    "FORMAT",
    "SPLITS",
    "ChannelStatistics",
    "Check",
    "DatasetManifest",
    "Form",
    "Item",
    "ItemList",
    "Label",
    "Ref",
    "SplitCount",
    "Splitting",
    "Tombstone",
    "decode",
    "digest",
    "encode",
    "form_of",
    "parse_ref",
    "shares_of",
]

FORMAT: Final = 1
SPLITS: Final = ("train", "validation", "test")
"""The names of the sides; an item that is on none has the empty one."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_MOST_VERSIONS: Final = 99_999_999

Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
Value = str | float | bool
Text = Annotated[str, Meta(max_length=300)]
T = TypeVar("T")


class Label(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an item, or of a part of its time.

    Args:
        name: of what is known, e.g. ``fault``, ``verdict``, ``remaining_cycles``.
        value: what it is.
        start, stop: from when to when, in the seconds (or cycles) of the item's own times; None: all of it.
        source: who says so, e.g. ``case 12``.
    """

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    value: Value
    start: float | None = None
    stop: float | None = None
    source: Text = ""


class ChannelStatistics(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Physical values of one channel (column) of an item.

    Args:
        mean, std, low, high: of the values that are there; 0 where there are none.
        missing: share of values that are missing, 0 to 1.
        clipped: share of values that lie in runs at the lowest or highest value, 0 to 1.
        step: the physical value of one count of the recorder; 0 where values are no counts.
    """

    mean: float = 0.0
    std: float = 0.0
    low: float = 0.0
    high: float = 0.0
    missing: float = 0.0
    clipped: float = 0.0
    step: float = 0.0


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One recording or table of a version, or a part of one.

    Args:
        sha256, bytes: of its content in the store.
        kind: what the content is.
        machine: which physical machine (bearing, engine, battery) it is of. Splits are by it.
        source: where it came from: a file's name, a capture.
        first, count: which snapshots (rows) of the content it is; ``count`` is at least 1.
        start, stop: times of its first snapshot, and of the end of its last, in the seconds of the content; None for a
            table without a time.
        split: the side it is on, or empty.
        labels, condition: what is known of it, and under which condition it was recorded (speed, load).
        sample_rate_hz, window_samples: of a recording; 0 for a table.
        channels, units, statistics: [channel].
        windows: hashes of some of its windows: the 8 lowest of the SHA-256 of their physical values, 16 hex digits
            each.
        shapes: of 8 windows spread over it: 64 signs of projections of the normalised window, 16 hex digits each.
            Windows that are nearly equal differ in few of them.
    """

    sha256: Sha256
    bytes: Annotated[int, Meta(ge=0)]
    kind: Literal["recording", "table"] = "recording"
    machine: Annotated[str, Meta(min_length=1, max_length=120)]
    source: Text = ""
    first: Annotated[int, Meta(ge=0)] = 0
    count: Annotated[int, Meta(ge=1)]
    start: float | None = None
    stop: float | None = None
    split: Literal["", "train", "validation", "test"] = ""
    labels: Annotated[list[Label], Meta(max_length=1000)] = []
    condition: dict[str, Value] = {}
    sample_rate_hz: float = 0.0
    window_samples: int = 0
    channels: Annotated[list[Text], Meta(max_length=256)]
    units: list[Text]
    statistics: list[ChannelStatistics] = []
    windows: list[str] = []
    shapes: list[str] = []

    @property
    def key(self) -> tuple[str, float, str, int]:
        """By what items are in order: machine, start, content, part."""
        return (self.machine, self.start if self.start is not None else -1e300, self.sha256, self.first)

    def label(self, name: str) -> Value | None:
        """The value of the first label of this name; None where there is none."""
        return next((label.value for label in self.labels if label.name == name), None)


class Form(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What some items have in common: kind, rate, window, channels and units. ``items`` counts them."""

    kind: Literal["recording", "table"]
    sample_rate_hz: float = 0.0
    window_samples: int = 0
    channels: list[Text]
    units: list[Text]
    items: int


class ItemList(Struct, frozen=True, kw_only=True):
    """The file with the items: one a line, in the order of :attr:`Item.key`."""

    sha256: Sha256
    bytes: int
    count: int


class SplitCount(Struct, frozen=True, kw_only=True):
    """How much is on one side: items, snapshots (rows), and machines."""

    items: int
    snapshots: int
    machines: int


class Splitting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How items were divided.

    Args:
        by: ``machine``; ``source``: as the source says; ``recording`` and ``window``: one machine may be on two sides.
        shares: what each side was to have of the items.
        forced: whether a split that leaks was asked for. It is then in the lineage of whatever is trained on it.
        leaks: machines that are on two sides, at most ten of them by name.
        sides: what is on each side; items that are on none are under the empty name.
    """

    by: Literal["none", "machine", "source", "recording", "window"] = "none"
    shares: dict[str, float] = {}
    forced: bool = False
    leaks: list[str] = []
    sides: dict[str, SplitCount] = {}

    @property
    def lineage(self) -> str:
        """In words, for the lineage of a model."""
        return self.by + (", forced" if self.forced else "") + (", leaks" if self.leaks else "")


class Check(Struct, frozen=True, kw_only=True):
    """One check with its verdict and numbers: ``limit`` is what ``value`` was compared with."""

    name: str
    verdict: Literal["pass", "warn", "fail"]
    value: float
    limit: float
    detail: str = ""


class DatasetManifest(Struct, frozen=True, kw_only=True):
    """One version of a dataset.

    Args:
        created_at: ISO 8601, UTC.
        description: what it is, in words; licence and citation belong here.
        sources: what it was made from, a line each.
        base: ``name@version`` whose items it began with, or empty.
        items: the file with the items.
        schema, statistics: what its items look like; statistics by channel, over all items of one form each.
        splitting, checks: how it was divided, and what the checks said when it was made.
        labels: for each name of a label how often each value is there: the 50 most frequent; numbers are one value.
        machines: how many there are.
        bytes: of all contents.
    """

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)] = FORMAT
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
    version: Annotated[int, Meta(ge=1, le=_MOST_VERSIONS)]
    created_at: Annotated[str, Meta(max_length=40)]
    description: Annotated[str, Meta(max_length=4000)] = ""
    sources: Annotated[list[Text], Meta(max_length=100)] = []
    base: str = ""
    items: ItemList
    schema: list[Form]
    statistics: list[list[ChannelStatistics]]
    splitting: Splitting
    checks: list[Check]
    labels: dict[str, dict[str, int]]
    machines: int
    bytes: int

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class Tombstone(Struct, frozen=True, kw_only=True):
    """What is left of a content whose bytes were removed: why, who asked for it, and when (ISO 8601, UTC)."""

    sha256: Sha256
    why: Annotated[str, Meta(min_length=1, max_length=500)]
    who: Annotated[str, Meta(max_length=128)]
    at: Annotated[str, Meta(max_length=40)]
    bytes: int


class Ref(NamedTuple):
    """A dataset, and one of its versions; None: the newest."""

    name: str
    version: int | None = None


def parse_ref(text: str) -> Ref:
    """Read ``NAME`` or ``NAME@VERSION``.

    Raises:
        DatasetError: ``dataset.name``.
    """
    name, sign, version = text.partition("@")
    number = int(version) if version.isascii() and version.isdigit() and len(version) <= 8 else 0
    if not _NAME.match(name) or (sign and number < 1):
        raise DatasetError(
            "dataset.name",
            f"{text[:80]!r} names no dataset: write NAME or NAME@VERSION; a name has a-z, 0-9 and -, 63 at most",
            400,
        )
    return Ref(name, number if sign else None)


def encode(value: Struct) -> bytes:
    """A struct as canonical JSON: keys in order, no blanks, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def decode(content: bytes, kind: type[T], what: str) -> T:
    """Read what :func:`encode` wrote; ``what`` names it in the error.

    Raises:
        DatasetError: ``dataset.damaged``.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DatasetError("dataset.damaged", f"{what} cannot be read: {error}", 409) from error


def digest(content: bytes) -> str:
    """The SHA-256 of some bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def form_of(item: Item) -> tuple[Any, ...]:
    """What :class:`Form` an item has, as a key."""
    return (item.kind, item.sample_rate_hz, item.window_samples, tuple(item.channels), tuple(item.units))


def shares_of(texts: Iterable[str]) -> dict[str, float]:
    """Read shares such as ``train=0.8``; they need not add up to 1.

    Raises:
        DatasetError: ``dataset.split``.
    """
    found: dict[str, float] = {}
    for text in texts:
        side, _, share = text.partition("=")
        try:
            found[side] = float(share)
        except ValueError:
            found[side] = -1.0
        if side not in SPLITS or not 0 < found[side] <= 1e6:
            message = f"{text[:80]!r} is no share: write SIDE=SHARE, the sides are {', '.join(SPLITS)}"
            raise DatasetError("dataset.split", message, 400)
    return found
