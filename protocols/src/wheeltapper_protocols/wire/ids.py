"""Names that cross the wire: of devices, pipelines and models, and the TUF target paths made of them.

Invariant: a name consists of ``a-z``, ``0-9`` and ``-`` and does not start with ``-``. A name can therefore neither
leave its level of a topic nor its folder.
"""

from __future__ import annotations

import re
from typing import Final

from wheeltapper_protocols.errors import WireError

__all__ = ["NAME_PATTERN", "SHA256_PATTERN", "device_id", "manifest_path", "name", "parse_manifest_path"]

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}\Z"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}\Z"
"""Both patterns end in ``\\Z``: in Python's :mod:`re`, ``$`` also matches before a newline at the end."""
_NAME: Final = re.compile(NAME_PATTERN)
_MANIFEST_PATH: Final = re.compile(r"^releases/([a-z0-9][a-z0-9-]{0,62})/([1-9][0-9]{0,8})/manifest\.json\Z")


def name(text: str, what: str = "name") -> str:
    """Return ``text`` if it is a valid name.

    Args:
        text: the name to check.
        what: what it names, for the error message.

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
    """The TUF target path of a release, e.g. ``releases/bearing-anomaly/3/manifest.json``.

    Raises:
        WireError: ``id.invalid``, for the model's name or the release number.
    """
    path = f"releases/{name(model, 'model name')}/{release}/manifest.json"
    if not _MANIFEST_PATH.match(path):
        raise WireError("id.invalid", f"{release} is not a valid release number: use 1 to 999999999")
    return path


def parse_manifest_path(path: str) -> tuple[str, int]:
    """The model's name and the release number in a path that :func:`manifest_path` made.

    Raises:
        WireError: ``id.invalid``.
    """
    match = _MANIFEST_PATH.match(path)
    if match is None:
        raise WireError(
            "id.invalid",
            f"{path[:120]!r} is not the path of a release's manifest: need releases/<model>/<release>/manifest.json",
        )
    return match.group(1), int(match.group(2))
