"""What ``make setup`` installs stays small: what only tests and checks need comes with them."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MOST_MB = 460
"""With the 30 MB of the environment itself (pip, setuptools), this is below 500 MB."""


def _size(found: Distribution) -> int:
    """Bytes of the files of a distribution, without byte code, which setup does not write."""
    files = [file for file in found.files or () if not str(file).endswith(".pyc")]
    return sum(path.stat().st_size for file in files if (path := Path(str(found.locate_file(file)))).is_file())


def _needed(requirements: list[str]) -> dict[str, Distribution]:
    """What is installed for ``requirements`` and for what they require, by name."""
    found: dict[str, Distribution] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        one = waiting.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key in asked:
            continue
        asked.add(key)
        try:
            installed = found[key[0]] = distribution(one.name)
        except PackageNotFoundError:  # for another platform
            continue
        for text in installed.requires or ():
            next_one = Requirement(text)
            extras = [{"extra": extra} for extra in (*one.extras, "")]
            if next_one.marker is None or any(next_one.marker.evaluate(extra) for extra in extras):
                waiting.append(next_one)
    return found


def test_what_setup_installs_is_small() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\n$(STAMP):")[2].partition("\n\n")[0]
    wanted = re.findall(r"\./(protocols|agent|fleet)(\[[a-z,]+\])?", recipe)
    assert [name for name, _ in wanted] == ["protocols", "agent", "fleet"]
    found = _needed([f"wheeltapper-{name}{extras}" for name, extras in wanted])
    assert {"onnxruntime", "scikit-learn", "fastapi", "sqlalchemy"} <= set(found)
    sizes = {name: _size(each) / 1e6 for name, each in found.items()}
    assert 200 < sum(sizes.values()) < MOST_MB, sorted(sizes.items(), key=lambda item: -item[1])[:12]
