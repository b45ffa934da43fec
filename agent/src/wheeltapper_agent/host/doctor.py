"""``wheeltapper-agent doctor``: what is wrong with this device, and what to do about it.

Each check tries the real thing: it imports the runtime in a process of its own, writes a file, opens a connection with
the device's certificate. A check that cannot be made fails and says why; it does not stop the others.

Verdicts: ``ok``; ``warn``: it works, but not as it should; ``FAIL``: it does not work.

Example:
    >>> from pathlib import Path
    >>> from wheeltapper_agent.host.doctor import examine
    >>> [finding.check for finding in examine(Path("/etc/wheeltapper/agent.toml")) if finding.verdict == "FAIL"]
    ['clock']
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from wheeltapper_agent.config import AgentConfig, load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import load_profile
from wheeltapper_agent.host.boards import machine_name, memory_mb
from wheeltapper_agent.host.connection_checks import check_broker, check_certificate, check_https
from wheeltapper_agent.host.finding import AS_ROOT, FAIL, OK, WARN, Finding
from wheeltapper_agent.host.local_socket import SOCKET_FILE, ask
from wheeltapper_agent.host.machine_checks import check_clock, check_disk, check_profile, kernel_synchronised
from wheeltapper_agent.host.runtime_checks import check_runtimes
from wheeltapper_agent.link.identity import Identity, load_identity
from wheeltapper_protocols.errors import brief

__all__ = ["check_connections", "examine"]


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
        advice = f"correct {config_file}; `wheeltapper-agent install --profile auto` writes one where there is none"
        advice = AS_ROOT if isinstance(error.__cause__, PermissionError) else advice
        return [Finding("configuration", FAIL, f"{error.message} [{error.code}]", advice)]
    state = config.device.state_dir
    findings = [_configuration(config), *check_profile(profile, machine_name(), memory_mb()), *check_runtimes(profile)]
    findings.append(check_clock(state, time.time(), kernel_synchronised()))
    findings += check_disk(state, profile.spool_max_mb + profile.capture_max_mb)
    try:
        identity = load_identity(state)
    except AgentError as error:
        advice = f"enrol: `wheeltapper-agent enroll --server … --config {config_file}`"
        advice = AS_ROOT if error.code == "enrol.denied" else advice
        findings.append(Finding("certificate", FAIL, error.message, advice))
        return findings
    findings += check_connections(state, identity)
    findings.append(_agent(state))
    return findings


def check_connections(state: Path, identity: Identity) -> list[Finding]:
    """Check certificate, HTTPS and broker; a check that raises is a finding too."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("certificate", lambda: check_certificate(identity, state, time.time())),
        ("network.https", lambda: check_https(identity)),
        ("network.broker", lambda: check_broker(identity)),
    )
    findings = []
    for name, check in checks:
        try:
            findings.append(check())
        except (AgentError, OSError, ValueError) as error:
            findings.append(Finding(name, FAIL, brief(error), f"the check itself failed; {AS_ROOT}"))
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
