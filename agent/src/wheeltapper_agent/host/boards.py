"""Which board this is, from what its firmware says (``/proc/device-tree``) and from the machine name."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

__all__ = ["detect_board", "machine_name", "memory_mb", "read_device_tree"]

# Words of the device tree's model or compatible strings, the most special first.
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
    """Model and compatible strings of the board in lower case; empty where there is no device tree."""
    words = []
    for name in ("model", "compatible"):
        try:
            words.append((root / "proc/device-tree" / name).read_bytes()[:4096].decode("utf-8", "replace"))
        except OSError:
            continue
    return " ".join(words).replace("\0", " ").lower()


def machine_name() -> str:
    """``uname -m`` as the programs here see it: a 32-bit Python on a 64-bit ARM kernel is ``armv7l``."""
    machine = os.uname().machine
    return "armv7l" if machine == "aarch64" and struct.calcsize("P") == 4 else machine


def detect_board(device_tree: str, machine: str) -> str | None:
    """The name of the profile that fits; None where the board is not known.

    A Raspberry Pi 4 or 5 with a 32-bit system takes the profile of the 32-bit Raspberry Pi.
    """
    for word, profile in _BOARDS:
        if word in device_tree:
            pi = profile.startswith(("raspberry-pi", "revpi"))
            return "raspberry-pi-3" if pi and machine == "armv7l" else None if profile == "raspberry-pi-3" else profile
    return "x86-gateway" if machine == "x86_64" else None


def memory_mb(root: Path = Path("/")) -> float | None:
    """The memory of the machine [MB]; None where ``/proc`` does not say."""
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemTotal:"):
                return float(line.split()[1]) / 1024.0
    except (OSError, ValueError, IndexError):
        pass
    return None
