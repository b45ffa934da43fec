"""Which board this is: from the device tree that its firmware provides, and from the name of the processor."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

__all__ = ["detect_board", "machine_name", "memory_mb", "read_device_tree"]

# A text in the device tree's model or compatible strings, and the profile it stands for; the most specific first.
_BOARDS: Final = (
    ("kunbus,revpi-connect4", "revpi-connect"),
    ("revpi connect 4", "revpi-connect"),
    ("raspberry pi 5", "raspberry-pi-5"),
    ("raspberry pi 4", "raspberry-pi-4"),
    ("raspberry pi 3", "raspberry-pi-3"),
    ("jetson orin nano", "jetson-orin-nano"),
    ("fsl,imx8mp", "imx8m-plus"),
    ("beagleboard,j721e-beagleboneai64", "beaglebone-ai-64"),
)


def read_device_tree(root: Path = Path("/")) -> str:
    """The board's ``model`` and ``compatible`` strings in lower case (Devicetree Specification, 2.3).

    Empty where there is no device tree, as on x86.
    """
    words = []
    for name in ("model", "compatible"):
        try:
            words.append((root / "proc/device-tree" / name).read_bytes()[:4096].decode("utf-8", "replace"))
        except OSError:
            continue
    return " ".join(words).replace("\0", " ").lower()


def machine_name() -> str:
    """``uname -m``, corrected for this process: a 32-bit Python on a 64-bit ARM kernel gives ``armv7l``."""
    machine = os.uname().machine
    return "armv7l" if machine == "aarch64" and struct.calcsize("P") == 4 else machine


def detect_board(device_tree: str, machine: str) -> str | None:
    """The name of the profile for a board; None where the board is not known.

    A Raspberry Pi 4 or 5 with a 32-bit system gets the profile of the 32-bit Raspberry Pi.

    Args:
        device_tree: see :func:`read_device_tree`.
        machine: see :func:`machine_name`.

    Example:
        >>> detect_board("raspberry pi 5 model b rev 1.0 raspberrypi,5-model-b", "aarch64")
        'raspberry-pi-5'
    """
    for text, profile in _BOARDS:
        if text in device_tree:
            if machine == "armv7l" and profile.startswith(("raspberry-pi", "revpi")):
                return "raspberry-pi-3"
            return None if profile == "raspberry-pi-3" else profile  # there is no profile for it with 64 bits
    return "x86-gateway" if machine == "x86_64" else None


def memory_mb(root: Path = Path("/")) -> float | None:
    """The machine's memory in MB; None where ``/proc/meminfo`` does not say."""
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemTotal:"):
                return float(line.split()[1]) / 1024.0
    except (OSError, ValueError, IndexError):
        pass
    return None
