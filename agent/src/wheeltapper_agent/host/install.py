"""Installing the agent on a device, or into the image of one: user, folders, configuration, systemd unit.

Invariants:
    * Installing twice has the effect of installing once: a step whose result exists already changes nothing.
    * An existing configuration is never changed.
    * Files appear whole or not at all; nothing is written outside the root (see ``Layout`` in
      :mod:`wheeltapper_agent.host.uninstall`).
    * Everything that can be refused is refused before the first step.

Not done here: removing it again (:mod:`wheeltapper_agent.host.uninstall`), what the unit says
(:mod:`wheeltapper_agent.host.systemd_unit`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import fsync_folder, replace_link, write_atomic
from wheeltapper_agent.ground.profile import Profile, load_profile, profile_names
from wheeltapper_agent.host.boards import detect_board, machine_name, read_device_tree
from wheeltapper_agent.host.starting_config import starting_config
from wheeltapper_agent.host.systemd_unit import CONFIG_FILE, bus_groups, render_unit, render_watchdog
from wheeltapper_agent.host.uninstall import SERVICE, STATE_DIR, USER, EscapeError, Layout, is_state, systemctl
from wheeltapper_protocols.errors import brief

__all__ = [
    "Step",
    "StepResult",
    "apply",
    "choose_profile",
    "enrol_as_service_user",
    "finish",
    "plan",
    "program_path",
]

StepResult = Literal["made", "changed", "unchanged", "kept"]
"""``unchanged``: it existed and was as wanted; ``kept``: it existed and is never changed, whatever it is like."""
_FILE_SYSTEM_FOLDERS: Final = ("lost+found",)
"""A mounted file system has them by itself."""
_HIDDEN_FOLDERS: Final = ("/home/", "/root/", "/run/user/")
"""ProtectHome= hides them from the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that must exist after installing."""

    kind: Literal["user", "folder", "file", "link"]
    path: Path
    mode: int = 0o644
    content: str = ""
    """The text of a file, or the target of a link."""
    keep: bool = False
    """Leave what exists as it is."""
    owner: Literal["root", "service", "root:service"] = "root"


def choose_profile(name: str, root: Path = Path("/")) -> Profile:
    """The profile called ``name``; for ``auto`` the one that an existing configuration names, else this board's.

    Args:
        name: of a profile, or ``auto``.
        root: where the system or image begins.

    Raises:
        AgentError: ``config.profile``, ``install.unknown_board``.
    """
    if name != "auto":
        return load_profile(name)
    config = Layout(root).inside(CONFIG_FILE)
    if config.is_file():
        return load_profile(load_config(config).device.profile)
    if os.path.realpath(root) != "/":
        raise AgentError("install.unknown_board", "which board an image is for cannot be found out: give --profile")
    found = detect_board(read_device_tree(), machine_name())
    if found is None:
        known = ", ".join(profile_names())
        raise AgentError("install.unknown_board", f"this board is not known: give --profile, one of {known}")
    return load_profile(found)


def program_path(root: Path, given: str | None = None) -> str:
    """The path of the program that the unit starts: the given one, else the Debian package's, else the running one.

    Args:
        root: where the system or image begins.
        given: a path on the device (without ``root``).

    Raises:
        AgentError: ``install.program``.
    """
    if given is not None:
        path = given
    elif (root / "usr/bin/wheeltapper-agent").is_file():
        path = "/usr/bin/wheeltapper-agent"
    else:
        path = str(Path(sys.executable).parent / "wheeltapper-agent")
    if not path.startswith("/") or not (root / path.lstrip("/")).is_file():
        raise AgentError("install.program", f"there is no {path} in {root}: give --program, or install the package")
    if path.startswith(_HIDDEN_FOLDERS):
        raise AgentError(
            "install.program", f"{path} is in a home folder, which the service cannot see: use /opt or /usr"
        )
    return path


def plan(layout: Layout, profile: Profile, program: str, hardware_watchdog: bool = False) -> list[Step]:
    """The steps of an installation, in order.

    Args:
        layout: where things are.
        profile: the board's.
        program: see :func:`program_path`.
        hardware_watchdog: have systemd feed the board's watchdog.

    Raises:
        AgentError: ``install.root``, ``install.escapes``, ``install.device``, ``install.no_watchdog``,
        ``install.state_shared``, ``install.user``.
    """
    if layout.entry("passwd", "root") is None:
        raise AgentError("install.root", f"{layout.root} holds no system: /etc/passwd with root is missing")
    if layout.entry("passwd", USER) is None:
        _useradd()
    if hardware_watchdog and not profile.watchdog_device:
        raise AgentError("install.no_watchdog", f"the profile {profile.name} names no hardware watchdog")
    groups = tuple(group for group in bus_groups(profile) if layout.entry("group", group) is not None)
    try:
        _check_state_link(layout)
        steps = [
            Step(kind="user", path=layout.inside("/etc/passwd")),
            Step(kind="folder", path=layout.config_dir, mode=0o750, owner="root:service"),
            Step(
                kind="file",
                path=layout.inside(CONFIG_FILE),
                mode=0o640,
                content=starting_config(profile),
                keep=True,
                owner="root:service",
            ),
            Step(kind="folder", path=layout.state_dir, mode=0o750, owner="service"),
            Step(kind="folder", path=layout.unit.parent, mode=0o755, keep=True),
            Step(kind="file", path=layout.unit, content=render_unit(profile, program, groups)),
            Step(kind="folder", path=layout.link.parent, mode=0o755, keep=True),
            Step(kind="link", path=layout.link, content=f"/etc/systemd/system/{SERVICE}"),
        ]
        if hardware_watchdog:
            steps.append(Step(kind="folder", path=layout.watchdog.parent, mode=0o755, keep=True))
            steps.append(Step(kind="file", path=layout.watchdog, content=render_watchdog(profile)))
    except EscapeError as error:
        raise AgentError("install.escapes", str(error)) from error
    return steps


def _check_state_link(layout: Layout) -> None:
    """Refuse a state folder behind a link if others use it: it becomes the service's own, and closed to others.

    Raises:
        AgentError: ``install.state_shared``.
    """
    path = layout.state_dir
    if not path.is_symlink():
        return
    target = layout.target(path)
    if not target.is_dir():
        raise AgentError("install.state_shared", f"{path} leads to {target}, which is not a folder: make it first")
    others = sorted(
        child.name for child in target.iterdir() if not (is_state(child.name) or child.name in _FILE_SYSTEM_FOLDERS)
    )
    if others:
        raise AgentError(
            "install.state_shared",
            f"{path} leads to {target}, which holds {', '.join(others[:5])}: let it lead to a folder of its own",
        )


def _ids(layout: Layout, step: Step) -> tuple[int, int]:
    """User id and group id that own what ``step`` makes."""
    entry = layout.entry("passwd", USER)
    user, group = (int(entry[2]), int(entry[3])) if entry is not None else (-1, -1)
    return {"root": (0, 0), "service": (user, group), "root:service": (0, group)}[step.owner]


def _exists_as_wanted(layout: Layout, step: Step) -> bool:
    """Whether what ``step`` makes exists already, with its content, mode and owner."""
    path = step.path
    if step.kind == "user":
        return layout.entry("passwd", USER) is not None
    if step.kind == "link":
        return path.is_symlink() and os.readlink(path) == step.content
    if step.kind == "folder" and not path.is_dir():
        return False
    if step.kind == "file" and (not path.is_file() or path.read_text(encoding="utf-8") != step.content):
        return False
    found = path.stat()
    return (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (step.mode, *_ids(layout, step))


def apply(layout: Layout, step: Step, dry_run: bool = False) -> StepResult:
    """Do ``step``; with ``dry_run`` only find out what would be done.

    Args:
        layout: where things are.
        step: one of :func:`plan`.
        dry_run: change nothing.

    Raises:
        AgentError: ``install.user``, ``storage.*``.
    """
    exists = step.path.is_symlink() or step.path.exists()
    try:
        if exists and step.keep and step.kind != "user":
            return "kept"
        if _exists_as_wanted(layout, step):
            return "unchanged"
        if not dry_run:
            _make(layout, step)
    except OSError as error:
        raise storage_error(error, f"{step.path} cannot be written") from error
    return "changed" if exists and step.kind != "user" else "made"


def _make(layout: Layout, step: Step) -> None:
    path = step.path
    if step.kind == "user":
        _make_user(layout)
        return
    if step.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, *_ids(layout, step))
        path.chmod(step.mode)
        fsync_folder(path.parent)
    elif step.kind == "link":
        replace_link(path, step.content)
    else:
        write_atomic(path, step.content.encode(), step.mode)
        os.chown(path, *_ids(layout, step))
        path.chmod(step.mode)


def _make_user(layout: Layout) -> None:
    prefix = [] if os.path.realpath(layout.root) == "/" else ["--prefix", str(layout.root)]
    program = _useradd()
    group = ["--user-group"] if layout.entry("group", USER) is None else ["--gid", USER]
    options = ["--system", *group, "--no-create-home", "--home-dir", STATE_DIR]
    line = [program, *prefix, *options, "--shell", "/usr/sbin/nologin", "--comment", "Wheeltapper agent", USER]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0 or layout.entry("passwd", USER) is None:
        raise AgentError("install.user", f"the user {USER} cannot be created: {brief(done.stderr)}")


def _useradd() -> str:
    """The path of useradd, which is in a folder that people's PATH often lacks."""
    found = shutil.which("useradd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))
    if found is None:
        raise AgentError(
            "install.user", f"useradd is missing: install the package passwd, or create the user {USER} yourself"
        )
    return found


def enrol_as_service_user(program: str, server: str, token: str) -> None:
    """Enrol this device as the service's user, so that the private key never belongs to another.

    Args:
        program: path of ``wheeltapper-agent``.
        server: the fleet's address.
        token: handed over in the environment, which other users cannot read.

    Raises:
        AgentError: ``install.enrol``.
    """
    line = [program, "enroll", "--server", server, "--config", CONFIG_FILE]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "WHEELTAPPER_TOKEN": token}
    done = subprocess.run(
        line,
        user=USER,
        group=USER,
        extra_groups=[],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1].removeprefix("error: ")
        raise AgentError(
            "install.enrol", f"the agent is installed, but the device could not be enrolled: {brief(reason)}"
        )


def finish(layout: Layout) -> bool:
    """Have the running systemd read the unit, and start the service if the device is enrolled.

    Returns:
        Whether the service was started; always False for an image.

    Raises:
        AgentError: ``install.start``.
    """
    if not layout.live:
        return False
    reloaded = systemctl(layout, "daemon-reload")
    if not (layout.state_dir / "identity" / "fleet.json").is_file():
        return False
    if not (reloaded and systemctl(layout, "restart", SERVICE)):
        raise AgentError(
            "install.start",
            "the agent is installed, but the service does not start: see `systemctl status wheeltapper-agent`, "
            "`journalctl -u wheeltapper-agent` and `wheeltapper-agent doctor`",
        )
    return True
