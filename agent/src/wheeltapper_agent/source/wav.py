"""WAV files: uncompressed PCM and float, plain or as ``WAVE_FORMAT_EXTENSIBLE``, which most recorders write.

Invariants:
    * Memory is bounded whatever a header promises.
    * Nothing but ``AgentError`` with ``source.unreadable`` or ``source.malformed`` is raised.
    * A file whose recorder never wrote the length is read to its end.

Source: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft, 1991), chapter 3, and
``WAVEFORMATEXTENSIBLE`` in Microsoft's mmreg.h.

What this module does not do: read RF64 and other forms for more than 4 GB; read compressed formats.
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

from wheeltapper_agent.source.recording_files import CHUNK_SAMPLES, MAX_CHANNELS, Chunk, malformed, unreadable

__all__ = ["WavFile"]

_LOG = logging.getLogger(__name__)
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


@dataclass(frozen=True, slots=True)
class WavFile:
    """A WAV file. PCM of 8, 16, 24 or 32 bits gives numbers from -1 to 1; float of 32 or 64 bits is given as it is."""

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
        """Read the header of ``path``."""
        try:
            with path.open("rb") as handle:
                form, data_bytes = _find_data(path, handle)
                data_at = handle.tell()
        except OSError as error:
            raise unreadable(path, error) from error
        code, count, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", form)
        if code == _EXTENSIBLE:
            if len(form) < 40 or form[26:40] != _SUBFORMAT:
                raise malformed(path, "its format is neither PCM nor float")
            code, valid_bits = int.from_bytes(form[24:26], "little"), int.from_bytes(form[18:20], "little")
        else:
            valid_bits = bits
        width = (bits + 7) // 8
        if not 1 <= count <= MAX_CHANNELS or width not in _WIDTHS.get(code, ()) or rate_hz < 1:
            what = f"{count} channels of {bits} bits at {rate_hz} Hz in format {code}"
            raise malformed(path, f"{what} are not supported: PCM of up to 32 bits and float are")
        if frame_bytes != width * count:
            raise malformed(
                path, f"its frames have {frame_bytes} bytes, which do not fit {count} channels of {bits} bits"
            )
        if data_bytes < frame_bytes:
            raise malformed(path, "it holds no samples")
        names = tuple(f"channel_{index}" for index in range(count))
        bits = valid_bits if 1 < valid_bits <= bits else bits
        return cls(path, float(rate_hz), names, width, bits, code == _FLOAT, data_at, data_bytes)

    @property
    def full_scale(self) -> float:
        """The largest positive number of PCM; the negative side goes one step further. 0: float has none."""
        return 0.0 if self.floating else 1.0 - 2.0 ** (1 - self.bits)

    def chunks(self) -> Iterator[Chunk]:
        """See :class:`~wheeltapper_agent.source.recording_files.RecordingFile`."""
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
            _LOG.warning("the recording %s is truncated: %d bytes are missing", self.path.name, left_bytes)

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


def _find_data(path: Path, handle: BinaryIO) -> tuple[bytes, int]:
    """Return the content of the chunk ``fmt`` and the length of the samples; ``handle`` is then at the first sample."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise malformed(path, "it is not a WAV file")
    whole = int.from_bytes(head[4:8], "little") + 8 == size
    form = b""
    for _ in range(_MAX_CHUNKS):
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
