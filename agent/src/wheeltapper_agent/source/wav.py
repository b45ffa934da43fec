"""WAV files: uncompressed PCM and float, plain or as ``WAVE_FORMAT_EXTENSIBLE``, which most recorders write.

Invariants: memory is bounded whatever a header promises; nothing but ``AgentError`` with ``source.unreadable`` or
``source.malformed`` is raised. A file of which the recorder never wrote the length is read to its end.

The format: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft, 1991), chapter 3, and
``WAVEFORMATEXTENSIBLE`` in Microsoft's mmreg.h.

What this module does not do: RF64 and other forms for more than 4 GB; compressed formats.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.source.recorded import CHUNK_SAMPLES, MAX_CHANNELS, Chunk, malformed, unreadable

__all__ = ["WavFile"]

_LOG = logging.getLogger(__name__)
_MAX_PARTS: Final = 1000
_PCM: Final = 1
_FLOAT: Final = 3
_EXTENSIBLE: Final = 0xFFFE
_SUBFORMAT: Final = bytes.fromhex("000000001000800000aa00389b71")
"""What follows the code of a format in a GUID that stands for it."""
_UNKNOWN_LENGTHS: Final = (0, 0xFFFFFFFF)
"""What a recorder writes that cannot go back to the header."""
_WIDTHS: Final = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}


@dataclass(frozen=True, slots=True)
class WavFile:
    """PCM of 8, 16, 24 or 32 bits as numbers from -1 to 1; float of 32 or 64 bits as it is."""

    path: Path
    sample_rate_hz: float
    channels: tuple[str, ...]
    width_bytes: int
    bits: int
    floating: bool
    data_at: int
    data_bytes: int

    @classmethod
    def open(cls, path: Path) -> WavFile:
        """Read the header."""
        try:
            with path.open("rb") as handle:
                form, data_bytes = _find_data(path, handle)
                data_at = handle.tell()
        except OSError as error:
            raise unreadable(path, error) from error
        code, count, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", form)
        if code == _EXTENSIBLE:
            if len(form) < 40 or form[26:40] != _SUBFORMAT:
                raise malformed(path, "it is neither PCM nor float")
            code, valid_bits = int.from_bytes(form[24:26], "little"), int.from_bytes(form[18:20], "little")
        else:
            valid_bits = bits
        width = (bits + 7) // 8
        if not 1 <= count <= MAX_CHANNELS or width not in _WIDTHS.get(code, ()) or rate_hz < 1:
            what = f"{count} channels of {bits} bits at {rate_hz} Hz in format {code}"
            raise malformed(path, f"{what} are not supported: PCM of up to 32 bits and float are")
        if frame_bytes != width * count:
            raise malformed(path, f"{frame_bytes} bytes are no frame of {count} channels of {bits} bits")
        if data_bytes < frame_bytes:
            raise malformed(path, "it holds no samples")
        names = tuple(f"channel_{index}" for index in range(count))
        bits = valid_bits if 1 < valid_bits <= bits else bits
        return cls(path, float(rate_hz), names, width, bits, code == _FLOAT, data_at, data_bytes)

    @property
    def full_scale(self) -> float:
        """The largest positive number of PCM; the negative side goes one step further. 0: floats have none."""
        return 0.0 if self.floating else 1.0 - 2.0 ** (1 - self.bits)

    def chunks(self) -> Iterator[Chunk]:
        """See :class:`~wheeltapper_agent.source.recorded.RecordedFile`."""
        frame_bytes, left_bytes = self.width_bytes * len(self.channels), self.data_bytes
        try:
            with self.path.open("rb") as handle:
                handle.seek(self.data_at)
                while content := handle.read(min(left_bytes, CHUNK_SAMPLES * frame_bytes)):
                    left_bytes -= len(content)
                    whole = content[: len(content) - len(content) % frame_bytes]
                    if whole:
                        yield self._numbers(whole).reshape(-1, len(self.channels)), None
        except OSError as error:
            raise unreadable(self.path, error) from error
        if left_bytes:
            _LOG.warning("%s is truncated: %d bytes are missing", self.path.name, left_bytes)

    def _numbers(self, content: bytes) -> NDArray[np.float64]:
        """8 bits are unsigned, the rest are signed and little-endian."""
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


def _find_data(path: Path, handle: BinaryIO) -> tuple[bytes, int]:
    """The content of the part ``fmt``, and how long the samples are, at which ``handle`` then stands."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise malformed(path, "it is not a WAV file")
    whole = int.from_bytes(head[4:8], "little") + 8 == size
    form = b""
    for _ in range(_MAX_PARTS):
        head = handle.read(8)
        if len(head) < 8:
            break
        length, begins = int.from_bytes(head[4:], "little"), handle.tell()
        if head[:4] == b"data":
            if len(form) < 16:
                break
            streamed = length in _UNKNOWN_LENGTHS and not whole
            return form, size - begins if streamed else length
        if head[:4] == b"fmt ":
            form = handle.read(min(length, 64))
        handle.seek(begins + length + length % 2)
    raise malformed(path, "it is not a WAV file: its format or its samples are missing")
