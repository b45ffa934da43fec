"""Fixtures that all tests share."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import typer.testing

from tests import legacy

legacy.install()

LONGEST_FIRST = ("tests/sim/", "tests/e2e/", "tests/fleet/cli/", "tests/agent/update/")
"""Where the longest tests are. They begin first, so that no worker is left with one when the others have nothing."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests: folders of :data:`LONGEST_FIRST` in that order, then the others as they were found."""
    last = len(LONGEST_FIRST)
    items.sort(key=lambda item: next((n for n, part in enumerate(LONGEST_FIRST) if part in str(item.path)), last))


def short_parent() -> str:
    """A folder for temporary files with a short path, in which this user may write."""
    return next((each for each in ("/tmp", "/var/tmp") if os.access(each, os.W_OK | os.X_OK)), tempfile.gettempdir())


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Iterator[None]:
    """Typer builds all commands of a program whenever it is called; they hold nothing of a call, so once will do."""
    build = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", build)
        patch.setattr(typer.testing, "_get_command", build)
        yield


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is short, whatever TMPDIR is: the address of a socket has at most 107 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="wt-", dir=short_parent()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the data sets: ``WHEELTAPPER_DATA``, or ``shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WHEELTAPPER_DATA", default))
    if not folder.is_dir():
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip  # CI must not pass by what it did not run
        refuse(f"no data folder at {folder}: set WHEELTAPPER_DATA")
    return folder
