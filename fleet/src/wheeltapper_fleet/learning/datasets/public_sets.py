"""Readers: each turns one file of a public data set into a recording.

* FEMTO-ST PRONOSTIA: milli-g counts of two accelerometers, 0.1 s at 25.6 kHz every 10 s.
* CWRU bearing data: one accelerometer; recordings named ``12k_*`` are at 12 kHz, ``48k_*`` and ``normal*`` at 48 kHz.
* UCI fan: three axes of a MEMS accelerometer at 50 Hz.

Invariant: samples are neither resampled nor filled in, and keep the source's units.

Every importer raises TrainingError: ``import.malformed`` for a file that does not belong to its data set,
``import.unknown`` for a recording that the file does not hold.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.learning.errors import TrainingError
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["IMPORTERS", "import_cwru", "import_femto", "import_uci_fan", "names_of_cwru"]

_FEMTO_RATE_HZ: Final = 25_600.0
_FEMTO_STEP_S: Final = 10.0
_FAN_RATE_HZ: Final = 50.0
_MAX_BYTES: Final = 4 * 1024**3
"""Of the arrays of a file together."""


@contextlib.contextmanager
def _load(path: Path) -> Iterator[Any]:
    """Open an ``.npz`` archive; what its arrays are not fit for is refused as malformed."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise TrainingError("import.malformed", f"{path.name} is one array, not an .npz file")
            sizes = [entry.file_size for entry in archive.zip.infolist()] if archive.zip is not None else []
            if sum(sizes) > _MAX_BYTES:
                raise TrainingError("import.malformed", f"{path.name} unpacks to more than {_MAX_BYTES} bytes")
            yield archive
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, TypeError, IndexError, AttributeError) as error:
        raise TrainingError("import.malformed", f"{path.name} is not a file of this data set: {error}") from error


def _array(archive: Any, name: str, what: str) -> npt.NDArray[Any]:
    """Read one array of an archive; ``what`` names the archive in error messages."""
    try:
        return np.asarray(archive[name])
    except KeyError as error:
        raise TrainingError("import.unknown", f"{what} holds no {name}") from error
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise TrainingError("import.malformed", f"{name} of {what} cannot be read: {error}") from error


def import_femto(path: Path) -> Recording:
    """Import one FEMTO run to failure.

    Args:
        path: an ``.npz`` with ``acc_milli_g``, integers [snapshot, 2560, 2] in thousandths of g.
    """
    with _load(path) as archive:
        counts = _array(archive, "acc_milli_g", path.name)
    if counts.ndim != 3 or counts.dtype.kind not in "iu":
        raise TrainingError("import.malformed", f"{path.name}: acc_milli_g must be whole numbers [snapshot, sample, 2]")
    # Counts beyond int16 (32.8 g) are exact in float32 up to 2**24.
    small = counts.size == 0 or (counts.min() >= -(2**15) and counts.max() < 2**15)
    samples = counts.astype(np.int16 if small else np.float32)
    return Recording(
        samples=samples,
        scale=np.full(counts.shape[2], 1e-3),
        sample_rate_hz=_FEMTO_RATE_HZ,
        t_s=np.arange(len(counts), dtype=np.float64) * np.float64(_FEMTO_STEP_S),
        channels=("horizontal", "vertical"),
        units=("g", "g"),
        meta={"source": "femto", "machine": path.stem},
    )


def import_cwru(folder: Path, name: str, window_samples: int = 4096) -> Recording:
    """Import one CWRU recording, cut into adjacent windows.

    Args:
        folder: holds ``cwru_de_int16.npz``.
        name: a recording in that file, e.g. ``normal_0_97``.
        window_samples: samples in a window; an incomplete last window is left out.
    """
    with _load(folder / "cwru_de_int16.npz") as archive:
        counts = _array(archive, name, "the CWRU set")
        lsb = float(_array(archive, f"{name}__lsb", "the CWRU set"))
        rpm = int(_array(archive, f"{name}__rpm", "the CWRU set").reshape(-1)[0])
        windows = len(counts) // window_samples
        samples = counts[: windows * window_samples].reshape(windows, window_samples, 1)
    rate_hz = 12_000.0 if name.startswith("12k") else 48_000.0
    return Recording(
        samples=samples,
        scale=np.array([lsb]),
        sample_rate_hz=rate_hz,
        t_s=np.arange(windows, dtype=np.float64) * np.float64(window_samples / rate_hz),
        channels=("drive-end",),
        units=("g",),
        meta={"source": "cwru", "machine": name, "rpm": rpm},
    )


def names_of_cwru(folder: Path) -> list[str]:
    """The names of the recordings in the file of :func:`import_cwru`, in order."""
    with _load(folder / "cwru_de_int16.npz") as archive:
        return sorted(name for name in archive.files if "__" not in name)


def import_uci_fan(path: Path, configuration: int, speed_percent: int, window_samples: int = 100) -> Recording:
    """Import one block (60 s) of the fan, cut into adjacent windows.

    Args:
        path: an ``.npz`` with ``xyz_milli_g`` [sample, 3], ``config`` [sample] and ``speed_pct`` [sample].
        configuration: 1 to 3.
        speed_percent: 20 to 100, in steps of 5.
        window_samples: samples in a window; an incomplete last window is left out.
    """
    with _load(path) as archive:
        counts, config, speed = (_array(archive, key, path.name) for key in ("xyz_milli_g", "config", "speed_pct"))
        block = counts[(config == configuration) & (speed == speed_percent)]
        windows = len(block) // window_samples
        samples = block[: windows * window_samples].reshape(windows, window_samples, 3).astype(np.int16)
    if windows == 0:
        raise TrainingError("import.unknown", f"no block of configuration {configuration} at {speed_percent} %")
    return Recording(
        samples=samples,
        scale=np.full(3, 1e-3),
        sample_rate_hz=_FAN_RATE_HZ,
        t_s=np.arange(windows, dtype=np.float64) * np.float64(window_samples / _FAN_RATE_HZ),
        channels=("x", "y", "z"),
        units=("g", "g", "g"),
        meta={"source": "uci-fan", "machine": f"fan-{configuration}", "speed_percent": speed_percent},
    )


IMPORTERS: Final = {"femto": import_femto}
"""The importers that ``--import`` and ``wheeltapper train import`` offer, by name."""
