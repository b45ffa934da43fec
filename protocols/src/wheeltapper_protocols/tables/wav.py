"""WAV files: uncompressed PCM and float, plain or as ``WAVE_FORMAT_EXTENSIBLE``, also RF64 and BW64 of more than 4 GB.

Invariants:
    * Memory is bounded whatever a header promises.
    * Nothing but ``RecordingError`` with ``recording.unreadable`` or ``recording.malformed`` is raised.
    * A file whose recorder never wrote the length, or wrote it modulo 4 GB, is read to its end.
    * A file that is shorter than its header promises is read as far as it goes, and what is missing is noted.

Sources: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft, 1991), chapter 3;
``WAVEFORMATEXTENSIBLE`` in Microsoft's mmreg.h; EBU Tech 3306 (RF64) and ITU-R BS.2088 (BW64).

What this module does not do: read compressed formats, or Sony's Wave64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import MAX_CHANNELS, malformed
from wheeltapper_protocols.tables.table import CHUNK_SAMPLES, Chunk, unreadable

__all__ = ["WavTable"]

_MAX_CHUNKS: Final = 1000
"""Chunks of a file that are looked through for the format and the samples."""
_PCM: Final = 1
_FLOAT: Final = 3
_EXTENSIBLE: Final = 0xFFFE
_SUBFORMAT: Final = bytes.fromhex("000000001000800000aa00389b71")
"""The end of the GUID of a format; its first two bytes are the code of the format."""
_UNKNOWN_LENGTHS: Final = (0, 0xFFFFFFFF)
"""Lengths that a recorder writes if it cannot go back to the header."""
_WIDTHS: Final = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}
"""Bytes of a sample that are supported, by the code of the format."""
_LONG: Final = (b"RF64", b"BW64")
"""Forms with lengths of 64 bits in a chunk ``ds64``."""
_IN_DS64: Final = 0xFFFFFFFF
"""The length of a chunk whose real length stands in ``ds64``."""
_MAX_TABLE: Final = 64
"""Lengths in ``ds64`` beside those of the file and the samples."""
_WRAP: Final = 2**32
_KNOWN_CHUNKS: Final = frozenset(
    (
        b"fmt ", b"data", b"fact", b"LIST", b"bext", b"cue ", b"iXML", b"axml", b"chna", b"id3 ", b"smpl", b"inst",
        b"PEAK", b"JUNK",
    )
)  # fmt: skip


class _Found(NamedTuple):
    """What the chunks of a file say."""

    form: bytes
    """The content of ``fmt``."""
    data_at: int
    data_bytes: int
    unread_bytes: int
    """Bytes after the samples that may be samples too: of another chunk ``data``, or of no chunk."""


@dataclass(frozen=True, slots=True)
class WavTable:
    """A WAV file; implements :class:`~wheeltapper_protocols.tables.table.Table`.

    PCM of 8, 16, 24 or 32 bits gives numbers from -1 to 1; float of 32 or 64 bits is given as it is.
    """

    path: Path
    sample_rate_hz: float
    channels: tuple[str, ...]
    width_bytes: int
    bits: int
    floating: bool
    data_at: int
    data_bytes: int
    unread_bytes: int = 0
    time_unit: str = ""

    @classmethod
    def open(cls, path: Path) -> WavTable:
        """Read the header of ``path``."""
        try:
            with path.open("rb") as handle:
                found = _find_data(path, handle)
        except OSError as error:
            raise unreadable(path, error) from error
        form = found.form
        code, count, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", form)
        if code == _EXTENSIBLE:
            if len(form) < 40 or form[26:40] != _SUBFORMAT:
                raise malformed(path.name, "its format is neither PCM nor float")
            code, valid_bits = int.from_bytes(form[24:26], "little"), int.from_bytes(form[18:20], "little")
        else:
            valid_bits = bits
        width = (bits + 7) // 8
        if not 1 <= count <= MAX_CHANNELS or width not in _WIDTHS.get(code, ()) or rate_hz < 1:
            what = f"{count} channels of {bits} bits at {rate_hz} Hz in format {code}"
            raise malformed(path.name, f"{what} are not supported: PCM of up to 32 bits and float are")
        if frame_bytes != width * count:
            why = f"its frames have {frame_bytes} bytes, which do not fit {count} channels of {bits} bits"
            raise malformed(path.name, why)
        if found.data_bytes < frame_bytes:
            raise malformed(path.name, "it holds no samples")
        names = tuple(f"channel_{index}" for index in range(count))
        bits = valid_bits if 1 < valid_bits <= bits else bits
        place = (found.data_at, found.data_bytes, found.unread_bytes)
        return cls(path, float(rate_hz), names, width, bits, code == _FLOAT, *place)

    @property
    def full_scale(self) -> float:
        """The largest positive number of PCM; the negative side goes one step further. 0: float has none."""
        return 0.0 if self.floating else 1.0 - 2.0 ** (1 - self.bits)

    @property
    def frames(self) -> int:
        """Samples of each channel that the header promises."""
        return self.data_bytes // (self.width_bytes * len(self.channels))

    def chunks(self, notes: Notes) -> Iterator[Chunk]:
        """See :class:`~wheeltapper_protocols.tables.table.Table`."""
        frame_bytes, left_bytes, given = self.width_bytes * len(self.channels), self.data_bytes, 0
        try:
            with self.path.open("rb") as handle:
                handle.seek(self.data_at)
                while content := handle.read(min(left_bytes, CHUNK_SAMPLES * frame_bytes)):
                    left_bytes -= len(content)
                    whole = content[: len(content) - len(content) % frame_bytes]
                    if whole:
                        given += len(whole) // frame_bytes
                        yield self._numbers(whole).reshape(-1, len(self.channels)), None
        except OSError as error:
            raise unreadable(self.path, error) from error
        if missing := self.frames - given:
            text = f"the file is truncated: {missing} of {self.frames} samples are missing"
            notes.add("truncated", text, missing)
        if unread := self.unread_bytes // frame_bytes:
            text = f"the header counts {self.frames} samples, and about {unread} more follow, which are not read"
            notes.add("unread", text, unread)

    def _numbers(self, content: bytes) -> NDArray[np.float64]:
        """Return the numbers in ``content``. PCM of 8 bits is unsigned; wider PCM is signed and little-endian."""
        width = self.width_bytes
        if self.floating:
            return np.frombuffer(content, f"<f{width}").astype(np.float64)
        if width == 1:
            return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
        if width == 3:
            wide = np.zeros((len(content) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
            return wide.reshape(-1).view("<i4") / 2.0**31
        return np.frombuffer(content, f"<i{width}") / 2.0 ** (8 * width - 1)


def _find_data(path: Path, handle: BinaryIO) -> _Found:
    """Find the format and the samples.

    Raises:
        RecordingError: ``recording.malformed``.
    """
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(12)
    if head[:4] not in (b"RIFF", *_LONG) or head[8:] != b"WAVE":
        raise malformed(path.name, "it is not a WAV file")
    promised = int.from_bytes(head[4:8], "little") + 8
    lengths: dict[bytes, int] = {}
    form = b""
    for _ in range(_MAX_CHUNKS):
        name = handle.read(8)
        if len(name) < 8:
            break
        length, begins, name = int.from_bytes(name[4:], "little"), handle.tell(), name[:4]
        if name == b"ds64":
            lengths = _long_lengths(handle.read(min(length, 28 + 12 * _MAX_TABLE)))
            promised = lengths.get(b"RIFF", 0) + 8
        elif length == _IN_DS64 and lengths.get(name):
            length = lengths[name]
        if name == b"data":
            if len(form) < 16:
                break
            data_bytes = _data_bytes(length, size - begins, promised, size)
            return _Found(form, begins, data_bytes, _unread_bytes(handle, begins + data_bytes, size))
        if name == b"fmt ":
            form = handle.read(min(length, 64))
        handle.seek(_next_chunk(handle, begins + length) if length % 2 else begins + length)
    raise malformed(path.name, "it is not a WAV file: its format or its samples are missing")


def _long_lengths(content: bytes) -> dict[bytes, int]:
    """The lengths in ``ds64``: of the file (``RIFF``), the samples (``data``) and other chunks."""
    if len(content) < 28:
        return {}
    riff_bytes, data_bytes, _, entries = struct.unpack_from("<QQQI", content)
    found = {b"RIFF": riff_bytes, b"data": data_bytes}
    for at in range(28, min(len(content) - 11, 28 + 12 * min(entries, _MAX_TABLE)), 12):
        found.setdefault(content[at : at + 4], int.from_bytes(content[at + 4 : at + 12], "little"))
    return found


def _data_bytes(length: int, left: int, promised: int, size: int) -> int:
    """How many bytes the samples have.

    Args:
        length: as the header says.
        left: from the first sample to the end of the file.
        promised: length of the file, as its header says.
        size: of the file.
    """
    if length in _UNKNOWN_LENGTHS and promised != size:
        return left
    if left - length >= _WRAP and promised % _WRAP == size % _WRAP:  # both lengths ran over
        return length + (left - length) // _WRAP * _WRAP
    return length


def _unread_bytes(handle: BinaryIO, end: int, size: int) -> int:
    """How many bytes after the samples, which end at ``end``, may be samples too."""
    unread, at = 0, end
    for _ in range(_MAX_CHUNKS):
        if at + 8 > size:
            break
        at = min(at if at % 2 == 0 else _next_chunk(handle, at), size)
        handle.seek(at)
        head = handle.read(8)
        length = int.from_bytes(head[4:], "little")
        if len(head) < 8:
            break
        if not all(32 <= byte < 127 for byte in head[:4]):
            return unread + size - at
        unread += min(length, size - at - 8) if head[:4] == b"data" else 0
        at += 8 + length
    return unread


def _next_chunk(handle: BinaryIO, end: int) -> int:
    """Where the chunk after one of odd length begins: after a byte of padding, which some recorders leave out."""
    handle.seek(end)
    following = handle.read(5)
    padded, unpadded = following[1:], following[:4]
    if padded in _KNOWN_CHUNKS or unpadded not in _KNOWN_CHUNKS:
        return end + 1
    return end
