"""Fetches the bundle of a run or of a release, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["fetch_bundle"]


def fetch_bundle(get: Callable[[str], bytes], sha256: str | None, out: Path, what: str, kind: str) -> None:
    """Fetch a bundle into the folder ``out``, which is made and must not be there. Every byte is checked.

    Args:
        get: gives a file by its name.
        sha256: of its manifest.
        out: the folder.
        what: whose bundle it is, for people.
        kind: ``run`` or ``release``: how error codes begin.

    Raises:
        FleetError: ``KIND.out_exists``; ``KIND.damaged``: a file is not what it should be.
    """
    from wheeltapper_protocols.errors import ProtocolError
    from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, check_file, decode_manifest

    if out.exists():
        raise FleetError(f"{kind}.out_exists", f"{out} is there already; choose another folder")
    manifest = get(MANIFEST_FILE)
    if hashlib.sha256(manifest).hexdigest() != sha256:
        raise FleetError(f"{kind}.damaged", f"the manifest of {what} is not what it should be; do not use it")
    contents = {MANIFEST_FILE: manifest}
    for file in decode_manifest(manifest).files:
        contents[file.name] = get(file.name)
        try:
            check_file(file, contents[file.name])
        except ProtocolError as error:
            raise FleetError(f"{kind}.damaged", f"{what}: {error.message}; do not use it") from error
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    for name, content in contents.items():
        (temporary / name).write_bytes(content)
    temporary.rename(out)
