"""Keeps versions of datasets and what is in them: in a folder, or in a bucket.

    blobs/SS/SHA256                the content of items, by its hash (``SS``: its first two digits): each is kept once
    items/SHA256.jsonl             lists of items
    versions/NAME/00000001.json    manifests; the file beside each, ``.croissant.json``, is the same as Croissant
    tombstones/SHA256.json         contents that were removed

Invariants:
    * Nothing is ever changed but by :meth:`DatasetStore.remove_content`, and that only removes bytes.
    * A version appears whole: its contents and list of items are written, and flushed, before its manifest.
    * What is read has the hash by which it was asked for, or ``dataset.damaged`` is raised.
    * Writing what is there already costs a look-up: an import that was killed and is started again goes on.

Cost: an item is a file of its content and a line of the list. Lists are read and written a line at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from wheeltapper_fleet.ground.place import Place
from wheeltapper_fleet.learning.datasets.manifest import (
    DatasetManifest,
    Item,
    ItemList,
    Ref,
    Tombstone,
    decode,
    digest,
    encode,
)
from wheeltapper_fleet.learning.errors import DatasetError

__all__ = ["DatasetStore"]

_CHUNK_BYTES: Final = 1024 * 1024
_SPOOL_BYTES: Final = 64 * 1024 * 1024


class DatasetStore:
    """All datasets of one place.

    Args:
        url: a folder, or ``s3://bucket/prefix`` (:class:`~wheeltapper_fleet.ground.place.Place`).

    Raises:
        FleetError: ``dataset.url``, ``dataset.missing_library``; every method raises ``dataset.unreachable``.
    """

    def __init__(self, url: str | Path) -> None:
        self.place = Place(str(url), "dataset", "the store of datasets")

    @property
    def url(self) -> str:
        """Where it is."""
        return self.place.url

    # --- contents ---

    def has(self, sha256: str, length: int) -> bool:
        """Whether a content of this hash (by its name) and length is here."""
        return self.place.length(_blob(sha256)) == length

    def put(self, content: bytes) -> str:
        """Keep a content; returns its SHA-256.

        Raises:
            DatasetError: ``dataset.removed``: it was removed on request, and is not taken again.
        """
        sha256 = digest(content)
        if self.has(sha256, len(content)):
            self.place.touch(_blob(sha256))  # it is in use: it is not pruned before a version names it
            return sha256
        if self.tombstone(sha256) is not None:
            raise DatasetError("dataset.removed", f"the content {sha256} was removed on request: leave it out", 409)
        self.place.write_file(_blob(sha256), io.BytesIO(content))
        return sha256

    @contextlib.contextmanager
    def content(self, sha256: str) -> Iterator[BinaryIO]:
        """A content whose bytes have been compared with their hash, opened at its beginning.

        Raises:
            DatasetError: ``dataset.removed``, ``dataset.damaged`` (also where it is missing).
        """
        if self.place.length(_blob(sha256)) is None:
            removed = self.tombstone(sha256)
            if removed is not None:
                raise DatasetError("dataset.removed", f"the content {sha256} was removed on {removed.at}", 410)
            raise DatasetError(
                "dataset.damaged", f"the content {sha256} is missing in {self.url}: import it again", 409
            )
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as copy, self.place.opened(_blob(sha256)) as file:
            found = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                found.update(chunk)
                copy.write(chunk)
            if found.hexdigest() != sha256:
                raise DatasetError("dataset.damaged", f"the content {sha256} in {self.url} does not have its hash", 409)
            copy.seek(0)
            yield copy  # type: ignore[misc]  # a spooled file is a binary file in all but its type

    def remove_content(self, removed: Tombstone) -> None:
        """Leave a tombstone, and then remove the bytes. A tombstone that is there stays as it is."""
        if self.tombstone(removed.sha256) is None:
            self.place.write_new(_tombstone(removed.sha256), encode(removed))
        self.place.remove(_blob(removed.sha256))

    def tombstone(self, sha256: str) -> Tombstone | None:
        """The tombstone of a content, if it was removed."""
        path = _tombstone(sha256)
        if self.place.length(path) is None:
            return None
        return decode(self.place.read(path), Tombstone, path)

    def tombstones(self) -> set[str]:
        """The hashes of all contents that were removed."""
        return {name.removesuffix(".json") for name in self.place.names("tombstones")}

    # --- versions ---

    def names(self) -> list[str]:
        """The names of all datasets, in order."""
        return self.place.names("versions")

    def versions(self, name: str) -> list[int]:
        """The numbers of the versions of a dataset, rising; empty where there is no such dataset."""
        found = (each.removesuffix(".json") for each in self.place.names(f"versions/{name}"))
        return sorted(int(number) for number in found if number.isascii() and number.isdigit())

    def resolve(self, ref: Ref) -> Ref:
        """``ref`` with its version, the newest where it names none.

        Raises:
            DatasetError: ``dataset.not_found``.
        """
        if ref.version is not None:
            if self.place.length(_version(ref.name, ref.version)) is not None:
                return ref
            raise DatasetError("dataset.not_found", f"there is no dataset {ref.name}@{ref.version} in {self.url}", 404)
        if versions := self.versions(ref.name):
            return Ref(ref.name, versions[-1])
        raise DatasetError("dataset.not_found", f"there is no dataset {ref.name} in {self.url}", 404)

    def manifest(self, ref: Ref) -> tuple[DatasetManifest, str]:
        """A version's manifest, and its SHA-256.

        Raises:
            DatasetError: ``dataset.not_found``, ``dataset.damaged``.
        """
        found = self.resolve(ref)
        path = _version(found.name, found.version or 0)
        content = self.place.read(path)
        manifest = decode(content, DatasetManifest, path)
        if (manifest.name, manifest.version) != found:
            raise DatasetError("dataset.damaged", f"{path} is the manifest of {manifest.ref}", 409)
        return manifest, digest(content)

    def items(self, items: ItemList) -> Iterator[Item]:
        """The items of a version in their order; the list is compared with its hash when its end is reached.

        Raises:
            DatasetError: ``dataset.damaged``.
        """
        path = _items(items.sha256)
        if self.place.length(path) is None:
            raise DatasetError("dataset.damaged", f"{path} is missing in {self.url}", 409)
        found = hashlib.sha256()
        with self.place.opened(path) as file:
            for line in _lines(file):
                found.update(line)
                yield decode(line, Item, path)
        if found.hexdigest() != items.sha256:
            raise DatasetError("dataset.damaged", f"{path} in {self.url} does not have its hash", 409)

    def items_page(self, items: ItemList, at: int, limit: int) -> tuple[list[Item], int | None]:
        """At most ``limit`` items from the byte ``at`` of the list on, and where the next ones begin; None at the end.

        Raises:
            DatasetError: ``dataset.damaged``, ``dataset.cursor``: no item begins there.
        """
        path, found = _items(items.sha256), []
        if not 0 <= at < max(1, items.bytes):
            raise DatasetError(
                "dataset.cursor", "this is no cursor of these items; take `next` of the page before", 400
            )
        with self.place.opened(path) as file:
            if at:
                file.seek(at - 1)
                if file.read(1) != b"\n":
                    message = "this is no cursor of these items; take `next` of the page before"
                    raise DatasetError("dataset.cursor", message, 400)
            for line in _lines(file):
                found.append(decode(line, Item, path))
                at += len(line)
                if len(found) == limit:
                    break
        return found, at if at < items.bytes else None

    def write_items(self, items: Iterable[Item]) -> ItemList:
        """Write a list of items, which must be in their order.

        Memory: a piece of it; the list is gathered in a temporary file first.
        """
        found, length, count = hashlib.sha256(), 0, 0
        with tempfile.TemporaryFile() as file:
            for item in items:
                line = encode(item) + b"\n"
                found.update(line)
                file.write(line)
                length, count = length + len(line), count + 1
            written = ItemList(sha256=found.hexdigest(), bytes=length, count=count)
            if self.place.length(_items(written.sha256)) == length:
                self.place.touch(_items(written.sha256))
            else:
                file.seek(0)
                self.place.write_file(_items(written.sha256), file)
        return written

    def add_version(self, manifest: DatasetManifest, croissant: bytes) -> bool:
        """Write a version; False, and nothing is changed, where this number is taken.

        Args:
            manifest: of the version.
            croissant: the same as Croissant; it is written beside it for others to read.
        """
        path = _version(manifest.name, manifest.version)
        if not self.place.write_new(path, encode(manifest)):
            return False
        self.place.write(path.replace(".json", ".croissant.json"), croissant)
        return True


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, each with its end; files of buckets have no lines of their own."""
    rest = b""
    while chunk := file.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def _blob(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _items(sha256: str) -> str:
    return f"items/{sha256}.jsonl"


def _version(name: str, version: int) -> str:
    return f"versions/{name}/{version:08d}.json"


def _tombstone(sha256: str) -> str:
    return f"tombstones/{sha256}.json"
