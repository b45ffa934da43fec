"""Pictures of the page for the documentation, taken by the tests that walk it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tests.browser import Page

__all__ = ["keep_picture"]

FOLDER: Final = Path(__file__).resolve().parents[3] / "docs" / "images"
MAX_BYTES: Final = 150_000


def keep_picture(page: Page, name: str, height: int = 720) -> None:
    """Write ``docs/images/<name>.png`` of the open page, 1,100 wide, where ``WHEELTAPPER_UPDATE_IMAGES`` is 1."""
    if os.environ.get("WHEELTAPPER_UPDATE_IMAGES") != "1":
        return
    page.emulate(1100, height)
    page.png(FOLDER / f"{name}.png")
    assert (FOLDER / f"{name}.png").stat().st_size <= MAX_BYTES
