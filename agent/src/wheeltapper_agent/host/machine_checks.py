"""The checks of ``doctor`` on the machine itself: the board's profile, the clock, the disk."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.host.finding import AS_ROOT, FAIL, OK, WARN, Finding
from wheeltapper_agent.update.floors import FLOORS_FILE, Floors

__all__ = ["check_clock", "check_disk", "check_profile", "kernel_synchronised"]

_MIN_FREE_MB: Final = 64
_EARLIEST_SECONDS: Final = 1_767_225_600.0  # 2026-01-01: this program is newer
_LATEST_SECONDS: Final = 4_102_444_800.0  # 2100-01-01


def check_profile(profile: Profile, machine: str, ram_mb: float | None) -> list[Finding]:
    """Check that the board's profile is for this machine, and leaves memory to other programs.

    Args:
        profile: the one that the configuration names.
        machine: see :func:`wheeltapper_agent.host.boards.machine_name`.
        ram_mb: the machine's memory; None where it is not known.
    """
    findings = []
    if profile.arch and machine not in profile.arch:
        text = f"{profile.name} is for {', '.join(profile.arch)}, this machine is {machine}"
        advice = "set device.profile to one that `wheeltapper-agent profiles` shows for this machine"
        findings.append(Finding("profile.arch", FAIL, text, advice))
    else:
        findings.append(Finding("profile.arch", OK, f"{profile.name} on {machine}"))
    cap = profile.memory_cap_mb
    if ram_mb is None:
        findings.append(
            Finding(
                "profile.memory",
                WARN,
                "the machine does not say how much memory it has",
                "check that /proc is mounted",
            )
        )
    elif cap > ram_mb:
        text = f"the cap of {cap} MB exceeds the machine's {ram_mb:.0f} MB: it protects nothing"
        findings.append(Finding("profile.memory", FAIL, text, "choose the profile of a smaller board"))
    elif cap > 0.75 * ram_mb:
        text = f"the cap of {cap} MB leaves little of {ram_mb:.0f} MB to other programs"
        findings.append(Finding("profile.memory", WARN, text, "choose the profile of a smaller board"))
    else:
        findings.append(Finding("profile.memory", OK, f"at most {cap} of {ram_mb:.0f} MB"))
    return findings


def kernel_synchronised() -> bool | None:
    """Whether the kernel considers its clock synchronised (``adjtimex(2)``); None where it does not say."""
    timex = (ctypes.c_char * 512)()  # struct timex has 208 bytes or less; modes = 0 reads only
    try:
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != 5  # TIME_ERROR


def check_clock(state: Path, now_seconds: float, synchronised: bool | None) -> Finding:
    """Check that the clock can be right: certificates, signatures and records depend on it.

    Args:
        state: the state folder; it holds the newest time that the fleet has signed.
        now_seconds: Unix time.
        synchronised: see :func:`kernel_synchronised`.
    """
    newest = max(_newest_signed_seconds(path) for path in (state / FLOORS_FILE, state / "slots" / FLOORS_FILE))
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(now_seconds, 0.0), _LATEST_SECONDS)))
    advice = "set it and keep it synchronised: timedatectl set-ntp true, or chrony; check the clock's battery"
    if not _EARLIEST_SECONDS <= now_seconds < _LATEST_SECONDS:
        return Finding("clock", FAIL, f"it says {stamp}, which cannot be right", advice)
    if now_seconds < newest - 60.0:
        return Finding(
            "clock", FAIL, f"it says {stamp}, {_days(newest - now_seconds)} before what the fleet last signed", advice
        )
    if not synchronised:
        return Finding(
            "clock", WARN, f"it says {stamp}; nothing keeps it synchronised, as far as the kernel knows", advice
        )
    return Finding("clock", OK, f"{stamp}, synchronised")


def _newest_signed_seconds(path: Path) -> float:
    """The newest time that the fleet has signed, from one copy of the stored floors; 0 where it cannot be read.

    The file is only read here: the store would repair it, and leave it to root where root runs ``doctor``.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Floors).newest_time_seconds
    except (OSError, msgspec.DecodeError):
        return 0.0


def _days(seconds: float) -> str:
    return f"{seconds / 86400.0:.1f} days" if seconds >= 86400.0 else f"{math.ceil(seconds / 60.0)} minutes"


def check_disk(state: Path, wanted_mb: float) -> list[Finding]:
    """Check that the state folder can be written, and has the room that the profile grants.

    Args:
        state: the state folder.
        wanted_mb: how much spool and captures may take together.
    """
    try:
        if not state.is_dir():
            advice = (
                "run `wheeltapper-agent install --profile auto`, or make the folder and give it to the service's user"
            )
            return [Finding("disk", FAIL, f"{state} does not exist", advice)]
        facts = os.statvfs(state)
        if facts.f_flag & os.ST_RDONLY:
            advice = "mount it writable; if it became read-only by errors, check it (dmesg, fsck) and replace it"
            return [Finding("disk", FAIL, f"{state} is on a read-only file system", advice)]
        # The folder belongs to the service's user, who may have placed links in it: mkstemp opens only a new file.
        handle, probe = tempfile.mkstemp(prefix=".doctor.", dir=state)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        finally:
            Path(probe).unlink(missing_ok=True)
        free_mb = shutil.disk_usage(state).free / 1e6
    except OSError as error:
        advice = "free space" if error.errno == errno.ENOSPC else f"{AS_ROOT}; or give the folder to the service's user"
        return [Finding("disk", FAIL, f"{state} cannot be written: {error.strerror}", advice)]
    if free_mb < _MIN_FREE_MB:
        return [
            Finding(
                "disk",
                FAIL,
                f"{free_mb:.0f} MB are free, less than {_MIN_FREE_MB}",
                "free space: releases and records need it",
            )
        ]
    if free_mb < wanted_mb:
        text = f"{free_mb:.0f} MB are free; spool and captures may take {wanted_mb:.0f}"
        return [Finding("disk", WARN, text, "free space, or choose a profile with a smaller spool")]
    return [Finding("disk", OK, f"{free_mb:.0f} MB are free")]
