"""Bundles on disk: a folder with ``manifest.json`` and the files that it names.

Invariants: a bundle appears whole or not at all (written beside, synced, renamed); nothing that is not a bundle is
replaced.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    BundleFile,
    decode_manifest,
    encode_manifest,
)
from wheeltapper_protocols.signal.recording import write_npz

__all__ = ["break_golden", "bundle_file", "npz_bytes", "write_bundle"]


def bundle_file(name: str, content: bytes) -> BundleFile:
    """The manifest's entry of a file."""
    return BundleFile(name=name, sha256=hashlib.sha256(content).hexdigest(), length=len(content))


def npz_bytes(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as the bytes of an ``.npz``."""
    buffer = io.BytesIO()
    write_npz(arrays, buffer)
    return buffer.getvalue()


def check_target(out: Path) -> None:
    """Check that a bundle may be written at ``out``.

    Raises:
        TrainingError: ``training.out_exists``.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_FILE).exists())):
        raise TrainingError("training.out_exists", f"{out} exists and is not a bundle: name another folder")


def write_bundle(out: Path, files: dict[str, bytes]) -> None:
    """Write the files (with the manifest) as the bundle ``out``, in place of an older one.

    Raises:
        TrainingError: ``training.out_exists``.
    """
    check_target(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, content in files.items():
            with (fresh / name).open("xb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        fresh.chmod(0o755)
        _sync(fresh)
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def break_golden(bundle: Path) -> None:
    """Make a bundle well-formed but wrong: its golden outputs are no longer what its model gives.

    Hashes and lengths in the manifest fit the new file, so only a device's self-test can tell. For tests and
    demonstrations.
    """
    manifest = decode_manifest((bundle / MANIFEST_FILE).read_bytes())
    with np.load(bundle / GOLDEN_FILE, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in archive.files}
    shift = 100 * manifest.golden.output_atol + 1
    arrays["model_output"] = np.asarray(arrays["model_output"] + shift, dtype=np.float32)
    arrays["score"] = arrays["score"] * 2 + 1
    golden = npz_bytes(arrays)
    entries = [bundle_file(GOLDEN_FILE, golden) if file.name == GOLDEN_FILE else file for file in manifest.files]
    files = {file.name: (bundle / file.name).read_bytes() for file in manifest.files}
    files[GOLDEN_FILE] = golden
    files[MANIFEST_FILE] = encode_manifest(msgspec.structs.replace(manifest, files=entries))
    write_bundle(bundle, files)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
