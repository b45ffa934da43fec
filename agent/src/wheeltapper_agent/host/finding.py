"""What a check of ``doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AS_ROOT", "FAIL", "OK", "WARN", "Finding"]

OK: Final = "ok"
WARN: Final = "warn"
"""It works, but not as it should."""
FAIL: Final = "FAIL"
"""It does not work."""
AS_ROOT: Final = "run doctor as root or as the service's user: `sudo wheeltapper-agent doctor --config …`"
"""Advice where a check lacks permission."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    """Name of the check, e.g. ``network.broker``; docs/agent/installing.md lists them."""
    verdict: str
    """:data:`OK`, :data:`WARN` or :data:`FAIL`."""
    found: str
    advice: str = ""
    """Empty where nothing needs to be done."""
