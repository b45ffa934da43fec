"""What keeps the running agent small: imports that wait for their use, and memory given back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import logging
import sys
import threading
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final

__all__ = ["give_back", "keep_small", "late_import", "without"]

_LOG = logging.getLogger(__name__)
_FIRST_SECONDS: Final = 10.0
"""By then the models are loaded and the first windows scored."""
_AGAIN_SECONDS: Final = 600.0
_TAKING_AWAY: Final = threading.Lock()
"""Two threads may use a late module at once; nothing is imported under this lock."""


def late_import(name: str) -> None:
    """Have the module ``name`` loaded when something of it is first used, whoever imports it.

    ``from module import something`` uses it already. Not importlib's LazyLoader, whose modules are loaded by the next
    import already.
    """
    spec = _spec(name)
    if name in sys.modules or spec is None:
        return
    stand_in = types.ModuleType(name)
    stand_in.__spec__ = spec
    stand_in.__file__ = spec.origin
    package, _, last = name.rpartition(".")

    def load(attribute: str) -> Any:
        with _TAKING_AWAY:
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
        real = importlib.import_module(name)  # also puts itself in its package
        vars(stand_in).update(vars(real))
        return getattr(real, attribute)

    vars(stand_in)["__getattr__"] = load
    sys.modules[name] = stand_in
    if package:
        setattr(importlib.import_module(package), last, stand_in)


def _spec(name: str) -> ModuleSpec | None:
    """Where the module ``name`` is; importlib's ``find_spec`` would import its package, and so perhaps the module."""
    package, _, _ = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name)
    around = _spec(package)
    inside = None if around is None else around.submodule_search_locations
    return None if inside is None else PathFinder.find_spec(name, inside)


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Let imports in here not find the module ``name``, which they can do without; it stays where it is loaded."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # how the import system spells "not to be found"
    try:
        yield
    finally:
        del sys.modules[name]


def give_back() -> None:
    """Collect what only cycles hold, and return what glibc keeps of freed memory; elsewhere only the first."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # not glibc
        _LOG.debug("this C library has no malloc_trim")


def keep_small() -> threading.Thread:
    """Give memory back soon, and every ten minutes, in a thread that ends with the process."""

    def work() -> None:
        pause = threading.Event()
        seconds = _FIRST_SECONDS
        while not pause.wait(seconds):
            give_back()
            seconds = _AGAIN_SECONDS

    thread = threading.Thread(target=work, name="give-back", daemon=True)
    thread.start()
    return thread
