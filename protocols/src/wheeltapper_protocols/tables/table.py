"""What all tables have in common.

What this package does not do: cut windows; scale; fill in what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.notes import Notes

__all__ = ["CHUNK_SAMPLES", "Chunk", "Table", "unreadable"]

CHUNK_SAMPLES: Final = 8192
"""Samples that are read at once."""

Chunk: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64] | None]
"""Samples [sample, channel] in the numbers of the file, and the time of each in seconds if the file has times."""


class Table(Protocol):
    """A file with one continuous signal. What the file does not say about itself is 0 or empty."""

    @property
    def path(self) -> Path:
        """Where the file is."""

    @property
    def sample_rate_hz(self) -> float:
        """Samples a second."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""

    @property
    def full_scale(self) -> float:
        """Largest number that the format can hold."""

    @property
    def time_unit(self) -> str:
        """What times that are numbers are in; empty where the file says it itself."""

    def chunks(self, notes: Notes) -> Iterator[Chunk]:
        """Give the signal from its beginning; ``notes`` is told what is left out."""


def unreadable(path: Path, error: OSError) -> RecordingError:
    """Return the error for a file that the file system refuses."""
    return RecordingError(
        "recording.unreadable", f"the recording {path.name} cannot be read: {error.strerror or error}"
    )
