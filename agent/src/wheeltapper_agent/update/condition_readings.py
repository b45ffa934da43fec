"""Reads what the conditions of an update depend on: power, network and disk, from ``/sys`` and ``/proc`` (Linux).

The paths are handed in, so that a configuration or a test can set others. What cannot be read is None, and None holds
no update up (:mod:`wheeltapper_agent.update.conditions`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from wheeltapper_agent.link.metering import metered, read_routes
from wheeltapper_agent.link.routes import default_interfaces

__all__ = ["default_interface", "free_bytes", "metered", "on_mains"]


def _word(path: Path) -> str:
    """The content of a small file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def on_mains(folder: Path) -> bool | None:
    """Whether the device has outside power, by ``/sys/class/power_supply`` (Linux, ABI/testing/sysfs-class-power).

    A supply of type Mains or USB that is online means yes; otherwise a battery that discharges means no. None where
    there is neither, as on most gateways, which have nothing but their power supply.
    """
    try:
        supplies = sorted(folder.iterdir())
    except OSError:
        return None
    plugs = [_word(supply / "online") for supply in supplies if _word(supply / "type") in ("Mains", "USB")]
    if any(state in ("1", "2") for state in plugs):
        return True
    batteries = [
        _word(supply / "status")
        for supply in supplies
        if _word(supply / "type") == "Battery" and _word(supply / "scope") != "Device"
    ]
    if "Discharging" in batteries or (plugs and batteries):
        return False
    return True if batteries else None


def default_interface(routes: Path) -> str | None:
    """The interface of the IPv4 default route with the lowest metric, from ``/proc/net/route``; None without one."""
    return min(default_interfaces([route for route in read_routes(routes) if route.version == 4]), default=None)


def free_bytes(folder: Path) -> int | None:
    """Bytes that the agent may still write on the file system of ``folder``; None where that cannot be read."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
