"""Taking the agent off a device: service, configuration, state, user. And where all of that is.

This file stands alone: the standard library only, nothing of ours. The Debian package carries a copy of it in its
``postrm``, which runs when the package's own files are gone already.

Invariants: nothing outside the root is touched, whatever symbolic links the root holds; each step may be done twice.
In a folder that the agent may share (behind a link, or named by the configuration) only what it made goes.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SERVICE", "STATE_DIR", "USER", "EscapeError", "Layout", "is_state", "remove", "systemctl"]

SERVICE = "wheeltapper-agent.service"
USER = "wheeltapper"
STATE_DIR = "/var/lib/wheeltapper"
_STATE = (
    *("identity", "slots", "tuf", "blobs", "captures", "agent.sock", "status.json", "marks.json", "journal.json*"),
    *("spool.sqlite*", "simulator-*.json", ".doctor.*"),
)
"""What the agent keeps in its state folder."""


def is_state(name: str) -> bool:
    """Whether the agent makes a file or folder of this name in its state folder."""
    if name.startswith(".") and name.endswith(".tmp"):  # on its way to be one
        name = name[1:-4]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _STATE)


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

    def target(self, path: Path) -> Path:
        """Where ``path`` leads, links followed.

        Raises:
            EscapeError: to the root, or out of it.
        """
        target, root = os.path.realpath(path), os.path.realpath(self.root)
        if not target.startswith(root.rstrip("/") + "/") or target == root:
            raise EscapeError(f"{path} leads to {target}, which is outside {root}")
        return Path(target)

    @property
    def config_dir(self) -> Path:
        """Of the configuration."""
        return self.inside("/etc/wheeltapper")

    @property
    def unit(self) -> Path:
        """The systemd unit."""
        return self.inside(f"/etc/systemd/system/{SERVICE}")

    @property
    def drop_ins(self) -> Path:
        """Changes to the unit, of ``systemctl edit``."""
        return self.inside(f"/etc/systemd/system/{SERVICE}.d")

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
        return self.inside(STATE_DIR)

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


def _remove_folder(layout: Layout, path: Path, ours: Callable[[str], bool], done: list[str]) -> None:
    """Remove what is ``ours`` in a folder, and the folder, if nothing else is in it and nothing is mounted there."""
    found = [child for child in path.iterdir() if ours(child.name)]
    for child in found:
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
    if _remove_empty(path):
        done.append(f"removed {path}")
        return
    entry = layout.entry("passwd", USER)
    if entry is not None and path.stat().st_uid == int(entry[2]):
        os.chown(path, 0, 0)  # the user goes, and its number may be another's one day
    if found:
        left = ", ".join(sorted(child.name for child in path.iterdir())[:5])
        done.append(f"removed what is the agent's from {path}; it is mounted, or others use it: {left or 'empty'}")


def _remove_place(layout: Layout, path: Path, ours: Callable[[str], bool], done: list[str]) -> None:
    """Remove a folder that is the agent's; where a link stands for it, what is ``ours`` behind it, and the link."""
    if path.is_symlink():
        target = layout.target(path)
        if target.is_dir():
            _remove_folder(layout, target, ours, done)
        _unlink(path, done)
    elif path.is_dir():
        _remove_folder(layout, path, _all, done)


def _all(name: str) -> bool:
    return name != "lost+found"  # of a file system that is mounted there


def _remove_other_state(layout: Layout, done: list[str]) -> None:
    """Remove what is the agent's from a state folder that the configuration names instead of the usual one."""
    try:
        config = layout.inside("/etc/wheeltapper/agent.toml")
        named = tomllib.loads(config.read_text(encoding="utf-8"))["device"]["state_dir"]
        path = layout.target(layout.inside(os.path.normpath(os.path.join("/etc/wheeltapper", named))))
    except FileNotFoundError:
        return
    except EscapeError as error:
        done.append(f"left the state folder of the configuration: {error}")
        return
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        done.append("the configuration cannot be read: a state folder that it may name is left")
        return
    if path.is_dir() and path != layout.target(layout.state_dir):
        _remove_folder(layout, path, is_state, done)


def _remove_empty(path: Path) -> bool:
    """Remove a folder that install may have made, if nobody else put something into it; whether it is gone."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True


def _remove_user(layout: Layout, done: list[str]) -> None:
    """Remove the user and its group; also a group that was left without its user."""
    prefix = [] if os.path.realpath(layout.root) == "/" else ["--prefix", str(layout.root)]
    there = layout.entry("passwd", USER) is not None
    if there:
        subprocess.run(["userdel", *prefix, USER], check=True, stderr=subprocess.DEVNULL)
        done.append(f"removed the user {USER}")
    if layout.entry("group", USER) is not None:  # userdel leaves it where login.defs says so
        subprocess.run(["groupdel", *prefix, USER], check=True, stderr=subprocess.DEVNULL)
        if not there:
            done.append(f"removed the group {USER}")


def remove(layout: Layout, keep_state: bool = False, keep_config: bool = False) -> list[str]:
    """Take the agent off; returns what was done.

    Args:
        layout: where.
        keep_state: leave identity, slots and spool, and their owner.
        keep_config: leave the configuration, drop-ins of the unit with it.

    Raises:
        EscapeError: see there; OSError.
    """
    done: list[str] = []
    if layout.unit.exists():
        systemctl(layout, "stop", SERVICE)
    _unlink(layout.link, done)
    _unlink(layout.unit, done)
    _unlink(layout.watchdog, done)
    if not keep_state:
        _remove_other_state(layout, done)
        _remove_place(layout, layout.state_dir, is_state, done)
    if not keep_config:
        _remove_place(layout, layout.config_dir, "agent.toml".__eq__, done)
        _remove_place(layout, layout.drop_ins, lambda name: name.endswith(".conf"), done)
    if not keep_state and not keep_config:
        _remove_user(layout, done)
    for folder in ("/etc/systemd/system.conf.d", "/etc/systemd/system/multi-user.target.wants"):
        _remove_empty(layout.inside(folder))
    systemctl(layout, "daemon-reload")
    return done


if __name__ == "__main__":  # in the package's postrm
    if sys.argv[1:2] == ["purge"]:
        for line in remove(Layout(Path("/"))):
            print(line)
