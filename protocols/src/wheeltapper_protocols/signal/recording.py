"""Recordings: the one form of raw sensor data (captures, replay, data sets), an ``.npz`` file.

Arrays of the file: ``samples`` [snapshot, sample, channel] int16 or float32, ``scale`` [channel] float64 (physical =
samples * scale), ``sample_rate_hz`` [] float64, ``t_s`` [snapshot] float64 start times, ``channels`` and ``units``
[channel] text, ``meta`` [] text (a JSON object: machine, operating condition, labels).

Invariants:
    * A :class:`Recording` is valid: the same checks apply when it is built, read and written.
    * Whatever the bytes, :func:`read_recording` returns a recording or raises :class:`RecordingError` (or an OSError of
      the file system). Nothing is unpickled, and the sizes in the archive's directory are checked before anything is
      decompressed.
    * Equal recordings are written as equal bytes on every machine (``npz.py`` says how), so that equal content has an
      equal hash. Files that are deflated, as older versions and numpy's ``savez_compressed`` write them, are read too.

Codes: ``recording.empty``, ``recording.nan``, ``recording.dtype``, ``recording.shape``, ``recording.rate``,
``recording.times``, ``recording.malformed``, ``recording.too_large``.

Example:
    >>> samples = np.zeros((1, 4096, 1), dtype=np.float32)
    >>> made = Recording(samples, np.ones(1), 12_800.0, np.zeros(1), ("x",), ("g",), {"machine": "press-1"})
    >>> buffer = io.BytesIO()
    >>> write_recording(made, buffer)
    >>> read_recording(buffer).meta
    {'machine': 'press-1'}

What this module does not do: cut long signals into snapshots, resample.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.npz import write_npz

__all__ = ["MAX_RECORDING_BYTES", "Recording", "read_recording", "recording_bytes", "write_npz", "write_recording"]

MAX_RECORDING_BYTES: Final = 2 * 1024**3
"""Greatest size of the uncompressed arrays together."""
_MEMBERS: Final = ("samples", "scale", "sample_rate_hz", "t_s", "channels", "units", "meta")
_MAX_META_BYTES: Final = 1024 * 1024
_MAX_CHANNELS: Final = 64
_PER_CHANNEL: Final = ("scale", "channels", "units")


@dataclass(frozen=True, eq=False)
class Recording:
    """Raw sensor data of one machine.

    Args:
        samples: [snapshot, sample, channel], int16 or float32.
        scale: [channel] float64; physical value = sample * scale.
        sample_rate_hz: sample rate within a snapshot, in Hz.
        t_s: [snapshot] float64, start of each snapshot in seconds, rising.
        channels: [channel], the names.
        units: [channel], the units of the physical values.
        meta: a JSON object.

    Raises:
        RecordingError: an array or text does not keep the rules; see the module for the codes.
    """

    samples: npt.NDArray[Any]
    scale: npt.NDArray[np.float64]
    sample_rate_hz: float
    t_s: npt.NDArray[np.float64]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_samples(self.samples)
        _check_rate(self.sample_rate_hz)
        _check_times(self.t_s, self.samples.shape[0])
        _check_channels(self)

    @property
    def snapshots(self) -> int:
        """The number of snapshots."""
        return int(self.samples.shape[0])

    @property
    def window_samples(self) -> int:
        """The number of samples in a snapshot."""
        return int(self.samples.shape[1])

    def physical(self, i: slice) -> npt.NDArray[np.float32]:
        """The snapshots ``i`` in physical units, [snapshot, sample, channel] float32."""
        return np.asarray(self.samples[i] * self.scale.astype(np.float32), dtype=np.float32)

    def part(self, i: slice) -> Recording:
        """A recording of the snapshots ``i`` only.

        Raises:
            RecordingError: ``recording.empty``.
        """
        return Recording(
            self.samples[i], self.scale, self.sample_rate_hz, self.t_s[i], self.channels, self.units, dict(self.meta)
        )


def read_recording(source: Path | BinaryIO) -> Recording:
    """Read a recording from a path or an open binary file.

    Raises:
        RecordingError: the content is not a valid recording; see the module for the codes.
        OSError: the file cannot be opened.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            arrays = {name: _read_member(archive, name) for name in _present(archive)}
    except RecordingError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds of errors on arbitrary bytes
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: the archive names an offset below 0
            raise
        raise RecordingError("recording.malformed", f"this is not a readable .npz recording: {error}") from error
    return _from_arrays(arrays)


def write_recording(recording: Recording, target: Path | BinaryIO) -> None:
    """Write a recording to a path or an open binary file. A file at the path is replaced atomically.

    Raises:
        RecordingError: the recording is too large, or its arrays were changed after it was built and are not valid.
    """
    recording.__post_init__()
    arrays = _to_arrays(recording)
    total = sum(array.nbytes for array in arrays.values())
    if total > MAX_RECORDING_BYTES:
        raise RecordingError("recording.too_large", f"{total} bytes; the cap is {MAX_RECORDING_BYTES}: split it")
    if not isinstance(target, Path):
        write_npz(arrays, target)
        return
    with _replacing(target) as handle:
        write_npz(arrays, handle)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A temporary file that replaces ``target`` when the block ends: fsync, rename, fsync of the folder."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _present(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in the archive, whose uncompressed sizes are within the caps."""
    infos = {info.filename: info for info in archive.infolist()}
    present = [name for name in _MEMBERS if f"{name}.npy" in infos]
    total = sum(infos[f"{name}.npy"].file_size for name in present)
    if total > MAX_RECORDING_BYTES:
        raise RecordingError("recording.too_large", f"{total} bytes uncompressed; the cap is {MAX_RECORDING_BYTES}")
    for name in present:
        if infos[f"{name}.npy"].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RecordingError(
                "recording.malformed", f"{name} has an unknown compression: write it stored or with deflate"
            )
    for name in ("channels", "units", "meta"):
        if name in present and infos[f"{name}.npy"].file_size > 4 * _MAX_META_BYTES:
            raise RecordingError("recording.too_large", f"{name} is larger than {_MAX_META_BYTES} characters")
    return present


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    promised = archive.getinfo(f"{name}.npy").file_size
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
        else:
            raise ValueError(f"{name} is of an unknown .npy version {version}")
        if dtype.hasobject:
            raise RecordingError("recording.malformed", f"{name} holds pickled objects, which are never read")
        if name in _PER_CHANNEL and math.prod(shape) > _MAX_CHANNELS:
            raise RecordingError("recording.shape", f"{name} has {shape} entries; at most {_MAX_CHANNELS} are allowed")
        if math.prod(shape) * max(1, dtype.itemsize) > promised:
            raise ValueError(f"the header of {name} promises more data than there is")
    with archive.open(f"{name}.npy") as member:
        array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        return array


def _from_arrays(arrays: dict[str, npt.NDArray[Any]]) -> Recording:
    if "sample_rate_hz" not in arrays:
        raise RecordingError("recording.rate", "sample_rate_hz is missing: add the sample rate in Hz")
    missing = [name for name in _MEMBERS if name not in arrays and name != "meta"]
    if missing:
        raise RecordingError("recording.malformed", f"the recording lacks {', '.join(missing)}")
    if arrays["t_s"].size != len(np.atleast_1d(arrays["samples"])):  # before it is made float64
        raise RecordingError(
            "recording.times", f"t_s must have one time a snapshot, not the shape {arrays['t_s'].shape}"
        )
    rate = arrays["sample_rate_hz"]
    if rate.size != 1 or rate.dtype.kind not in "iuf":
        raise RecordingError("recording.rate", "sample_rate_hz must be one number")
    for name in ("scale", "t_s"):
        if arrays[name].dtype.kind not in "iuf":
            raise RecordingError("recording.dtype", f"{name} must be float64, not {arrays[name].dtype}")
    return Recording(
        samples=arrays["samples"],
        scale=arrays["scale"].astype(np.float64),
        sample_rate_hz=float(rate.reshape(())),
        t_s=arrays["t_s"].astype(np.float64),
        channels=_texts(arrays["channels"], "channels"),
        units=_texts(arrays["units"], "units"),
        meta=_meta(arrays.get("meta")),
    )


def _texts(array: npt.NDArray[Any], what: str) -> tuple[str, ...]:
    if array.dtype.kind != "U" or array.ndim != 1:
        raise RecordingError("recording.dtype", f"{what} must be a list of texts")
    return tuple(str(text) for text in array)


def _meta(array: npt.NDArray[Any] | None) -> dict[str, Any]:
    if array is None:
        return {}
    if array.dtype.kind != "U" or array.size != 1:
        raise RecordingError("recording.dtype", "meta must be one text that holds a JSON object")
    try:
        meta = json.loads(str(array.reshape(())))
    except (ValueError, RecursionError) as error:
        raise RecordingError("recording.malformed", f"meta is not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise RecordingError("recording.malformed", "meta must be a JSON object")
    return meta


def _to_arrays(recording: Recording) -> dict[str, npt.NDArray[Any]]:
    try:
        meta = json.dumps(recording.meta, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RecordingError("recording.malformed", f"meta cannot be written as JSON: {error}") from error
    if len(meta) > _MAX_META_BYTES:
        raise RecordingError("recording.too_large", f"meta has {len(meta)} characters; the cap is {_MAX_META_BYTES}")
    return {
        "samples": np.ascontiguousarray(recording.samples),
        "scale": np.asarray(recording.scale, dtype=np.float64),
        "sample_rate_hz": np.array(recording.sample_rate_hz, dtype=np.float64),
        "t_s": np.asarray(recording.t_s, dtype=np.float64),
        "channels": np.array(recording.channels, dtype=np.str_),
        "units": np.array(recording.units, dtype=np.str_),
        "meta": np.array(meta, dtype=np.str_),
    }


def _check_samples(samples: npt.NDArray[Any]) -> None:
    if not isinstance(samples, np.ndarray) or samples.dtype not in (np.dtype(np.int16), np.dtype(np.float32)):
        raise RecordingError(
            "recording.dtype", f"samples must be int16 or float32, not {getattr(samples, 'dtype', '')}"
        )
    if samples.ndim != 3:
        raise RecordingError("recording.shape", f"samples must be [snapshot, sample, channel], not {samples.shape}")
    if samples.size == 0:
        raise RecordingError("recording.empty", "the recording holds no samples")
    if samples.shape[2] > _MAX_CHANNELS:
        raise RecordingError("recording.shape", f"{samples.shape[2]} channels; at most {_MAX_CHANNELS} are allowed")
    if samples.dtype == np.float32:
        block = max(1, 2**20 // (samples.shape[1] * samples.shape[2]))
        for start in range(0, len(samples), block):
            if not np.isfinite(samples[start : start + block]).all():
                raise RecordingError("recording.nan", f"samples are not finite at or after snapshot {start}")


def _check_rate(rate_hz: float) -> None:
    if not isinstance(rate_hz, int | float) or not math.isfinite(rate_hz) or rate_hz <= 0:
        raise RecordingError("recording.rate", f"sample_rate_hz must be a number above 0, not {rate_hz!r}")


def _check_times(t_s: npt.NDArray[Any], snapshots: int) -> None:
    if not isinstance(t_s, np.ndarray) or t_s.dtype != np.float64:
        raise RecordingError("recording.dtype", f"t_s must be float64, not {getattr(t_s, 'dtype', type(t_s).__name__)}")
    if t_s.shape != (snapshots,):
        raise RecordingError("recording.times", f"t_s must have one time a snapshot: {snapshots}, not {t_s.shape}")
    if not np.isfinite(t_s).all() or (np.diff(t_s) <= 0).any():
        raise RecordingError("recording.times", "t_s must be finite and rise from snapshot to snapshot")


def _check_channels(recording: Recording) -> None:
    count = recording.samples.shape[2]
    scale = recording.scale
    if not isinstance(scale, np.ndarray) or scale.dtype != np.float64:
        raise RecordingError("recording.dtype", "scale must be a float64 array")
    if scale.shape != (count,) or len(recording.channels) != count or len(recording.units) != count:
        raise RecordingError("recording.shape", f"scale, channels and units must have one entry a channel: {count}")
    if not np.isfinite(scale).all():
        raise RecordingError("recording.nan", "scale must be finite")
    if (scale == 0).any():
        raise RecordingError("recording.shape", "scale must not be 0: use 1 for samples in physical units")
    if any(len(text) > 64 for text in recording.channels) or any(len(text) > 32 for text in recording.units):
        raise RecordingError("recording.shape", "names of channels have at most 64 characters, units at most 32")


def recording_bytes(recording: Recording) -> bytes:
    """The bytes that :func:`write_recording` writes."""
    buffer = io.BytesIO()
    write_recording(recording, buffer)
    return buffer.getvalue()
