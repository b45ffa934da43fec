"""The profile of a board: what it offers and what the agent may use, from ``firmware_configs/profiles/<name>.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wheeltapper_agent.ground.bounds import COUNT_MAX, Bounds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.toml import build, read_toml

__all__ = ["Profile", "firmware_configs", "load_profile", "profile_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a board offers and what the agent may use; the keys of ``firmware_configs/profile.schema.json``."""

    name: str
    description: str = ""
    arch: tuple[str, ...] = ()
    """Names of the processors that the profile is for, as ``uname -m`` prints them; empty: any."""
    runtimes: tuple[str, ...] = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
    """Runtimes in order of preference."""
    providers: tuple[str, ...] = ("CPUExecutionProvider", "XNNPACK")
    """What computes the models, in order of preference, for all runtimes together: an execution provider of ONNX
    Runtime, ``XNNPACK``, or ``delegate:<path>`` for a TFLite delegate. Each runtime ignores those of the others."""
    threads: Annotated[int, Bounds(1, 64, "threads")] = 1
    memory_cap_mb: Annotated[int, Bounds(64, 65_536, "MB")] = 512
    max_model_mb: Annotated[int, Bounds(1, 256, "MB")] = 32
    """The largest model that a release for this board may have; the desk's check refuses a larger one."""
    max_window_ms: Annotated[float, Bounds(0.01, 60_000, "ms")] = 25.0
    """The most processor time of one window, as the desk measures it; its processor is often several times as fast."""
    cpu_quota_percent: Annotated[int, Bounds(10, 6400, "percent")] = 100
    """Share of the processor; 100 is one core."""
    spool_max_records: Annotated[int, Bounds(1000, COUNT_MAX, "records")] = 1_000_000
    spool_max_mb: Annotated[int, Bounds(8, 1_048_576, "MB")] = 512
    spool_max_days: Annotated[float, Bounds(0, 3650, "days")] = 30.0
    spool_commit_seconds: Annotated[float, Bounds(0, 60, "seconds")] = 1.0
    """How long telemetry waits in memory for the next commit, which wears flash less. Alerts and reports never wait."""
    batch_records: Annotated[int, Bounds(1, 5000, "records")] = 200
    capture_max_mb: Annotated[int, Bounds(1, 4096, "MB")] = 64
    buses: tuple[str, ...] = ()
    """Device nodes that the service may open for its sensors, and CAN interfaces (``can0``)."""
    accelerator_devices: tuple[str, ...] = ()
    """Device nodes of a GPU or NPU that the providers open."""
    watchdog_device: str = ""
    """Device node of the hardware watchdog that systemd may feed; empty: the board has none."""


def firmware_configs() -> Path:
    """The folder with the profiles and their schema: in the installed package, or at the root of the repository.

    Raises:
        AgentError: ``config.profile``: there is no such folder.
    """
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "firmware_configs", here.parents[4] / "firmware_configs"):
        if folder.is_dir():
            return folder
    raise AgentError("config.profile", "firmware_configs is not installed; reinstall wheeltapper-agent")


def profile_names() -> list[str]:
    """The names of all profiles, sorted.

    Raises:
        AgentError: ``config.profile``: the folder of profiles is missing.
    """
    return sorted(entry.stem for entry in (firmware_configs() / "profiles").glob("*.toml"))


def load_profile(name: str) -> Profile:
    """Read the profile called ``name``.

    Raises:
        AgentError: ``config.profile`` (there is no profile of that name), ``config.unknown_key``, ``config.invalid``,
            ``config.missing_key``.
    """
    folder = firmware_configs() / "profiles"
    path = folder / f"{name}.toml"
    known = profile_names()
    if name not in known:
        raise AgentError("config.profile", f"there is no profile {name[:80]!r}; known are {', '.join(known)}")
    return build(Profile, read_toml(path), f"profile {name}", folder)
