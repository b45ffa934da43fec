"""``wheeltapper-agent doctor``: what is wrong with this device, and what to do about it.

Each check tries the real thing: it imports the runtime in a process of its own, writes a file, opens a connection with
the device's certificate. A check that cannot be made fails and says why; it does not stop the others.

Verdicts: ``ok``; ``warn``: it works, but not as it should; ``FAIL``: it does not work.

Example:
    >>> from pathlib import Path
    >>> from wheeltapper_agent.host.doctor import FAIL, examine
    >>> failed = [finding.check for finding in examine(Path("/etc/wheeltapper/agent.toml")) if finding.verdict == FAIL]
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from wheeltapper_agent.config import AgentConfig, load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile, load_profile
from wheeltapper_agent.host.boards import machine_name, memory_mb
from wheeltapper_agent.host.connection_checks import CheckResult, check_broker, check_certificate, check_https
from wheeltapper_agent.host.local_socket import SOCKET_FILE, ask
from wheeltapper_agent.link.identity import Identity, load_identity
from wheeltapper_agent.update.floors import FLOORS_FILE, Floors

__all__ = ["FAIL", "OK", "WARN", "Finding", "check_clock", "check_disk", "check_profile", "check_runtimes", "examine"]

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "FAIL"
_MIN_FREE_MB: Final = 64
_PROBE_SECONDS: Final = 120.0  # an import may come from a slow SD card, or run under emulation
_AS_ROOT: Final = "run doctor as root or as the service's user: sudo wheeltapper-agent doctor"
_EARLIEST_SECONDS: Final = 1_767_225_600.0  # 2026-01-01: this program is newer
_LATEST_SECONDS: Final = 4_102_444_800.0  # 2100-01-01
_MODULES: Final = {
    "onnxruntime": "onnxruntime",
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}
_RUNTIMES_BY_FORMAT: Final = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime")}
_EXTRAS: Final = {"onnxruntime": "onnx", "ai-edge-litert": "litert", "tflite-runtime": "tflite"}
_PROBE: Final = (
    "import importlib, json, sys\n"
    "module = importlib.import_module(sys.argv[1])\n"
    "providers = getattr(module, 'get_available_providers', lambda: ['XNNPACK'])()\n"
    "print(json.dumps(list(providers)))\n"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do; ``advice`` is empty where nothing needs to be done."""

    check: str
    verdict: str
    found: str
    advice: str = ""


def examine(config_file: Path) -> list[Finding]:
    """Make all checks, in the order in which a person would mend what fails.

    Without a readable configuration nothing else can be checked; without an identity no connection can.

    Args:
        config_file: the agent's configuration.
    """
    try:
        config = load_config(config_file)
        profile = load_profile(config.device.profile)
    except AgentError as error:
        advice = f"correct {config_file}; wheeltapper-agent install writes one where there is none"
        advice = _AS_ROOT if isinstance(error.__cause__, PermissionError) else advice
        return [Finding("configuration", FAIL, f"{error.message} [{error.code}]", advice)]
    state = config.device.state_dir
    findings = [_configuration(config), *check_profile(profile, machine_name(), memory_mb()), *check_runtimes(profile)]
    findings.append(check_clock(state, time.time(), kernel_synchronised()))
    findings += check_disk(state, profile.spool_max_mb + profile.capture_max_mb)
    try:
        identity = load_identity(state)
    except AgentError as error:
        advice = "enrol: wheeltapper-agent enroll --server … --config …"
        advice = _AS_ROOT if error.code == "enrol.denied" else advice
        findings.append(Finding("certificate", FAIL, error.message, advice))
        return findings
    findings += _connections(state, identity)
    findings.append(_agent(state))
    return findings


def _connections(state: Path, identity: Identity) -> list[Finding]:
    """Check certificate, HTTPS and broker."""
    checks: tuple[tuple[str, Callable[[], CheckResult]], ...] = (
        ("certificate", lambda: check_certificate(identity, state, time.time())),
        ("network.https", lambda: check_https(identity)),
        ("network.broker", lambda: check_broker(identity)),
    )
    findings = []
    for name, check in checks:
        try:
            verdict, found, advice = check()
        except (AgentError, OSError, ValueError) as error:
            verdict, found, advice = FAIL, str(error)[:300], f"the check itself failed; {_AS_ROOT}"
        findings.append(Finding(name, verdict, found, advice))
    return findings


def _configuration(config: AgentConfig) -> Finding:
    if not config.pipelines:
        advice = "add a table [[pipelines]] with a source, see docs/operations.md"
        return Finding("configuration", WARN, "it is valid, but it names no pipeline", advice)
    return Finding(
        "configuration",
        OK,
        f"{len(config.pipelines)} pipeline(s): {', '.join(entry.name for entry in config.pipelines)}",
    )


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
        advice = "set device.profile to one that wheeltapper-agent profiles shows for this machine"
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


def _probe(runtime: str) -> tuple[list[str] | None, str]:
    """Import a runtime in a child process, since a broken native library may crash the process that loads it.

    Returns:
        The execution providers that it offers and an empty text; or None and why it cannot be imported.
    """
    line = [sys.executable, "-c", _PROBE, _MODULES[runtime]]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"importing it took longer than {_PROBE_SECONDS:.0f} s"
    if done.returncode == 0:
        try:
            return [str(name) for name in json.loads(done.stdout.strip().splitlines()[-1])], ""
        except (ValueError, IndexError):
            return None, "its list of providers cannot be read"
    if done.returncode < 0:
        return None, f"importing it ended with signal {-done.returncode}: not built for this processor?"
    return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]


def check_runtimes(profile: Profile) -> list[Finding]:
    """Check, for each format of models, which runtime of the profile would run them and with which provider."""
    findings = []
    for model_format, known in _RUNTIMES_BY_FORMAT.items():
        wished = [runtime for runtime in profile.runtimes if runtime in known]
        if wished:
            findings.append(_runtime(profile, model_format, wished))
    if not any(finding.verdict == OK or finding.found.startswith("uses ") for finding in findings):
        text = f"none of {', '.join(profile.runtimes) or 'nothing'} can be imported, so no model can run"
        advice = f"install one: wheeltapper-agent[{_EXTRAS[profile.runtimes[0]]}]" if profile.runtimes else ""
        findings.append(Finding("runtime", FAIL, text, advice or "add a runtime to the profile: it names none"))
    return findings


def _runtime(profile: Profile, model_format: str, wished: list[str]) -> Finding:
    """The finding on the first of the ``wished`` runtimes that can be imported."""
    failures = []
    for runtime in wished:
        providers, why = _probe(runtime)
        if providers is None:
            failures.append(f"{runtime}: {why}")
            continue
        verdict, found, advice = _provider(profile, runtime, providers)
        if failures:
            verdict, found = WARN, f"{found}; not {'; '.join(failures)}"
            advice = advice or f"install what the profile prefers: wheeltapper-agent[{_EXTRAS[wished[0]]}]"
        return Finding(f"runtime.{model_format}", verdict, found, advice)
    advice = f"needed only for such models: install wheeltapper-agent[{_EXTRAS[wished[0]]}]"
    return Finding(f"runtime.{model_format}", WARN, f"no {model_format} model can run: {'; '.join(failures)}", advice)


def _provider(profile: Profile, runtime: str, available: list[str]) -> CheckResult:
    """The provider that the runtime would use, and advice where it is not the one that the profile prefers."""
    onnx = runtime == "onnxruntime"
    wished = [name for name in profile.providers if name.endswith("ExecutionProvider") == onnx]
    if not onnx:
        available = available + [name for name in wished if name.startswith("delegate:") and Path(name[9:]).is_file()]
    used = next((name for name in wished if name in available), None)
    if used is None:
        used = "CPUExecutionProvider" if onnx else "XNNPACK"
        named = ", ".join(wished) or "no provider of it"
        return WARN, f"uses {used} of {runtime}; the profile names {named}", "correct the profile's providers"
    if used != wished[0]:
        advice = f"install the build of {runtime} that the board's maker offers" if onnx else f"install {wished[0][9:]}"
        return WARN, f"uses {used} of {runtime}; {wished[0]} is not there", advice
    return OK, f"uses {used} of {runtime}", ""


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
            advice = "run wheeltapper-agent install, or make the folder and give it to the service's user"
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
        advice = "free space" if error.errno == 28 else f"{_AS_ROOT}; or give the folder to the service's user"
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


def _agent(state: Path) -> Finding:
    """Check that the agent runs, and that it reports no trouble itself."""
    try:
        body = ask(state / SOCKET_FILE, {"ask": "status"})
    except AgentError as error:
        return Finding(
            "agent", WARN, error.message, "systemctl status wheeltapper-agent; journalctl -u wheeltapper-agent"
        )
    troubles = body.get("troubles") or []
    if troubles:
        return Finding("agent", FAIL, "; ".join(str(one) for one in troubles), "journalctl -u wheeltapper-agent")
    return Finding(
        "agent", OK, "it runs, connected" if body.get("connected") else "it runs, not connected to the broker"
    )
