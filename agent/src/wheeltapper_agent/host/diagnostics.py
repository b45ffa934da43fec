"""The diagnostics bundle: what helps to understand a device from afar, without its secrets.

It holds the findings of the doctor's checks that need no other program, the status, the attributes, the configuration
with secrets removed, and the newest lines of the agent's log. It is JSON, compressed, and fits into one report; what is
too long loses its oldest log lines, and says how many.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from wheeltapper_agent.config import AgentConfig
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.host.boards import machine_name, memory_mb
from wheeltapper_agent.host.finding import FAIL, Finding
from wheeltapper_agent.host.machine_checks import check_clock, check_disk, check_profile, kernel_synchronised
from wheeltapper_agent.host.runtime_checks import check_runtimes
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.commands import MAX_BUNDLE_BYTES

__all__ = ["REMOVED", "diagnostics", "redacted"]

REMOVED: Final = "(removed)"
_SECRET_KEY: Final = re.compile(r"pass|secret|token|credential|key|user|auth", re.IGNORECASE)
_SECRET_IN_URL: Final = re.compile(r"(://)[^/@\s\"']+@")
_SECRET_IN_TEXT: Final = re.compile(
    r"(?i)((?:password|passwd|secret|token|credential)s?\"?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|\S+)"
)


def diagnostics(
    config: AgentConfig,
    profile: Profile,
    status: Callable[[], Mapping[str, Any]],
    attributes: Mapping[str, str],
    log: list[str],
) -> bytes:
    """Make the bundle: zlib-compressed JSON of at most :data:`MAX_BUNDLE_BYTES`.

    Args:
        config: the agent's configuration.
        profile: of the board.
        status: gives what ``wheeltapper-agent status`` shows.
        attributes: of the device.
        log: lines of the agent's log, oldest first.
    """
    body: dict[str, Any] = {
        "at": time.time(),
        "attributes": dict(attributes),
        "findings": [dataclasses.asdict(finding) for finding in _findings(config, profile)],
        "config": redacted(dataclasses.asdict(config)),
        "status": redacted(_tried(status)),
        "log_lines_left_out": 0,
        "log": [_without_secrets(line) for line in log],
    }
    while len(packed := zlib.compress(json.dumps(body, default=str).encode(), 6)) > MAX_BUNDLE_BYTES and body["log"]:
        half = (len(body["log"]) + 1) // 2
        body["log"] = body["log"][half:]
        body["log_lines_left_out"] += half
    return packed if len(packed) <= MAX_BUNDLE_BYTES else b""


def redacted(value: Any) -> Any:
    """``value`` with every secret replaced by :data:`REMOVED`: what stands under a name that tells of one, and what
    stands before the ``@`` of a URL."""
    if isinstance(value, Mapping):
        return {
            str(name): REMOVED if _SECRET_KEY.search(str(name)) and inner not in (None, "") else redacted(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    if isinstance(value, str | Path):
        return _without_secrets(str(value))
    return value


def _without_secrets(text: str) -> str:
    return _SECRET_IN_TEXT.sub(rf"\g<1>{REMOVED}", _SECRET_IN_URL.sub(rf"\g<1>{REMOVED}@", text))


def _tried(status: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return status()
    except Exception as error:  # noqa: BLE001  # the rest of the bundle is worth having
        return {"error": brief(error)}


def _findings(config: AgentConfig, profile: Profile) -> list[Finding]:
    """What the doctor finds; a check that raises is a finding too."""
    state = config.device.state_dir
    checks: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        ("profile", lambda: check_profile(profile, machine_name(), memory_mb())),
        ("runtime", lambda: check_runtimes(profile)),
        ("clock", lambda: [check_clock(state, time.time(), kernel_synchronised())]),
        ("disk", lambda: check_disk(state, profile.spool_max_mb + profile.capture_max_mb)),
    )
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # noqa: BLE001  # whatever one check meets, the others are made
            findings.append(Finding(name, FAIL, brief(error)))
    return findings
