"""The agent's systemd unit, rendered from the board's profile and the path of the program. Pure.

The unit grants what the agent needs and nothing else: its state folder, the network, the device nodes of its buses. The
options are those of ``systemd.service(5)``, ``systemd.exec(5)`` and ``systemd.resource-control(5)``, version 247 or
later; an older one ignores what it does not know.

    * ``OOMPolicy=continue``: a candidate's self-test may run out of memory without the service being stopped.
    * ``MemoryDenyWriteExecute`` is left out where a GPU or NPU is used: their drivers compile at run time.
    * ``@privileged`` is taken from ``@system-service``; ``@resources`` stays, since the self-test limits its child.
"""

from __future__ import annotations

import re
from typing import Final

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile

__all__ = [
    "CONFIG_FILE",
    "HARDWARE_WATCHDOG_SECONDS",
    "WATCHDOG_SECONDS",
    "bus_groups",
    "render_unit",
    "render_watchdog",
]

WATCHDOG_SECONDS: Final = 60
HARDWARE_WATCHDOG_SECONDS: Final = 14
"""Below the 15 s that are the limit of the BCM2835 in a Raspberry Pi (linux/drivers/watchdog/bcm2835_wdt.c)."""
CONFIG_FILE: Final = "/etc/wheeltapper/agent.toml"
_NODE: Final = re.compile(r"/dev/[A-Za-z0-9][A-Za-z0-9._/-]{0,99}\Z")
_CAN: Final = re.compile(r"v?can[0-9]{1,3}\Z")
_PROGRAM: Final = re.compile(r"/[A-Za-z0-9._/+@=-]{1,400}\Z")
_GROUPS: Final = {"i2c": "i2c", "spidev": "spi", "spi": "spi", "tty": "dialout", "uart": "dialout", "gpiochip": "gpio"}
_ACCELERATOR_GROUPS: Final = ("video", "render")


def _nodes(profile: Profile) -> tuple[list[str], bool]:
    """The profile's device nodes, and whether it has a CAN interface.

    Raises:
        AgentError: ``install.device``.
    """
    nodes = []
    for entry in (*profile.buses, *profile.accelerator_devices):
        if _NODE.match(entry) and ".." not in entry:
            nodes.append(entry)
        elif not _CAN.match(entry):
            raise AgentError(
                "install.device", f"{entry[:120]!r} is neither a device node below /dev nor a CAN interface"
            )
    return nodes, any(_CAN.match(entry) for entry in profile.buses)


def bus_groups(profile: Profile) -> tuple[str, ...]:
    """The groups to which Debian's udev rules give the profile's device nodes, sorted."""
    nodes, _ = _nodes(profile)
    found = {
        group
        for node in nodes
        for part, group in _GROUPS.items()
        if node.startswith((f"/dev/{part}", f"/dev/bone/{part}"))
    }
    return tuple(sorted(found | set(_ACCELERATOR_GROUPS if profile.accelerator_devices else ())))


def render_unit(profile: Profile, program: str, groups: tuple[str, ...] = ()) -> str:
    """The text of ``wheeltapper-agent.service``.

    Args:
        profile: the board's.
        program: absolute path of ``wheeltapper-agent``.
        groups: those of :func:`bus_groups` that the system has.

    Raises:
        AgentError: ``install.program``, ``install.device``.
    """
    if not _PROGRAM.match(program):
        raise AgentError(
            "install.program",
            f"a systemd unit cannot start {program[:200]!r}: give an absolute path of plain characters",
        )
    nodes, can = _nodes(profile)
    families = "AF_UNIX AF_INET AF_INET6" + (" AF_CAN" if can else "")
    devices = [f"DeviceAllow={node} rw" for node in nodes]
    isolation = ["DevicePolicy=closed", *devices] if nodes else ["PrivateDevices=yes", "DevicePolicy=closed"]
    isolation += [] if nodes else ["PrivateUsers=yes"]
    isolation += [f"SupplementaryGroups={' '.join(groups)}"] if groups else []
    isolation += [] if profile.accelerator_devices else ["MemoryDenyWriteExecute=yes"]
    return "\n".join(
        [
            *_HEAD,
            *_service(profile, program),
            "",
            *isolation,
            *_CONFINEMENT,
            f"RestrictAddressFamilies={families}",
            *_TAIL,
        ]
    )


def _service(profile: Profile, program: str) -> list[str]:
    """The section ``[Service]``: what is started, and the profile's limits of memory and processor time."""
    return [
        "[Service]",
        "Type=notify",
        f"ExecStart={program} run --config {CONFIG_FILE}",
        "User=wheeltapper",
        "Group=wheeltapper",
        "StateDirectory=wheeltapper",
        "StateDirectoryMode=0750",
        "WorkingDirectory=/var/lib/wheeltapper",
        "Restart=always",
        "RestartSec=5",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        "TimeoutStartSec=180",
        "TimeoutStopSec=30",
        f"MemoryMax={profile.memory_cap_mb}M",
        f"CPUQuota={profile.cpu_quota_percent}%",
        "TasksMax=256",
        "OOMPolicy=continue",
    ]


def render_watchdog(profile: Profile) -> str:
    """The drop-in that makes systemd feed the hardware watchdog: a machine whose kernel hangs restarts."""
    return (
        f"# Written by `wheeltapper-agent install --hardware-watchdog --profile {profile.name}`.\n[Manager]\n"
        f"RuntimeWatchdogSec={HARDWARE_WATCHDOG_SECONDS}\nWatchdogDevice={profile.watchdog_device}\n"
    )


_HEAD: Final = (
    "# Written by `wheeltapper-agent install --profile …`; changes: `systemctl edit wheeltapper-agent` (a drop-in)",
    "[Unit]",
    "Description=Wheeltapper agent: machine learning beside a machine",
    "Wants=network-online.target time-sync.target",
    "After=network-online.target time-sync.target",
    "# Until the device is enrolled there is nothing to run.",
    "ConditionPathExists=/var/lib/wheeltapper/identity/fleet.json",
    "# An unattended device never gives up.",
    "StartLimitIntervalSec=0",
    "",
)
_CONFINEMENT: Final = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateMounts=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "KeyringMode=private",
    "UMask=0077",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",
    "SystemCallErrorNumber=EPERM",
)
_TAIL: Final = ("", "[Install]", "WantedBy=multi-user.target", "")
