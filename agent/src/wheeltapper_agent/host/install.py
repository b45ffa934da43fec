"""Putting the agent onto a device, or into the image of one: user, folders, configuration, systemd unit.

Invariants:
    * Done twice, it is as done once; a step that finds what it would make changes nothing.
    * A configuration that is there is never changed.
    * Files appear whole or not at all; nothing is written outside the root (:class:`uninstall.Layout`).
    * Everything that can be refused is refused before the first step.

Not done here: taking it off again (:mod:`uninstall`), what the unit says (:mod:`unit`).
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
from wheeltapper_agent.host.systemd_unit import CONFIG_FILE, bus_groups, render_unit, render_watchdog
from wheeltapper_agent.host.uninstall import SERVICE, STATE_DIR, USER, EscapeError, Layout, is_state, systemctl

__all__ = [
    "Step",
    "apply",
    "choose_profile",
    "enrol_as_service_user",
    "finish",
    "plan",
    "program_path",
    "starting_config",
]

Outcome = Literal["made", "changed", "unchanged", "kept"]
_NOBODYS: Final = ("lost+found",)
_HOMES: Final = ("/home/", "/root/", "/run/user/")  # ProtectHome= hides them


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that must be there. ``content`` is the text of a file or the target of a link."""

    kind: Literal["user", "folder", "file", "link"]
    path: Path
    mode: int = 0o644
    content: str = ""
    keep: bool = False
    """What is there is left as it is."""
    owner: Literal["root", "service", "root:service"] = "root"


def choose_profile(name: str, root: Path = Path("/")) -> Profile:
    """The profile called ``name``; ``auto``: the one of the configuration that is there, else the one of this board.

    Raises:
        AgentError: ``config.profile``, ``install.unknown_board``.
    """
    if name != "auto":
        return load_profile(name)
    config = Layout(root).inside(CONFIG_FILE)
    if config.is_file():
        return load_profile(load_config(config).device.profile)
    if os.path.realpath(root) != "/":
        raise AgentError("install.unknown_board", "an image does not say which board it is for; give --profile")
    found = detect_board(read_device_tree(), machine_name())
    if found is None:
        known = ", ".join(profile_names())
        raise AgentError("install.unknown_board", f"this board is not known; give --profile, one of {known}")
    return load_profile(found)


def program_path(root: Path, given: str | None = None) -> str:
    """The program that the unit starts: what was given, the package's, or the one that runs now.

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
        raise AgentError("install.program", f"there is no {path} in {root}; give --program or install the package")
    if path.startswith(_HOMES):
        raise AgentError(
            "install.program", f"{path} is in a home folder, which a service does not see; use /opt or /usr"
        )
    return path


def starting_config(profile: Profile) -> str:
    """The configuration that a device begins with."""
    return f"""\
# Written once by wheeltapper-agent install; it is yours now. See docs/operations.md.
[device]
state_dir = "/var/lib/wheeltapper"
profile = "{profile.name}"

# A sensor stream. Without one the agent only reports that it is there.
# [[pipelines]]
# name = "main"
# source = {{ kind = "simulator", seed = 1 }}
"""


def plan(layout: Layout, profile: Profile, program: str, hardware_watchdog: bool = False) -> list[Step]:
    """Everything that must be there, in order.

    Raises:
        AgentError: ``install.root``, ``install.escapes``, ``install.device``, ``install.no_watchdog``,
        ``install.state_shared``.
    """
    if layout.entry("passwd", "root") is None:
        raise AgentError("install.root", f"{layout.root} holds no system: /etc/passwd with root is missing")
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
    """Refuse a state folder behind a link that others use: it becomes the service's, and closed to them."""
    path = layout.state_dir
    if not path.is_symlink():
        return
    target = layout.target(path)
    if not target.is_dir():
        raise AgentError("install.state_shared", f"{path} leads to {target}, which is no folder; make it first")
    others = sorted(child.name for child in target.iterdir() if not (is_state(child.name) or child.name in _NOBODYS))
    if others:
        raise AgentError(
            "install.state_shared",
            f"{path} leads to {target}, which holds {', '.join(others[:5])}; let it lead to a folder of its own",
        )


def _ids(layout: Layout, step: Step) -> tuple[int, int]:
    """Owner and group of what ``step`` makes."""
    entry = layout.entry("passwd", USER)
    user, group = (int(entry[2]), int(entry[3])) if entry is not None else (-1, -1)
    return {"root": (0, 0), "service": (user, group), "root:service": (0, group)}[step.owner]


def _as_wanted(layout: Layout, step: Step) -> bool:
    """Whether what ``step`` makes is there already, in every respect."""
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


def apply(layout: Layout, step: Step, dry_run: bool = False) -> Outcome:
    """Do ``step``; with ``dry_run`` only say what would be done.

    Raises:
        AgentError: ``install.user``, ``storage.*``.
    """
    there = step.path.is_symlink() or step.path.exists()
    try:
        if there and step.keep and step.kind != "user":
            return "kept"
        if _as_wanted(layout, step):
            return "unchanged"
        if not dry_run:
            _make(layout, step)
    except OSError as error:
        raise storage_error(error, f"{step.path} cannot be written") from error
    return "changed" if there and step.kind != "user" else "made"


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
    if shutil.which("useradd") is None:
        raise AgentError(
            "install.user", f"useradd is missing: install the package passwd, or make the user {USER} yourself"
        )
    group = ["--user-group"] if layout.entry("group", USER) is None else ["--gid", USER]
    options = ["--system", *group, "--no-create-home", "--home-dir", STATE_DIR]
    line = ["useradd", *prefix, *options, "--shell", "/usr/sbin/nologin", "--comment", "Wheeltapper agent", USER]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0 or layout.entry("passwd", USER) is None:
        raise AgentError("install.user", f"the user {USER} cannot be made: {done.stderr.strip()[:300]}")


def enrol_as_service_user(program: str, server: str, token: str) -> None:
    """Enrol this device as the user that will run the agent, so that the key is that user's from its first moment.

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
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AgentError("install.enrol", f"everything is in place, but the device could not be enrolled: {said[:500]}")


def finish(layout: Layout) -> bool:
    """Make the running systemd see the unit, and start it where the device is enrolled; True if it was started.

    Raises:
        AgentError: ``install.start``.
    """
    if not layout.live:
        return False
    seen = systemctl(layout, "daemon-reload")
    if not (layout.state_dir / "identity" / "fleet.json").is_file():
        return False
    if not (seen and systemctl(layout, "restart", SERVICE)):
        raise AgentError(
            "install.start",
            "everything is in place, but the service does not start: see systemctl status wheeltapper-agent, "
            "journalctl -u wheeltapper-agent and wheeltapper-agent doctor",
        )
    return True
