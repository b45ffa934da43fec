"""Which folders Python may import from: never the working folder, never one that other users may write.

Python puts the working folder first on ``sys.path`` with ``-m`` and ``-c`` (unless ``-P`` or ``-I`` is given), and for
an empty or relative entry of ``PYTHONPATH``. Whoever may write there could run code as the user who starts the agent,
which may be root.

Invariants:
    * Imports nothing but ``os``, ``stat`` and ``sys``: it runs before anything else is imported.
    * Folders below the prefixes of this Python are trusted: what is installed there runs anyway.

Example:
    >>> subprocess.run(python_command("-c", "print(1)"), env=child_environment(os.environ))

What this module does not do: protect from modules of the standard library's names in a folder of ``PYTHONPATH``, which
Python imports before any code of ours.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Mapping

__all__ = ["child_environment", "forget_untrusted_folders", "python_command", "trusted_folders"]

_PYTHONPATH = "PYTHONPATH"


def trusted_folders(entries: Iterable[str]) -> list[str]:
    """Return those of ``entries`` (as in ``sys.path``) that only root and this user may write.

    A relative entry is never among them. A group is trusted: its members were chosen by an administrator.
    """
    return [entry for entry in entries if _trusted(entry)]


def _trusted(entry: str) -> bool:
    if not os.path.isabs(entry):
        return False
    if any(entry == prefix or entry.startswith(prefix + os.sep) for prefix in (sys.prefix, sys.base_prefix)):
        return True
    try:
        found = os.stat(entry)
    except OSError:
        return True  # nothing is imported from what is not there
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & stat.S_IWOTH


def forget_untrusted_folders() -> None:
    """Take from ``sys.path`` what others may write, and the working folder where an empty or relative entry of
    ``PYTHONPATH`` stands for it."""
    named = os.environ.get(_PYTHONPATH, "").split(os.pathsep)
    relative = {os.path.abspath(entry) for entry in named if not os.path.isabs(entry)}
    relative -= {os.path.abspath(entry) for entry in named if os.path.isabs(entry)}
    sys.path[:] = [entry for entry in trusted_folders(sys.path) if entry not in relative]


def python_command(*arguments: str) -> list[str]:
    """Return the command line of this Python with ``arguments``, without the working folder on its path.

    Where this process is isolated from the environment (``-I``), so is the new one.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", *arguments]


def child_environment(environment: Mapping[str, str], path: Iterable[str] | None = None) -> dict[str, str]:
    """Return ``environment`` for a child process that runs Python.

    Args:
        environment: usually ``os.environ``.
        path: the folders of the child's ``PYTHONPATH``; None: those that ``environment`` names. Those that are not
            trusted are left out either way.
    """
    named = environment.get(_PYTHONPATH, "").split(os.pathsep) if path is None else path
    kept = trusted_folders(named)
    child = {name: value for name, value in environment.items() if name != _PYTHONPATH}
    return child | {_PYTHONPATH: os.pathsep.join(kept)} if kept else child
