"""Removing the agent from a device: service, configuration, state, user. :class:`Layout` says where all of that is.

This file uses only the standard library. The Debian package has a copy of it in its ``postrm``, which runs after the
package's own files have been removed.

Invariants:
    * Nothing outside the root is touched, whatever symbolic links the root holds.
    * Removing twice has the effect of removing once.
    * In a folder that others may use too (behind a link, or named by the configuration) only the agent's own files are
      removed.
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
    *(
        "identity",
        "slots",
        "tuf",
        "blobs",
        "captures",
        "agent.sock",
        "status.json",
        "marks.json",
        "boot.json",
        "journal.json*",
    ),
    *("spool.sqlite*", "simulator-*.json", ".doctor.*", "lock"),
)
"""Patterns for the names of the files and folders that the agent makes in its state folder."""


def is_state(name: str) -> bool:
    """Whether the agent makes a file or folder of this name in its state folder."""
    if name.startswith(".") and name.endswith(".tmp"):  # a file that was being written
        name = name[1:-4]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _STATE)


class EscapeError(Exception):
    """A symbolic link below the root leads out of the root."""


@dataclass(frozen=True)
class Layout:
    """Where things are on a device whose file system begins at ``root``: ``/``, or where an image is mounted."""

    root: Path

    def inside(self, path: str) -> Path:
        """Where the device's absolute ``path`` is on this machine.

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
        """``path`` with all symbolic links resolved.

        Raises:
            EscapeError: it leads to the root itself, or out of it.
        """
        target, root = os.path.realpath(path), os.path.realpath(self.root)
        if not target.startswith(root.rstrip("/") + "/") or target == root:
            raise EscapeError(f"{path} leads to {target}, which is outside {root}")
        return Path(target)

    @property
    def config_dir(self) -> Path:
        """The folder of the configuration."""
        return self.inside("/etc/wheeltapper")

    @property
    def unit(self) -> Path:
        """The systemd unit."""
        return self.inside(f"/etc/systemd/system/{SERVICE}")

    @property
    def drop_ins(self) -> Path:
        """The folder of the changes that ``systemctl edit`` made to the unit."""
        return self.inside(f"/etc/systemd/system/{SERVICE}.d")

    @property
    def link(self) -> Path:
        """The link that makes the service start with the system."""
        return self.inside(f"/etc/systemd/system/multi-user.target.wants/{SERVICE}")

    @property
    def watchdog(self) -> Path:
        """The file that makes systemd feed the hardware watchdog."""
        return self.inside("/etc/systemd/system.conf.d/wheeltapper-watchdog.conf")

    @property
    def state_dir(self) -> Path:
        """The folder of identity, slots and spool."""
        return self.inside(STATE_DIR)

    @property
    def live(self) -> bool:
        """Whether the root is that of the running system, and systemd runs it."""
        return os.path.realpath(self.root) == "/" and Path("/run/systemd/system").is_dir()

    def entry(self, file: str, name: str) -> list[str] | None:
        """The fields of ``name`` in the device's ``/etc/passwd`` or ``/etc/group``; None where it is not in there."""
        try:
            lines = self.inside(f"/etc/{file}").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return None
        found = [line.split(":") for line in lines if line.startswith(name + ":")]
        return found[0] if found and len(found[0]) >= 4 else None


def systemctl(layout: Layout, *arguments: str) -> bool:
    """Run ``systemctl`` for the running system; whether that went well. Does nothing for an image."""
    if not layout.live or shutil.which("systemctl") is None:
        return True
    return subprocess.run(["systemctl", *arguments], check=False, stdout=subprocess.DEVNULL).returncode == 0


def _unlink(path: Path, done: list[str]) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()
        done.append(f"removed {path}")


def _remove_folder(layout: Layout, path: Path, ours: Callable[[str], bool], done: list[str]) -> None:
    """Remove the agent's files in a folder, and the folder if it is then empty and nothing is mounted there.

    Args:
        layout: where things are.
        path: the folder.
        ours: whether a file or folder of this name is the agent's.
        done: gets a line for what was removed.
    """
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
        os.chown(path, 0, 0)  # the user is removed, and a later user may get its number
    if found:
        left = ", ".join(sorted(child.name for child in path.iterdir())[:5])
        done.append(
            f"removed the agent's files from {path}; it is mounted, or others use it too: {left or 'it is empty'}"
        )


def _of_nobody(_: str) -> bool:
    return False


def _of_the_fleet(name: str) -> bool:
    """Whether a file in ``/etc/wheeltapper`` belongs to the fleet service, which may run on the same machine."""
    return name.startswith("fleet.")


def _remove_place(
    layout: Layout,
    path: Path,
    ours: Callable[[str], bool],
    done: list[str],
    beside: Callable[[str], bool] = _of_nobody,
) -> None:
    """Remove the agent's folder ``path`` but for what is ``beside``; if it is a link, the link and what is ``ours``
    behind it.
    """
    if path.is_symlink():
        target = layout.target(path)
        if target.is_dir():
            _remove_folder(layout, target, ours, done)
        _unlink(path, done)
    elif path.is_dir():
        _remove_folder(layout, path, lambda name: _all(name) and not beside(name), done)


def _all(name: str) -> bool:
    return name != "lost+found"  # every mounted ext4 file system has it


def _remove_other_state(layout: Layout, done: list[str]) -> None:
    """Remove the agent's files from the state folder that the configuration names, where it is not the usual one."""
    try:
        config = layout.inside("/etc/wheeltapper/agent.toml")
        named = tomllib.loads(config.read_text(encoding="utf-8"))["device"]["state_dir"]
        path = layout.target(layout.inside(os.path.normpath(os.path.join("/etc/wheeltapper", named))))
    except FileNotFoundError:
        return
    except EscapeError as error:
        done.append(f"left the state folder that the configuration names: {error}")
        return
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        done.append("the configuration cannot be read: if it names another state folder, that one is left")
        return
    if path.is_dir() and path != layout.target(layout.state_dir):
        _remove_folder(layout, path, is_state, done)


def _remove_empty(path: Path) -> bool:
    """Remove a folder if it is empty; whether it was removed."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True


def _remove_user(layout: Layout, done: list[str]) -> None:
    """Remove the service's user and group; also a group whose user was removed already."""
    prefix = [] if os.path.realpath(layout.root) == "/" else ["--prefix", str(layout.root)]
    user_exists = layout.entry("passwd", USER) is not None
    if user_exists:
        subprocess.run(["userdel", *prefix, USER], check=True, stderr=subprocess.DEVNULL)
        done.append(f"removed the user {USER}")
    if layout.entry("group", USER) is not None:  # userdel keeps it if login.defs says so
        subprocess.run(["groupdel", *prefix, USER], check=True, stderr=subprocess.DEVNULL)
        if not user_exists:
            done.append(f"removed the group {USER}")


def remove(layout: Layout, keep_state: bool = False, keep_config: bool = False) -> list[str]:
    """Remove the agent.

    Args:
        layout: where things are.
        keep_state: leave identity, slots, spool and the user that owns them.
        keep_config: leave the configuration, the drop-ins of the unit and the user.

    Returns:
        A line for each thing that was removed.

    Raises:
        EscapeError: a link in the image leads out of it.
        OSError, subprocess.CalledProcessError: something cannot be removed; trying again goes on there.
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
        _remove_place(layout, layout.config_dir, "agent.toml".__eq__, done, beside=_of_the_fleet)
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
