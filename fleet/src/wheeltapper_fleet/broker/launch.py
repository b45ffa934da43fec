"""Starts a program that dies with its parent: ``launch.py <parent pid> <binary> [argument …]``. Linux only.

Run as a script of its own, so that nothing but this happens between fork and exec. The signal is sent when the *thread*
that started the process ends, so the starter must live as long as the child shall.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for the signal, make sure that the parent still lives, become the program."""
    parent = int(arguments[0])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit("the parent died before the start")
    os.execv(arguments[1], arguments[1:])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
