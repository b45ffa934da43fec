"""Makes a version of a dataset: reads sources one after the other, keeps their content, divides and checks the items.

Invariants:
    * If anything fails no version was made. What was read so far stays in the store by its hash, so that the same
      import, started again, writes only what is missing.
    * One content is in memory at a time; of an item only its order and where its line is in a temporary file.
    * The same content comes once: a source that the version has already adds nothing.
    * An import that changes nothing makes no version: the newest is given back.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from wheeltapper_fleet.learning.datasets.checks import Checker
from wheeltapper_fleet.learning.datasets.croissant import croissant_of
from wheeltapper_fleet.learning.datasets.describe import item_of
from wheeltapper_fleet.learning.datasets.manifest import (
    ChannelStatistics,
    DatasetManifest,
    Form,
    Item,
    Label,
    Ref,
    SplitCount,
    Splitting,
    Value,
    decode,
    encode,
    form_of,
    parse_ref,
)
from wheeltapper_fleet.learning.datasets.splits import Request, check_request, parts_of, sides_of
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.datasets.table import DataTable, table_bytes
from wheeltapper_fleet.learning.errors import DatasetError
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.signal.recording import Recording, recording_bytes

__all__ = ["Incoming", "Made", "import_version"]

_TRIES: Final = 20
"""How often another number is taken where others make versions at the same time."""
_FORMS: Final = 50
"""Forms of items that are listed in a manifest."""
_REFUSED: Final = ("machine_on_two_sides", "duplicates_across_splits")
"""Checks that must not fail, unless the split is forced."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """One content that is to become an item.

    Args:
        read: reads it; called once, when its turn has come.
        machine: which physical machine it is of; empty: what the content's ``meta`` says.
        source: where it came from, in a few words.
        labels, condition: what is known of it.
        split: the side that the source says it is on, or empty.
        relabel: gives labels that depend on the content's times; they are added to ``labels``.
    """

    read: Callable[[], Recording | DataTable]
    machine: str
    source: str
    labels: list[Label] = field(default_factory=list)
    condition: dict[str, Value] = field(default_factory=dict)
    split: str = ""
    relabel: Callable[[Recording | DataTable], list[Label]] | None = None


@dataclass(frozen=True)
class Made:
    """A version, the SHA-256 of its manifest, and whether it is new."""

    manifest: DatasetManifest
    sha256: str
    new: bool


def import_version(
    store: DatasetStore,
    name: str,
    incoming: Iterable[Incoming],
    *,
    base: Ref | None = None,
    request: Request | None = None,
    description: str = "",
    progress: Say = lambda text: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Made:
    """Make the next version of a dataset.

    Args:
        store: where it is kept.
        name: of the dataset.
        incoming: what is to be in it.
        base: a version whose items are taken too, but for those whose content was removed.
        request: how to divide the items; by default as they come.
        description: in words; by default that of the version before.
        progress: called with a few words for each content.
        now: the time.

    Raises:
        DatasetError: ``dataset.empty``, ``dataset.leak``, ``dataset.split``, ``dataset.removed``, ``dataset.import``.
    """
    parse_ref(name)
    newest = store.versions(name)[-1:]
    before = store.manifest(Ref(name, newest[0]))[0] if newest else None
    request = request or Request()
    if request.by == "none" and base is not None:
        request = _as_before(store.manifest(base)[0], request)
    check_request(request)
    with _Spool() as spool:
        known = _add_base(store, base, spool) if base is not None else {}
        if before is not None and base is None:
            known = _sides_before(store, before)
        for each in incoming:
            _add(store, each, spool, progress)
        if not len(spool):
            raise DatasetError("dataset.empty", "there is nothing in it: no source gave an item", 400)
        progress("dividing and checking")
        return _finish(store, name, spool, known, request, before, base, description, now)


def _as_before(base: DatasetManifest, request: Request) -> Request:
    """The request to divide items as those of the base were.

    Raises:
        DatasetError: ``dataset.split``.
    """
    if base.splitting.by in ("window", "recording"):
        message = f"{base.ref} is divided by {base.splitting.by}: it cannot be added to; import its sources again"
        raise DatasetError("dataset.split", message, 400)
    if base.splitting.by == "machine" and base.splitting.shares:
        return msgspec.structs.replace(request, by="machine", shares=base.splitting.shares)
    return request


def _add_base(store: DatasetStore, base: Ref, spool: _Spool) -> dict[str, str]:
    """Take the items of a version; returns the sides of its machines."""
    removed, known = store.tombstones(), dict[str, str]()
    for item in store.items(store.manifest(base)[0].items):
        if item.split:
            known[item.machine] = item.split
        if item.sha256 not in removed:
            spool.add(item)
    return known


def _sides_before(store: DatasetStore, before: DatasetManifest) -> dict[str, str]:
    """The sides of the machines of the version before: a machine stays where it was."""
    if before.splitting.by not in ("machine", "source"):
        return {}
    return {item.machine: item.split for item in store.items(before.items) if item.split}


def _add(store: DatasetStore, each: Incoming, spool: _Spool, progress: Say) -> None:
    progress(each.source)
    try:
        content = each.read()
        encoded = recording_bytes(content) if isinstance(content, Recording) else table_bytes(content)
        labels = each.labels + (each.relabel(content) if each.relabel is not None else [])
    except ProtocolError as error:
        raise DatasetError("dataset.import", f"{each.source}: {error.message} ({error.code})", 400) from error
    sha256 = store.put(encoded)
    spool.add(
        item_of(
            content,
            sha256,
            len(encoded),
            machine=each.machine or str(content.meta["machine"])[:120],
            source=each.source[:300],
            labels=labels,
            condition=each.condition,
            split=each.split,
        )
    )


def _finish(
    store: DatasetStore,
    name: str,
    spool: _Spool,
    known: dict[str, str],
    request: Request,
    before: DatasetManifest | None,
    base: Ref | None,
    description: str,
    now: Callable[[], datetime],
) -> Made:
    """Divide, check, and write the version."""
    summary = _Summary()
    listed = store.write_items(summary.through(_divided(spool, known, request)))
    checks = summary.checker.checks(request.shares)
    refused = [check for check in checks if check.verdict == "fail" and check.name in _REFUSED]
    if refused and not request.force:
        text = "; ".join(f"{check.name} is {check.value:g} ({check.detail})" for check in refused)
        raise DatasetError("dataset.leak", f"{text}: put each machine and each window on one side, or say --force", 409)
    by = request.by if request.by != "none" else "source" if any(side for side in summary.sides) else "none"
    leaks = summary.checker.leaks
    splitting = Splitting(
        by=by, shares=request.shares, forced=bool(refused) or bool(leaks), leaks=leaks[:10], sides=summary.counts()
    )
    described = description or (before.description if before is not None else "")
    if before is not None and (before.items, before.splitting, before.description) == (listed, splitting, described):
        return Made(before, store.manifest(Ref(name, before.version))[1], False)
    number = before.version + 1 if before is not None else 1
    for _ in range(_TRIES):
        manifest = DatasetManifest(
            name=name,
            version=number,
            created_at=now().isoformat(timespec="seconds"),
            description=described,
            sources=summary.listed_sources(),
            base="" if base is None else f"{base.name}@{base.version}",
            items=listed,
            schema=summary.schema(),
            statistics=summary.statistics(),
            splitting=splitting,
            checks=checks,
            labels=summary.checker.labels,
            machines=len(summary.machines),
            bytes=summary.total_bytes,
        )
        if store.add_version(manifest, croissant_of(manifest)):
            return Made(manifest, store.manifest(Ref(name, number))[1], True)
        number += 1
    raise DatasetError("dataset.conflict", f"others make versions of {name} all the time: try again", 409)


def _divided(spool: _Spool, known: dict[str, str], request: Request) -> Iterator[Item]:
    """The items in their order, each on its side."""
    if request.by in ("none", "source"):
        for item in spool.ordered():
            side: Any = request.assigned.get(item.machine, item.split)
            yield msgspec.structs.replace(item, split=side)
        return
    if request.by == "window":
        for item in spool.ordered():
            yield from parts_of(item, request.shares)
        return
    if request.by == "recording":
        sides = sides_of({key[2]: count for key, count in spool.sizes()}, {}, request)
        for item in spool.ordered():
            found: Any = sides[item.sha256]
            yield msgspec.structs.replace(item, split=found)
        return
    sizes: Counter[str] = Counter()
    for key, count in spool.sizes():
        sizes[key[0]] += count
    sides = sides_of(sizes, known, request)
    for item in spool.ordered():
        chosen: Any = sides[item.machine]
        yield msgspec.structs.replace(item, split=chosen)


class _Spool:
    """Items in a temporary file, and their order in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # __exit__ closes it
        self._entries: dict[tuple[str, str, int, int], tuple[tuple[str, float, str, int], int, int]] = {}

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, item: Item) -> None:
        """Take an item; it takes the place of one of the same machine, content and part, and its labels hold."""
        at = self._file.seek(0, 2)
        self._file.write(encode(item) + b"\n")
        self._entries[(item.machine, item.sha256, item.first, item.count)] = (item.key, at, item.count)

    def sizes(self) -> Iterator[tuple[tuple[str, float, str, int], int]]:
        """The key and the snapshots of each item."""
        for key, _, count in self._entries.values():
            yield key, count

    def ordered(self) -> Iterator[Item]:
        """The items in their order."""
        for _, at, _ in sorted(self._entries.values()):
            self._file.seek(at)
            yield decode(self._file.readline(), Item, "an item")


class _Summary:
    """What a manifest says of all items together; memory does not grow with their number but for names of machines."""

    def __init__(self) -> None:
        self.checker = Checker()
        self.machines: set[str] = set()
        self.total_bytes = 0
        self.sides: dict[str, list[Any]] = {}
        self._contents: set[str] = set()
        self._forms: dict[tuple[Any, ...], int] = {}
        self._columns: dict[tuple[Any, ...], list[_Column]] = defaultdict(list)
        self._sources: dict[str, None] = {}

    def through(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give the items on, and take note of each."""
        for item in items:
            self.checker.add(item)
            self.machines.add(item.machine)
            if item.sha256 not in self._contents:
                self._contents.add(item.sha256)
                self.total_bytes += item.bytes
            side = self.sides.setdefault(item.split, [0, 0, set()])
            side[0], side[1] = side[0] + 1, side[1] + item.count
            side[2].add(item.machine)
            if len(self._sources) < 100:
                self._sources.setdefault(item.source)
            form = form_of(item)
            self._forms[form] = self._forms.get(form, 0) + 1
            columns = self._columns[form]
            if not columns:
                columns += [_Column() for _ in item.statistics]
            for column, found in zip(columns, item.statistics, strict=False):
                column.add(found, item.count * max(1, item.window_samples))
            yield item

    def counts(self) -> dict[str, SplitCount]:
        """What is on each side."""
        return {
            side: SplitCount(items=items, snapshots=snapshots, machines=len(machines))
            for side, (items, snapshots, machines) in sorted(self.sides.items())
            if side or len(self.sides) > 1
        }

    def _ordered_forms(self) -> list[tuple[tuple[Any, ...], int]]:
        return sorted(self._forms.items(), key=lambda each: (-each[1], str(each[0])))[:_FORMS]

    def schema(self) -> list[Form]:
        """The forms of items, the most frequent first."""
        return [
            Form(
                kind=form[0],
                sample_rate_hz=form[1],
                window_samples=form[2],
                channels=list(form[3]),
                units=list(form[4]),
                items=count,
            )
            for form, count in self._ordered_forms()
        ]

    def statistics(self) -> list[list[ChannelStatistics]]:
        """Of each channel over all items of each form of :meth:`schema`."""
        return [[column.statistics() for column in self._columns[form]] for form, _ in self._ordered_forms()]

    def listed_sources(self) -> list[str]:
        """Where the items came from: the first hundred places."""
        return list(self._sources)


class _Column:
    """Adds up the statistics of a channel (Chan, Golub and LeVeque's update of a variance)."""

    def __init__(self) -> None:
        self._count = self._size = self._mean = self._squares = self._missing = 0.0
        self._clipped = self._step = 0.0
        self._low, self._high = float("inf"), float("-inf")

    def add(self, found: ChannelStatistics, size: int) -> None:
        """Take the statistics of ``size`` values."""
        count = size * (1.0 - found.missing)
        self._missing, self._size = self._missing + size * found.missing, self._size + size
        self._clipped, self._step = self._clipped + size * found.clipped, max(self._step, found.step)
        if count <= 0:
            return
        whole, distance = self._count + count, found.mean - self._mean
        self._mean += distance * count / whole
        self._squares += found.std**2 * count + distance**2 * self._count * count / whole
        self._count = whole
        self._low, self._high = min(self._low, found.low), max(self._high, found.high)

    def statistics(self) -> ChannelStatistics:
        """Of all that was added."""
        if not self._count:
            return ChannelStatistics(missing=1.0)
        return ChannelStatistics(
            mean=self._mean,
            std=(self._squares / self._count) ** 0.5,
            low=self._low,
            high=self._high,
            missing=self._missing / self._size,
            clipped=self._clipped / self._size,
            step=self._step,
        )
