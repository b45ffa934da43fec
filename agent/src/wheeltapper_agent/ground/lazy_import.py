"""Imports that wait for the first use of a module, so that a device does not carry what it does not use.

Used once, at the start of the agent's process (:mod:`wheeltapper_agent.daemon`), before anything else is imported:

    with hidden_module("typing_extensions"):
        lazy_import("zipfile")
        import msgspec

From then on ``import zipfile`` anywhere costs nothing, and the first ``zipfile.ZipFile`` loads the real module.

Not done here: returning memory that is no longer used (:mod:`wheeltapper_agent.ground.memory`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final

__all__ = ["hidden_module", "lazy_import"]

_REMOVAL_LOCK: Final = threading.Lock()
"""Two threads may use a lazy module at once: only one of them removes its placeholder. Nothing is imported while this
lock is held."""


def lazy_import(name: str) -> None:
    """Put a placeholder into ``sys.modules`` that loads the module ``name`` when one of its attributes is first read.

    A module that is loaded already, or that cannot be found, is left as it is. ``from module import something`` reads
    an attribute and therefore loads the module at once. ``importlib.util.LazyLoader`` would not do: its modules are
    loaded by the next ``import`` statement that names them.

    Args:
        name: full dotted name, e.g. ``urllib.request``. The packages above it are imported now.
    """
    spec = _find_spec(name)
    if name in sys.modules or spec is None:
        return
    placeholder = types.ModuleType(name)
    placeholder.__spec__ = spec
    placeholder.__file__ = spec.origin
    package, _, last = name.rpartition(".")

    def load(attribute: str) -> Any:
        with _REMOVAL_LOCK:
            if sys.modules.get(name) is placeholder:
                del sys.modules[name]
        real = importlib.import_module(name)  # also puts itself in its package
        vars(placeholder).update(vars(real))
        return getattr(real, attribute)

    vars(placeholder)["__getattr__"] = load
    sys.modules[name] = placeholder
    if package:
        setattr(importlib.import_module(package), last, placeholder)


def _find_spec(name: str) -> ModuleSpec | None:
    """Where the module ``name`` is, None if there is none.

    ``importlib.util.find_spec`` would import the package of ``name``, and that package may import the module itself.
    """
    package, _, _ = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name)
    parent = _find_spec(package)
    folders = None if parent is None else parent.submodule_search_locations
    return None if folders is None else PathFinder.find_spec(name, folders)


@contextlib.contextmanager
def hidden_module(name: str) -> Iterator[None]:
    """Make ``import name`` fail inside the ``with`` block, for libraries that use ``name`` only where it is installed.

    A module that is loaded already stays visible.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # how the import system spells "not to be found"
    try:
        yield
    finally:
        del sys.modules[name]
