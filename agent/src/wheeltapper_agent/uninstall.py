"""Taking the agent off a device: service, configuration, state, user. And where all of that is.

This file stands alone: the standard library only, nothing of ours. The Debian package carries a copy of it in its
``postrm``, which runs when the package's own files are gone already.

Invariants: nothing outside the root is touched, whatever symbolic links the root holds; each step may be done twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SERVICE", "USER", "EscapeError", "Layout", "remove", "systemctl"]

SERVICE = "wheeltapper-agent.service"
USER = "wheeltapper"


class EscapeError(Exception):
    """A path of the root leads out of it."""


@dataclass(frozen=True)
class Layout:
    """Where things are on a device whose file system begins at ``root``."""

    root: Path

    def inside(self, path: str) -> Path:
        """``path`` of the device, as a path here.

        Raises:
            EscapeError: a symbolic link on the way leads out of the root.
        """
        here = self.root / path.lstrip("/")
        root = os.path.realpath(self.root)
        parent = os.path.realpath(here.parent)
        if root != "/" and parent != root and not parent.startswith(root + "/"):
            raise EscapeError(f"{here} leads to {parent}, which is outside {root}")
        return here

    @property
    def config_dir(self) -> Path:
        """Of the configuration."""
        return self.inside("/etc/wheeltapper")

    @property
    def unit(self) -> Path:
        """The systemd unit."""
        return self.inside(f"/etc/systemd/system/{SERVICE}")

    @property
    def link(self) -> Path:
        """What makes the service start with the system."""
        return self.inside(f"/etc/systemd/system/multi-user.target.wants/{SERVICE}")

    @property
    def watchdog(self) -> Path:
        """Makes systemd feed the hardware watchdog."""
        return self.inside("/etc/systemd/system.conf.d/wheeltapper-watchdog.conf")

    @property
    def state_dir(self) -> Path:
        """Identity, slots, spool."""
        return self.inside("/var/lib/wheeltapper")

    @property
    def live(self) -> bool:
        """Whether this is the running system, under systemd."""
        return os.path.realpath(self.root) == "/" and Path("/run/systemd/system").is_dir()

    def entry(self, file: str, name: str) -> list[str] | None:
        """The fields of ``name`` in ``/etc/passwd`` or ``/etc/group`` of the device."""
        try:
            lines = self.inside(f"/etc/{file}").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return None
        found = [line.split(":") for line in lines if line.startswith(name + ":")]
        return found[0] if found and len(found[0]) >= 4 else None


def systemctl(layout: Layout, *arguments: str) -> bool:
    """Run ``systemctl`` on the running system; does nothing on any other."""
    if not layout.live or shutil.which("systemctl") is None:
        return True
    return subprocess.run(["systemctl", *arguments], check=False, stdout=subprocess.DEVNULL).returncode == 0


def _unlink(path: Path, done: list[str]) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()
        done.append(f"removed {path}")


def _remove_tree(layout: Layout, path: Path, done: list[str]) -> None:
    """Remove a folder; where a link stands for it, the folder inside the root that it leads to, and the link."""
    if path.is_symlink():
        target = os.path.realpath(path)
        root = os.path.realpath(layout.root)
        if not target.startswith(root.rstrip("/") + "/") or target.count("/") < root.rstrip("/").count("/") + 2:
            raise EscapeError(f"{path} leads to {target}; remove it by hand")
        if os.path.isdir(target):
            shutil.rmtree(target)
        path.unlink()
        done.append(f"removed {path} and {target}")
    elif path.is_dir():
        shutil.rmtree(path)
        done.append(f"removed {path}")


def _remove_empty(path: Path) -> None:
    """Remove a folder that install may have made, if nobody else put something into it."""
    try:
        path.rmdir()
    except OSError:
        return


def remove(layout: Layout, keep_state: bool = False, keep_config: bool = False) -> list[str]:
    """Take the agent off; returns what was done.

    Args:
        layout: where.
        keep_state: leave identity, slots and spool, and their owner.
        keep_config: leave the configuration.

    Raises:
        EscapeError: see there; OSError.
    """
    done: list[str] = []
    if layout.unit.exists():
        systemctl(layout, "stop", SERVICE)
    _unlink(layout.link, done)
    _unlink(layout.unit, done)
    _unlink(layout.watchdog, done)
    for folder in ("/etc/systemd/system.conf.d", "/etc/systemd/system/multi-user.target.wants"):
        _remove_empty(layout.inside(folder))
    systemctl(layout, "daemon-reload")
    if not keep_config:
        _remove_tree(layout, layout.config_dir, done)
    if not keep_state:
        _remove_tree(layout, layout.state_dir, done)
    if not keep_state and not keep_config and layout.entry("passwd", USER) is not None:
        prefix = [] if os.path.realpath(layout.root) == "/" else ["--prefix", str(layout.root)]
        subprocess.run(["userdel", *prefix, USER], check=True, stderr=subprocess.DEVNULL)
        if layout.entry("group", USER) is not None:  # userdel leaves it where login.defs says so
            subprocess.run(["groupdel", *prefix, USER], check=True, stderr=subprocess.DEVNULL)
        done.append(f"removed the user {USER}")
    return done


if __name__ == "__main__":  # in the package's postrm
    if sys.argv[1:2] == ["purge"]:
        for line in remove(Layout(Path("/"))):
            print(line)
