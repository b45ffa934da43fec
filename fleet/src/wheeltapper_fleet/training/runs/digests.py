"""Digests of what a run depends on: data, code, environment, recipe. Equal ones make the same model bytes.

Each is the SHA-256 of canonical JSON, so that it can be computed again elsewhere:

    * **data**: of a dataset, the hash of the version's manifest with side and choice; of files, their own hashes.
    * **code**: the version and every source file of what trains, and those of the recipe's package where it is another.
    * **environment**: Python, the processor's kind, and every installed distribution with its version.
    * **recipe**: recipe, model, parameters with their defaults, and seed.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

import wheeltapper_fleet
import wheeltapper_protocols
from wheeltapper_fleet.training.recipes import Recipe, Source

__all__ = ["code_digest", "data_digest", "digest_of", "environment", "file_digest"]

_OURS: Final = ("wheeltapper_fleet", "wheeltapper_protocols")


def digest_of(value: Any) -> str:
    """The SHA-256 of a value as canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_digest(recordings: Sequence[Source], origin: dict[str, str]) -> str:
    """Of what a run is trained on.

    Args:
        recordings: its files, where they are named; one is read at a time.
        origin: what the lineage says of a dataset, which stands for its contents; empty: there is none.
    """
    if origin:
        return digest_of(origin)
    return digest_of([file_digest(each) for each in recordings if isinstance(each, Path)])


def code_digest(recipe: Recipe) -> str:
    """Of the code that trains a recipe."""
    roots = [_folder(wheeltapper_fleet) / "training", _folder(wheeltapper_protocols)]
    named = type(recipe).__module__.partition(".")[0]
    if named not in _OURS and (module := sys.modules.get(named)) is not None and module.__file__:
        file = Path(module.__file__)
        roots.append(file.parent if file.name == "__init__.py" else file)
    found = {f"{number}/{name}": sha256 for number, root in enumerate(roots) for name, sha256 in _sources(root)}
    return digest_of({"version": wheeltapper_fleet.__version__, "files": found})


def _folder(package: ModuleType) -> Path:
    assert package.__file__ is not None
    return Path(package.__file__).parent


def _sources(root: Path) -> Iterator[tuple[str, str]]:
    """Every source file below a folder, or the file itself: its name there and its SHA-256."""
    if root.is_file():
        yield root.name, file_digest(root)
        return
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), file_digest(path)


def environment() -> dict[str, str]:
    """Python, the processor's kind, and the installed distributions, each with its version."""
    found = {each.metadata["Name"].lower(): each.version for each in distributions() if each.metadata["Name"]}
    base = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    return base | dict(sorted(found.items()))
