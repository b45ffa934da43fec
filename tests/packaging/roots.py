"""Bare Debian systems of several processors: made once by debootstrap, kept under ``build/roots``, unpacked for a test.

Foreign processors run through ``qemu-user-static``, registered with the kernel by hand (``binfmt_misc``); what was
registered here is taken back. Nothing of this works without root.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "build" / "roots"
SUITE = "bookworm"
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
# Magic and mask of ELF executables, elf(5): class, byte order, e_machine 183 (AArch64) and 40 (ARM).
_MASK32 = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_ZEROS = r"\x00" * 8
_FORMATS = {
    "arm64": ("aarch64", r"\x7fELF\x02\x01\x01\x00" + _ZEROS + r"\x02\x00\xb7\x00", _MASK32),
    "armhf": ("arm", r"\x7fELF\x01\x01\x01\x00" + _ZEROS + r"\x02\x00\x28\x00", _MASK32),
}


def need_tools(*tools: str) -> None:
    """Skip where this cannot run; in CI fail."""
    refuse = pytest.fail if os.environ.get("CI") else pytest.skip
    if os.geteuid() != 0:
        refuse("Debian roots need root")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        refuse(f"missing: {', '.join(missing)} (make test-all installs them)")


def checked(*line: str, **options: Any) -> str:
    """Run; what it printed, or a failure that shows it."""
    done = subprocess.run(line, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return str(done.stdout)


def mirror() -> str:
    """Where this machine's apt gets Debian from."""
    listed = checked("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages")
    found = [line.split()[0] for line in listed.splitlines() if line.split()[1:] == [SUITE]]
    if not found:
        pytest.fail(f"apt knows no source of Debian {SUITE}")
    return found[0]


@contextlib.contextmanager
def foreign(arch: str) -> Iterator[None]:
    """Programs of ``arch`` can be run while this lasts."""
    if arch not in _FORMATS:
        yield
        return
    cpu, magic, mask = _FORMATS[arch]
    entry = _BINFMT / f"qemu-{cpu}"
    if not (_BINFMT / "register").exists():
        checked("mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT))
    ours = not entry.exists()
    if ours:
        # F: the interpreter is opened now, so that it is found inside of a chroot.
        (_BINFMT / "register").write_text(f":qemu-{cpu}:M::{magic}:{mask}:/usr/bin/qemu-{cpu}-static:F")
    try:
        yield
    finally:
        if ours:
            entry.write_text("-1")


@dataclass
class DebianRoot:
    """A system below ``path``."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    def line(self, *command: str, user: str = "", offline: bool = False) -> list[str]:
        """The command line that runs ``command`` in there, perhaps without any network."""
        values = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/tmp", **self.environment}
        inside = ["chroot", *([f"--userspec={user}"] if user else []), str(self.path)]
        words = [f"{key}={value}" for key, value in values.items()]
        return [*(["unshare", "-n"] if offline else []), *inside, "/usr/bin/env", "-i", *words, *command]

    def run(self, *command: str, code: int = 0, **options: Any) -> str:
        """Run ``command`` in there to its end; what it printed on standard output."""
        done = subprocess.run(self.line(*command, **options), capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def files(self) -> set[str]:
        """Every path in there."""
        found = set()
        for folder, folders, names in os.walk(self.path):
            inside = os.path.relpath(folder, self.path)
            if inside == "proc":
                folders.clear()
                continue
            found |= {os.path.join(inside, name) for name in (*folders, *names)}
        return found


def _kept(arch: str, packages: tuple[str, ...]) -> Path:
    """The archive of a bare system with ``packages``, made if it is not there."""
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    archive = CACHE / f"{SUITE}-{arch}-{digest}.tar"
    if archive.exists():
        return archive
    folder = CACHE / f".{archive.stem}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    include = f"--include={','.join(packages)}"
    checked("debootstrap", f"--arch={arch}", "--variant=minbase", include, SUITE, str(folder), mirror(), timeout=3600)
    for leftover in (folder / "var/cache/apt/archives").glob("*.deb"):
        leftover.unlink()
    checked("tar", "-C", str(folder), "-cf", f"{archive}.tmp", ".")
    os.replace(f"{archive}.tmp", archive)
    shutil.rmtree(folder)
    return archive


@contextlib.contextmanager
def debian_root(arch: str, folder: Path, packages: tuple[str, ...]) -> Iterator[DebianRoot]:
    """A fresh system of ``arch`` with ``packages`` below ``folder``."""
    need_tools("debootstrap", "dpkg-deb", *([f"qemu-{_FORMATS[arch][0]}-static"] if arch in _FORMATS else []))
    with foreign(arch):
        archive = _kept(arch, packages)
        folder.mkdir(parents=True)
        checked("tar", "-C", str(folder), "-xf", str(archive))
        checked("mount", "-t", "proc", "proc", str(folder / "proc"))
        try:
            yield DebianRoot(folder)
        finally:
            checked("umount", "-l", str(folder / "proc"))
            shutil.rmtree(folder, ignore_errors=True)
