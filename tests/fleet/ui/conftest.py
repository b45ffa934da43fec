"""One browser for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import Page, open_page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    """The browser of a file."""
    with open_page() as page:
        yield page


@pytest.fixture
def browser(chromium: Page) -> Iterator[Page]:
    """The tab of the file's browser, which listens to no server after the test."""
    chromium.problems.clear()
    yield chromium
    chromium.call("Page.navigate", url="about:blank")
    chromium.wait_for("location.href === 'about:blank'")
