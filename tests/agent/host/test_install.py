"""Installing into a file tree and removing again: twice, as a dry run, with hostile links."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wheeltapper_agent import service
from wheeltapper_agent.cli import app
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile, load_profile, profile_names
from wheeltapper_agent.ground.state_lock import LOCK_FILE
from wheeltapper_agent.host import uninstall as uninstall_steps
from wheeltapper_agent.host.boards import detect_board
from wheeltapper_agent.host.install import choose_profile, program_path
from wheeltapper_agent.host.local_socket import SOCKET_FILE
from wheeltapper_agent.host.starting_config import starting_config
from wheeltapper_agent.host.status import STATUS_FILE
from wheeltapper_agent.host.systemd_unit import bus_groups, render_unit, render_watchdog
from wheeltapper_agent.host.uninstall import Layout, is_state
from wheeltapper_agent.records.spool import SPOOL_FILE
from wheeltapper_agent.update.floors import FLOORS_FILE

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="installing needs root")
PASSWD = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
EXPOSURE_AT_MOST = 2.0
"""Exposure according to systemd-analyze security, 0 to 10; it calls a service OK below 3."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small system: users, groups, a program."""
    made = tmp_path / "root"
    for folder in ("etc/systemd/system", "usr/bin", "var/lib"):
        (made / folder).mkdir(parents=True)
    (made / "etc/passwd").write_text(PASSWD)
    (made / "etc/shadow").write_text("root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n")
    (made / "etc/group").write_text("root:x:0:\ndaemon:x:1:\ndialout:x:20:\ni2c:x:998:\n")
    (made / "etc/gshadow").write_text("root:*::\ndaemon:*::\ndialout:*::\ni2c:!::\n")
    (made / "usr/bin/wheeltapper-agent").write_text("#!/bin/sh\n")
    return made


def _run(*arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*arguments])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if "--json" in arguments and code == 0 else done.output


def _tree(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything below ``root``: mode, owner, group, content or target."""
    found = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (facts.st_mode, facts.st_uid, facts.st_gid, content)
    return found


def _install(root: Path, *more: str, profile: str = "raspberry-pi-4") -> Any:
    return _run("install", "--profile", profile, "--root", str(root), "--json", *more)


@as_root
def test_install_makes_everything_and_twice_changes_nothing(root: Path) -> None:
    done = _install(root)
    assert {step["outcome"] for step in done["steps"]} == {"made", "kept"}
    passwd = (root / "etc/passwd").read_text()
    user, group = re.search(
        r"^wheeltapper:x:(\d+):(\d+):[^:]*:/var/lib/wheeltapper:/usr/sbin/nologin$", passwd, re.M
    ).groups()  # type: ignore[union-attr]  # the assertion is that it matches
    modes = {
        "etc/wheeltapper": (0o750, 0, int(group)),
        "etc/wheeltapper/agent.toml": (0o640, 0, int(group)),
        "var/lib/wheeltapper": (0o750, int(user), int(group)),
        "etc/systemd/system/wheeltapper-agent.service": (0o644, 0, 0),
    }
    for path, expected in modes.items():
        facts = (root / path).stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid) == expected, path
    config = load_config(root / "etc/wheeltapper/agent.toml")
    assert config.device.profile == "raspberry-pi-4"
    unit = (root / "etc/systemd/system/wheeltapper-agent.service").read_text()
    assert "SupplementaryGroups=dialout i2c\n" in unit  # spi is not a group of this system
    wanted = root / "etc/systemd/system/multi-user.target.wants/wheeltapper-agent.service"
    assert os.readlink(wanted) == "/etc/systemd/system/wheeltapper-agent.service"
    before = _tree(root)
    again = _install(root)
    assert {step["outcome"] for step in again["steps"]} == {"unchanged", "kept"}
    assert _tree(root) == before


@as_root
def test_an_existing_configuration_is_kept_and_the_rest_is_repaired(root: Path) -> None:
    _install(root)
    config = root / "etc/wheeltapper/agent.toml"
    config.write_text('[device]\nstate_dir = "/data"\nprofile = "revpi-connect"\n')
    unit = root / "etc/systemd/system/wheeltapper-agent.service"
    good = unit.read_text()
    unit.write_text("[Service]\nUser=root\n")
    (root / "var/lib/wheeltapper").chmod(0o777)
    text = _run("install", "--profile", "raspberry-pi-4", "--root", str(root))
    assert unit.read_text() == good
    assert stat.S_IMODE((root / "var/lib/wheeltapper").stat().st_mode) == 0o750
    assert "revpi-connect" in config.read_text()
    assert "names the profile revpi-connect" in text


@as_root
def test_auto_takes_the_profile_of_an_existing_configuration(root: Path) -> None:
    _install(root)
    config = root / "etc/wheeltapper/agent.toml"
    config.write_text(config.read_text().replace("raspberry-pi-4", "revpi-connect"))
    assert _install(root, profile="auto")["profile"] == "revpi-connect"


@as_root
def test_uninstall_leaves_nothing(root: Path) -> None:
    before = _tree(root)
    _install(root, "--hardware-watchdog")
    state = root / "var/lib/wheeltapper"
    (state / "identity").mkdir()
    (state / "identity/device.key").write_text("key")
    _run("uninstall", "--root", str(root), "--yes")
    after = _tree(root)
    backups = {"etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-"}  # of useradd and userdel
    locks = {"etc/.pwd.lock"}
    assert set(after) - backups - locks == set(before)
    for path in ("etc/passwd", "etc/group", "etc/shadow"):
        assert after[path][3] == before[path][3]
    assert "nothing to remove" in _run("uninstall", "--root", str(root), "--yes")


@as_root
def test_uninstall_can_keep_the_identity_and_its_owner(root: Path) -> None:
    _install(root)
    (root / "var/lib/wheeltapper/marks.json").write_text("{}")
    _run("uninstall", "--root", str(root), "--yes", "--keep-state")
    assert (root / "var/lib/wheeltapper/marks.json").exists()
    assert "wheeltapper:x:" in (root / "etc/passwd").read_text()
    assert not (root / "etc/wheeltapper").exists()
    assert not (root / "etc/systemd/system/wheeltapper-agent.service").exists()
    assert {step["outcome"] for step in _install(root)["steps"]} == {"made", "unchanged", "kept"}


@as_root
def test_uninstall_asks(root: Path) -> None:
    _install(root)
    before = _tree(root)
    assert "uninstall.unconfirmed" in _run("uninstall", "--root", str(root), code=2)
    assert _tree(root) == before


def test_a_dry_run_shows_and_changes_nothing(root: Path) -> None:
    before = _tree(root)
    text = _run("install", "--profile", "raspberry-pi-4", "--root", str(root), "--dry-run", "--hardware-watchdog")
    assert "would be made: " in text
    assert "ProtectSystem=strict" in text
    assert "RuntimeWatchdogSec=14" in text
    assert _tree(root) == before


@as_root
@pytest.mark.parametrize("place", ["etc/wheeltapper", "etc/systemd/system", "var/lib"])
@pytest.mark.parametrize("absolute", [True, False])
def test_links_do_not_lead_out_of_an_image(root: Path, tmp_path: Path, place: str, absolute: bool) -> None:
    """An image's /var -> /data is the image's /data, never the host's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = root / place
    if victim.exists():
        victim.rmdir()
    target = str(outside) if absolute else os.path.relpath(outside, victim.parent)
    victim.symlink_to(target)
    _run("install", "--profile", "raspberry-pi-4", "--root", str(root), code=2)
    assert list(outside.iterdir()) == []
    (outside / "precious").write_text("x")
    CliRunner().invoke(app, ["uninstall", "--root", str(root), "--yes"])
    assert (outside / "precious").exists()


@as_root
def test_a_state_folder_elsewhere_in_the_image(root: Path) -> None:
    (root / "data/wheeltapper").mkdir(parents=True)
    (root / "var/lib/wheeltapper").symlink_to("../../data/wheeltapper")
    _install(root)
    (root / "data/wheeltapper/spool.sqlite").write_text("x")
    _run("uninstall", "--root", str(root), "--yes")
    assert not (root / "data/wheeltapper").exists()
    assert not (root / "var/lib/wheeltapper").is_symlink()


def _state(folder: Path) -> None:
    """Make what the agent keeps in its state folder."""
    for name in ("identity", "slots", "captures", "tuf", "blobs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x").write_text("x")
    for name in (
        "spool.sqlite",
        "spool.sqlite-wal",
        "status.json",
        "marks.json",
        "journal.json",
        "simulator-main.json",
    ):
        (folder / name).write_text("x")


@as_root
def test_a_state_folder_never_leads_out_of_an_image(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o755)
    (root / "var/lib/wheeltapper").symlink_to(outside)
    before = _tree(root)
    said = _run("install", "--profile", "raspberry-pi-4", "--root", str(root), code=2)
    assert "install.escapes" in said
    assert _tree(root) == before
    assert (outside.stat().st_uid, stat.S_IMODE(outside.stat().st_mode)) == (0, 0o755)


@as_root
def test_a_state_folder_that_others_use_is_refused_and_their_files_stay(root: Path) -> None:
    shared = root / "srv/data"
    shared.mkdir(parents=True)
    (shared / "customer.db").write_text("precious")
    (root / "var/lib/wheeltapper").symlink_to("../../srv/data")
    before = _tree(root)
    said = _run("install", "--profile", "raspberry-pi-4", "--root", str(root), code=2)
    assert "install.state_shared" in said
    assert "customer.db" in said
    assert _tree(root) == before
    (shared / "customer.db").unlink()
    shared.rmdir()
    assert "make it first" in _run("install", "--profile", "raspberry-pi-4", "--root", str(root), code=2)
    shared.mkdir()
    _install(root)
    owner = shared.stat().st_uid
    assert owner != 0
    _state(shared)
    (shared / "customer.db").write_text("precious")  # put there later
    said = _run("uninstall", "--root", str(root), "--yes")
    assert [path.name for path in shared.iterdir()] == ["customer.db"]
    assert shared.stat().st_uid == 0
    assert "customer.db" in said
    assert not (root / "var/lib/wheeltapper").is_symlink()
    assert "wheeltapper" not in (root / "etc/passwd").read_text()


@as_root
def test_a_state_folder_that_is_mounted_is_emptied(root: Path) -> None:
    state = root / "var/lib/wheeltapper"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(state)], check=True)
    try:
        (state / "lost+found").mkdir()
        _install(root)
        _state(state)
        said = _run("uninstall", "--root", str(root), "--yes")
        assert [path.name for path in state.iterdir()] == ["lost+found"]
        assert state.stat().st_uid == 0
        assert "nothing to remove" in _run("uninstall", "--root", str(root), "--yes")
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert "mounted" in said
    assert "wheeltapper" not in (root / "etc/passwd").read_text()
    assert "wheeltapper" not in (root / "etc/group").read_text()


@as_root
def test_a_group_that_is_there_without_its_user(root: Path) -> None:
    group = "wheeltapper:x:777:\n"
    before = (root / "etc/group").read_text()
    (root / "etc/group").write_text(before + group)
    _install(root)
    assert (root / "var/lib/wheeltapper").stat().st_gid == 777
    _run("uninstall", "--root", str(root), "--yes")
    assert (root / "etc/group").read_text() == before
    (root / "etc/group").write_text(before + group)
    assert "removed the group wheeltapper" in _run("uninstall", "--root", str(root), "--yes")
    assert (root / "etc/group").read_text() == before


@as_root
def test_drop_ins_are_removed_with_the_configuration(root: Path) -> None:
    _install(root)
    drop_in = root / "etc/systemd/system/wheeltapper-agent.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n")
    _run("uninstall", "--root", str(root), "--yes", "--keep-config")
    assert drop_in.exists()
    _run("uninstall", "--root", str(root), "--yes")
    assert not drop_in.parent.exists()


@as_root
@pytest.mark.parametrize("place", ["/data", "/data/wt"])
def test_the_state_folder_that_the_configuration_names_is_followed(root: Path, place: str) -> None:
    _install(root)
    config, state = root / "etc/wheeltapper/agent.toml", root / place[1:]
    config.write_text(f'[device]\nstate_dir = "{place}"\nprofile = "raspberry-pi-4"\n')
    assert f"names the state folder {place}" in _run("install", "--profile", "auto", "--root", str(root))
    _state(state)
    (state / "photos").mkdir()
    _run("uninstall", "--root", str(root), "--yes", "--keep-state", "--keep-config")
    assert (state / "identity/x").exists()
    said = _run("uninstall", "--root", str(root), "--yes")
    assert [path.name for path in state.iterdir()] == ["photos"]
    assert "photos" in said
    assert not config.exists()


@as_root
@pytest.mark.parametrize("text", ["[device]\nstate_dir = 3\n", "= 1", '[device]\nstate_dir = "/link/x"\n', "\xff"])
def test_uninstall_goes_on_with_an_unusable_configuration(root: Path, tmp_path: Path, text: str) -> None:
    _install(root)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/spool.sqlite").write_text("of the host")
    (root / "link").symlink_to(tmp_path)
    (root / "etc/wheeltapper/agent.toml").write_bytes(text.encode("latin-1"))
    assert "left" in _run("uninstall", "--root", str(root), "--yes")
    assert (tmp_path / "x/spool.sqlite").exists()
    assert not (root / "etc/wheeltapper").exists()
    assert "wheeltapper" not in (root / "etc/passwd").read_text()


def test_every_name_in_the_state_folder_is_known() -> None:
    """Every file that the agent writes there is removed by uninstall; other names are not."""
    for name in (SPOOL_FILE, STATUS_FILE, LOCK_FILE, FLOORS_FILE, SOCKET_FILE, f".{FLOORS_FILE}.tmp"):
        assert is_state(name)
    source = Path(service.__file__).read_text(encoding="utf-8")
    named = re.findall(r'state(?:_dir)? / "([^"]+)"', source)
    assert len(named) >= 6
    assert [name for name in named if not is_state(name)] == []
    assert not any(is_state(name) for name in ("customer.db", "spool", ".bashrc", ".customer.tmp", "lost+found"))


def test_a_service_that_does_not_start_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wheeltapper_agent.host import install as steps

    (root / "var/lib/wheeltapper/identity").mkdir(parents=True)
    (root / "var/lib/wheeltapper/identity/fleet.json").write_text("{}")
    monkeypatch.setattr(Layout, "live", True)
    asked: list[str] = []

    def systemctl(_: Layout, verb: str, *__: str) -> bool:
        asked.append(verb)
        return verb != "restart"

    monkeypatch.setattr(steps, "systemctl", systemctl)
    with pytest.raises(AgentError, match="does not start") as caught:
        steps.finish(Layout(root))
    assert caught.value.code == "install.start"
    assert asked == ["daemon-reload", "restart"]
    monkeypatch.setattr(steps, "systemctl", lambda *_: True)
    assert steps.finish(Layout(root)) is True


@as_root
def test_what_cannot_be_done_is_refused_before_anything_is_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _tree(root)
    there = ("--root", str(root))

    def refused(*arguments: str) -> str:
        text: str = _run("install", *arguments, code=2)
        assert _tree(root) == before
        return text

    assert "config.profile" in refused("--profile", "cray-1", *there)
    assert "install.unknown_board" in refused("--profile", "auto", *there)
    assert "install.program" in refused("--profile", "raspberry-pi-4", *there, "--program", "/nowhere/agent")
    assert "install.enrol" in refused("--profile", "raspberry-pi-4", *there, "--server", "https://fleet:8443")
    program = "/" + "home/me/agent"
    (root / program[1:]).parent.mkdir(parents=True)
    (root / program[1:]).write_text("")
    before = _tree(root)
    assert "home folder" in refused("--profile", "raspberry-pi-4", *there, "--program", program)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "install.not_root" in refused("--profile", "raspberry-pi-4", *there)
    assert "install.not_root" in _run("uninstall", *there, "--yes", code=2)
    monkeypatch.undo()
    (root / "etc/passwd").unlink()
    before = _tree(root)
    assert "install.root" in refused("--profile", "raspberry-pi-4", *there, "--dry-run")


def test_a_token_is_checked_before_anything_is_done(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wt1.nonsense")
    asked = ("--server", "https://fleet:8443", "--token-file", str(token), "--dry-run")
    text = _run("install", "--profile", "x86-gateway", *asked, code=2)
    assert "enrol.token" in text


@as_root
def test_the_key_belongs_to_the_services_user(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is started as the service's user, without root's groups or environment."""
    from wheeltapper_agent.host import install as steps

    seen: dict[str, Any] = {}

    def run(line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.update(options, line=line)
        return subprocess.CompletedProcess(line, 2, "", "error: no such token [enrol.refused]\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(AgentError, match=r"enrol\.refused") as refused:
        steps.enrol_as_service_user("/usr/bin/wheeltapper-agent", "https://fleet:8443", "secret")
    assert refused.value.code == "install.enrol"
    assert (seen["user"], seen["group"], seen["extra_groups"]) == ("wheeltapper", "wheeltapper", [])
    assert "secret" not in " ".join(seen["line"])
    assert set(seen["env"]) == {"PATH", "WHEELTAPPER_TOKEN"}


def test_useradd_is_found_without_sbin_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian gives /usr/sbin to root only."""
    from wheeltapper_agent.host import install as steps

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert Path(steps._useradd()).name == "useradd"


@pytest.mark.parametrize("name", profile_names())
def test_the_unit_of_every_board_is_valid_and_confined(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    profile = load_profile(name)
    unit = tmp_path / "wheeltapper-agent.service"
    unit.write_text(render_unit(profile, shutil.which("true") or "/bin/true"))
    verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr
    ours = [line for line in verified.stderr.splitlines() if "wheeltapper" in line]
    assert ours == []
    line = [analyze, "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(line, capture_output=True, text=True, check=False).stdout
    score = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said).group(1))  # type: ignore[union-attr]  # as above
    assert score <= EXPOSURE_AT_MOST, said


def test_the_exposure_score_tells_a_confined_unit_from_an_open_one(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    unit = tmp_path / "wheeltapper-agent.service"
    text = render_unit(load_profile("raspberry-pi-4"), "/bin/true")
    unit.write_text(
        "\n".join(line for line in text.splitlines() if not re.match(r"Protect|Capab|SystemCall|User", line))
    )
    said = subprocess.run(
        [analyze, "security", "--offline=true", str(unit)], capture_output=True, text=True, check=False
    )
    score = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout).group(1))  # type: ignore[union-attr]
    assert score > EXPOSURE_AT_MOST
    unit.write_text(text.replace("Type=notify", "Type=notifi"))
    verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "notifi" in verified.stderr


def test_the_unit_grants_what_the_profile_names() -> None:
    jetson = render_unit(load_profile("jetson-orin-nano"), "/usr/bin/wheeltapper-agent", ("dialout", "video"))
    assert "DeviceAllow=/dev/nvmap rw\n" in jetson
    assert "MemoryMax=2048M\n" in jetson
    assert "CPUQuota=200%\n" in jetson
    assert "MemoryDenyWriteExecute" not in jetson
    assert "AF_CAN" in jetson
    assert bus_groups(load_profile("jetson-orin-nano")) == ("dialout", "i2c", "render", "spi", "video")
    bare = render_unit(Profile(name="bare"), "/usr/bin/wheeltapper-agent")
    assert "PrivateDevices=yes\n" in bare
    assert "AF_CAN" not in bare
    assert "DeviceAllow" not in bare
    assert "MemoryDenyWriteExecute=yes\n" in bare
    assert "WatchdogDevice=/dev/watchdog0\n" in render_watchdog(load_profile("raspberry-pi-5"))


@pytest.mark.parametrize(
    "profile",
    [
        Profile(name="a", buses=("/dev/i2c-1 rw\nUser=root",)),
        Profile(name="a", buses=("/dev/../etc/shadow",)),
        Profile(name="a", buses=("/dev/i2c-1\n",)),
        Profile(name="a", accelerator_devices=("nvmap",)),
    ],
)
def test_a_profile_cannot_write_lines_into_the_unit(profile: Profile) -> None:
    with pytest.raises(AgentError) as refused:
        render_unit(profile, "/usr/bin/wheeltapper-agent")
    assert refused.value.code == "install.device"


@pytest.mark.parametrize("program", ["relative", "/a b", "/a\nUser=root", "/a;b", "/a%h", '/a"'])
def test_a_program_cannot_write_lines_into_the_unit(program: str) -> None:
    with pytest.raises(AgentError) as refused:
        render_unit(Profile(name="a"), program)
    assert refused.value.code == "install.program"


@pytest.mark.parametrize("name", profile_names())
def test_the_first_configuration_can_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(starting_config(load_profile(name)))
    assert load_config(tmp_path / "agent.toml").device.profile == name


@pytest.mark.parametrize(
    ("tree", "machine", "profile"),
    [
        ("raspberry pi 5 model b rev 1.0 raspberrypi,5-model-b brcm,bcm2712", "aarch64", "raspberry-pi-5"),
        ("raspberry pi 4 model b rev 1.4 raspberrypi,4-model-b brcm,bcm2711", "aarch64", "raspberry-pi-4"),
        ("raspberry pi 4 model b rev 1.4 raspberrypi,4-model-b brcm,bcm2711", "armv7l", "raspberry-pi-3"),
        ("raspberry pi 3 model b plus rev 1.3 raspberrypi,3-model-b-plus", "armv7l", "raspberry-pi-3"),
        ("raspberry pi 3 model b plus rev 1.3 raspberrypi,3-model-b-plus", "aarch64", None),
        ("raspberry pi compute module 4 rev 1.0 kunbus,revpi-connect4 brcm,bcm2711", "aarch64", "revpi-connect"),
        ("nvidia jetson orin nano developer kit nvidia,p3768-0000+p3767-0005", "aarch64", "jetson-orin-nano"),
        ("nxp i.mx8mplus evk board fsl,imx8mp-evk fsl,imx8mp", "aarch64", "imx8m-plus"),
        ("beagleboard.org beaglebone ai-64 beagleboard,j721e-beagleboneai64", "aarch64", "beaglebone-ai-64"),
        ("", "x86_64", "x86-gateway"),
        ("", "aarch64", None),
        ("", "riscv64", None),
    ],
)
def test_boards_are_recognised(tree: str, machine: str, profile: str | None) -> None:
    assert detect_board(tree, machine) == profile


def test_the_profile_of_this_machine() -> None:
    if os.uname().machine == "x86_64":
        assert choose_profile("auto").name == "x86-gateway"


def test_the_program_of_an_image_is_the_packages(root: Path) -> None:
    assert program_path(root) == "/usr/bin/wheeltapper-agent"
    (root / "usr/bin/wheeltapper-agent").unlink()
    with pytest.raises(AgentError):
        program_path(root)


def test_profiles_lists_the_boards() -> None:
    boards = _run("profiles", "--json")
    assert [board["name"] for board in boards] == profile_names()
    assert "raspberry-pi-3     armv7l     192 MB" in _run("profiles")


def test_uninstall_stands_alone() -> None:
    """The package's postrm has a copy of it, which runs when the agent's other files are gone."""
    source = Path(uninstall_steps.__file__)
    done = subprocess.run(
        ["python3", "-I", "-S", str(source)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stderr) == (0, "")


@as_root
def test_a_relative_root_is_the_same_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    here = ("install", "--profile", "raspberry-pi-4", "--root", root.name, "--json")
    planned = _run(*here, "--dry-run")
    done = _run(*here)
    assert [step["path"] for step in done["steps"]] == [step["path"] for step in planned["steps"]]
    assert all(step["path"].startswith(f"{root}/") for step in done["steps"])
    assert "wheeltapper:x:" in (root / "etc/passwd").read_text()
    assert _run("uninstall", "--root", root.name, "--yes", "--json")["done"]
    assert not (root / "etc/wheeltapper").exists()


@as_root
def test_a_dry_run_refuses_what_the_real_run_would(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _, **__: None)
    for more in ((), ("--dry-run",)):
        text = _run("install", "--profile", "raspberry-pi-4", "--root", str(root), *more, code=2)
        assert "[install.user]" in text


@as_root
def test_another_profile_than_the_configuration_s_is_told_in_json_too(root: Path) -> None:
    assert _install(root)["notes"] == []
    (note,) = _install(root, profile="revpi-connect")["notes"]
    assert "names the profile raspberry-pi-4 and stays" in note
    assert 'profile = "revpi-connect"' in note
