"""How tests look at pages: a browser's requests with a role, and a page on a phone and on a desk."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from tests.browser import Page
from tests.fleet.api.harness import AdminServer
from tests.fleet.ui.axe import serious_findings
from wheeltapper_fleet.access.sessions import COOKIE

__all__ = ["asking", "cookie", "look"]

_WIDE = (
    "[...document.querySelectorAll('body *')].filter(each => each.getBoundingClientRect().right > {0} + 1"
    " && !each.parentElement.closest('.rows, .scroll')).slice(0, 5).map(each => each.outerHTML.slice(0, 160))"
)
"""What is wider than the window and does not scroll by itself."""


def asking(server: AdminServer, *roles: str, name: str = "somebody") -> httpx.Client:
    """A browser's requests, as the first admin or as ``name`` with ``roles``."""
    return httpx.Client(
        base_url=server.url, cookies={COOKIE: cookie(server, *roles, name=name)}, trust_env=False, timeout=30
    )


def cookie(server: AdminServer, *roles: str, name: str = "somebody") -> str:
    """The cookie of a session of the first admin, or of ``name`` with ``roles``."""
    token = server.token_of(*roles, name=name) if roles else server.token
    answer = httpx.post(server.url + "/sign-in", data={"token": token}, trust_env=False)
    return answer.cookies[COOKIE]


def look(page: Page, server: AdminServer, path: str, name: str) -> None:
    """Open a page on a phone in the dark and on a desk in the light: nothing overflows, nothing is logged.

    On the phone, where the most of it is folded and scrolls, axe-core finds nothing serious. Images are kept where
    ``WHEELTAPPER_TEST_IMAGES`` says so.
    """
    images = os.environ.get("WHEELTAPPER_TEST_IMAGES")
    page.emulate(390, 844, dark=True)
    page.open(server.url + path)
    assert page.evaluate("document.querySelector('main h1') !== null"), path
    for width, dark in ((390, True), (1440, False)):
        page.emulate(width, 900, dark=dark)
        wide = page.evaluate(_WIDE.format(width))
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} at {width}: {wide}"
        if dark:
            assert serious_findings(page) == [], path
        if images:
            page.png(Path(images) / f"{name}-{width}.png")
    assert page.problems == []
