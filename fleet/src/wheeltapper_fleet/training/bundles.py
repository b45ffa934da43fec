"""Writes bundles: folders with ``manifest.json`` and the files that it names.

Invariants:
    * A bundle appears whole or not at all: it is written to a temporary folder beside its place, synced, and renamed.
    * A folder that is not a bundle is never replaced, and a bundle only on demand.
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

from wheeltapper_fleet.ground.files import sync_folder
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    BundleFile,
    decode_manifest,
    encode_manifest,
)
from wheeltapper_protocols.signal.npz import write_npz

__all__ = ["break_golden", "bundle_file", "check_target", "npz_bytes", "write_bundle"]


def bundle_file(name: str, content: bytes) -> BundleFile:
    """The manifest's entry for a file: name, SHA-256 and length."""
    return BundleFile(name=name, sha256=hashlib.sha256(content).hexdigest(), length=len(content))


def npz_bytes(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """Arrays, by name, as the bytes of an ``.npz`` file."""
    buffer = io.BytesIO()
    write_npz(arrays, buffer)
    return buffer.getvalue()


def check_target(out: Path, replace: bool) -> None:
    """Check that a bundle may be written to ``out``: the folder is absent, empty, or a bundle that may be replaced.

    Raises:
        TrainingError: ``training.out_exists``.
    """
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_FILE).exists()):
        raise TrainingError("training.out_exists", f"{out} exists and is not a bundle; choose another folder")
    if any(out.iterdir()) and not replace:
        raise TrainingError("training.out_exists", f"{out} is a bundle already; choose another folder, or give --force")


def write_bundle(out: Path, files: dict[str, bytes], replace: bool = False) -> None:
    """Write a bundle to ``out``.

    Args:
        out: the bundle's folder.
        files: the content of every file by name, ``manifest.json`` included.
        replace: whether an older bundle there may be replaced.

    Raises:
        TrainingError: ``training.out_exists``.
    """
    check_target(out, replace)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, content in files.items():
            with (temporary / name).open("xb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        sync_folder(temporary)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
        sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def break_golden(bundle: Path) -> None:
    """Change a bundle's golden outputs, so that its model no longer reproduces them.

    The bundle stays well-formed: the manifest has the new file's hash and length, so only a device's self-test notices.
    The demo and tests use this to show that a device refuses such a release.
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
    write_bundle(bundle, files, replace=True)
