"""High-water marks: what may only rise, whatever else the device forgets.

Invariants: counter, time, floors and the versions of metadata never fall; each mark is the maximum over all copies that
can be read, so that the device forgets them only by losing every copy; one copy lies with the slots, so whoever has a
release has its marks. A disk that refuses does not lower what is in memory: the copies are written again at the next
rise. What a version of the agent does not know of a copy it leaves out, and does without what it lacks.

What this module does not do: judge. See :mod:`wheeltapper_agent.update.trust`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_protocols.wire.messages import Count, Name, Release, Seconds

__all__ = ["MARKS_FILE", "MarkStore", "Marks", "merge"]

_LOG = logging.getLogger(__name__)
MARKS_FILE: Final = "marks.json"


class Marks(Struct, frozen=True, kw_only=True):
    """The highest seen of each."""

    counter: Count = 0
    payload_sha256: Annotated[str, Meta(max_length=64)] = ""
    """Of the assignment that brought the counter."""
    newest_time_seconds: Seconds = 0.0
    floors: dict[Name, Release] = {}
    """By model: no release below may be run."""
    metadata: dict[str, Count] = {}
    """Versions of the repository's metadata, by what :mod:`wheeltapper_agent.update.tuf_client` calls them."""


def merge(one: Marks, other: Marks) -> Marks:
    """The higher of each mark."""
    newer = other if other.counter > one.counter else one
    return Marks(
        counter=newer.counter,
        payload_sha256=newer.payload_sha256,
        newest_time_seconds=max(one.newest_time_seconds, other.newest_time_seconds),
        floors={
            model: max(one.floors.get(model, 1), other.floors.get(model, 1)) for model in {*one.floors, *other.floors}
        },
        metadata={
            name: max(one.metadata.get(name, 0), other.metadata.get(name, 0))
            for name in {*one.metadata, *other.metadata}
        },
    )


class MarkStore:
    """The marks, with a copy at each of ``paths``."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        copies = [self._read(path) for path in self._paths]
        self.marks = Marks()
        for copy in copies:
            self.marks = merge(self.marks, copy or Marks())
        self._stale = {path for path, copy in zip(self._paths, copies, strict=True) if copy != self.marks}
        self.rise(self.marks)

    def rise(self, marks: Marks) -> None:
        """Take over what is higher in ``marks``; on the disk on return, unless the log says otherwise."""
        merged = merge(self.marks, marks)
        if merged != self.marks:
            self.marks = merged
            self._stale = set(self._paths)
        for path in sorted(self._stale):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, msgspec.json.encode(self.marks, order="deterministic"))
            except OSError as error:
                _LOG.error("marks.storage: %s cannot be written: %s", path, error)
            else:
                self._stale.discard(path)

    @staticmethod
    def _read(path: Path) -> Marks | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Marks)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
            _LOG.error("marks.unreadable: %s: %s; the other copies count", path, error)
            return None
