"""Names that cross the wire: devices, pipelines, models, and the paths made of them.

Invariant: every name matches a fixed pattern without ``/``, ``+``, ``#``, ``.`` at the start or ``..``, so a name can
neither leave its topic level nor its folder.
"""

from __future__ import annotations

import re
from typing import Final

from wheeltapper_protocols.errors import WireError

__all__ = ["NAME_PATTERN", "SHA256_PATTERN", "device_id", "manifest_path", "name", "parse_manifest_path"]

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}\Z"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}\Z"
"""Both for :mod:`re`, which takes ``$`` for the place before a newline at the end too."""
_NAME: Final = re.compile(NAME_PATTERN)
_MANIFEST_PATH: Final = re.compile(r"^releases/([a-z0-9][a-z0-9-]{0,62})/([1-9][0-9]{0,8})/manifest\.json\Z")


def name(text: str, what: str = "name") -> str:
    """Return ``text`` if it is a valid name.

    Raises:
        WireError: ``id.invalid``.
    """
    if not _NAME.match(text):
        raise WireError(
            "id.invalid",
            f"{text[:80]!r} is not a valid {what}: use 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit",
        )
    return text


def device_id(text: str) -> str:
    """Return ``text`` if it is a valid device id (also the CN of the device's certificate).

    Raises:
        WireError: ``id.invalid``.
    """
    return name(text, "device id")


def manifest_path(model: str, release: int) -> str:
    """The TUF target path of a release, e.g. ``releases/bearing-anomaly/3/manifest.json``."""
    path = f"releases/{name(model, 'model name')}/{release}/manifest.json"
    if not _MANIFEST_PATH.match(path):
        raise WireError("id.invalid", f"{release} is not a valid release number: use 1 to 999999999")
    return path


def parse_manifest_path(path: str) -> tuple[str, int]:
    """The inverse of :func:`manifest_path`.

    Raises:
        WireError: ``id.invalid``.
    """
    match = _MANIFEST_PATH.match(path)
    if match is None:
        raise WireError("id.invalid", f"{path[:120]!r} is not the path of a release's manifest")
    return match.group(1), int(match.group(2))
