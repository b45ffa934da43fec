"""A bundle on the disk is checked and becomes the manifest of a numbered release. Runs where the team signs it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.runnable import check_runnable
from wheeltapper_protocols.manifest.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    check_file,
    decode_manifest,
    encode_manifest,
)
from wheeltapper_protocols.wire.ids import manifest_path

__all__ = ["prepare_release"]


def prepare_release(bundle_dir: Path, number: int, rollback_floor: int | None = None) -> bytes:
    """Check a bundle's files, and return its manifest as the bytes to publish as release ``number``.

    Args:
        bundle_dir: the bundle's folder.
        number: the release's number.
        rollback_floor: devices that commit the release never run one below this number again; at most ``number``.

    Raises:
        FleetError: ``release.bundle``, ``release.floor``, ``bundle.invalid``.
        WireError: ``manifest.*``, ``id.invalid``, ``runtime.*``: no device could run it.
    """
    try:
        with (bundle_dir / MANIFEST_FILE).open("rb") as file:
            manifest = decode_manifest(file.read(MAX_MANIFEST_BYTES + 1))
        contents: dict[str, bytes] = {}
        models = {each.model_file for each in manifest.formats()}
        for named in manifest.files:
            content = (bundle_dir / named.name).read_bytes()
            check_file(named, content)
            if named.name in models:
                contents[named.name] = content
    except OSError as error:
        message = f"{bundle_dir} is not a whole bundle ({error.strerror}: {error.filename}); train it again"
        raise FleetError("release.bundle", message) from error
    check_runnable(manifest, contents.__getitem__)
    manifest_path(manifest.model, number)
    if rollback_floor is not None and not 1 <= rollback_floor <= number:
        raise FleetError("release.floor", f"the rollback floor must be 1 to {number}, the release itself")
    return encode_manifest(msgspec.structs.replace(manifest, release=number, rollback_floor=rollback_floor))
