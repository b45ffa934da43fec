"""Starts a program that the kernel kills when the process that started it dies. Linux only.

The fleet service starts its broker this way, and the demo all of its processes:

    >>> subprocess.Popen(die_with_parent("/usr/bin/nats-server", "-c", "nats.json"))

This file is also the script that runs between fork and exec:
``die_with_parent.py <parent pid> <program> [argument …]``.

Invariant: the signal is sent when the *thread* that started the process ends. The caller therefore starts the program
from a thread that lives as long as the program shall.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(program: str, *arguments: str) -> list[str]:
    """The command line that runs ``program`` and kills it when this process dies.

    Args:
        program: path of the program.
        arguments: its arguments.
    """
    return [sys.executable, "-I", __file__, str(os.getpid()), program, *arguments]


def main(arguments: list[str]) -> None:
    """Ask the kernel for the signal, check that the parent is still alive, and become the program."""
    parent = int(arguments[0])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit("the parent process died before the program started")
    os.execv(arguments[1], arguments[1:])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
