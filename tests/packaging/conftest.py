"""Fixtures: packages, built once a run; a release that was made here, on this processor."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.packaging.roots import REPOSITORY, checked, debian_root
from wheeltapper_agent.source.simulator import Machine, SimulatorConfig
from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, Budget, decode_manifest, encode_manifest
from wheeltapper_protocols.signal.recording import Recording, write_recording

SOURCE = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=20.0)
FOREIGN_WHEELS = ("msgspec", "cffi")


def _foreign_wheels(folder: Path) -> Path:
    """Wheels for armhf that nobody offers, built once in an armhf system with a compiler."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split()
    wanted = [line for line in lines if line.partition("==")[0] in FOREIGN_WHEELS]
    kept = REPOSITORY / "build" / "wheels" / "armhf"
    if all(list(kept.glob(f"{line.replace('==', '-')}-*.whl")) for line in wanted):
        return kept
    tools = ("python3", "python3-venv", "python3-dev", "gcc", "libc6-dev", "libffi-dev")
    with debian_root("armhf", folder, tools) as root:
        script = REPOSITORY / "packaging/foreign_wheels.sh"
        checked("sh", str(script), str(root.path), str(kept), sys.executable, *wanted)
    return kept


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the package of the agent, or of the fleet, for an architecture, at most once."""
    built: dict[tuple[str, str], Path] = {}

    def build(arch: str, name: str = "agent") -> Path:
        if (arch, name) not in built:
            folder = tmp_path_factory.mktemp(f"deb-{name}-{arch}")
            line = [sys.executable, str(REPOSITORY / "packaging/build_deb.py"), "--package", name, "--arch", arch]
            line += ["--out", str(folder), "--compression", "none"]
            if arch == "armhf":
                line += ["--wheels", str(_foreign_wheels(folder / "root"))]
            done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=1800)
            assert done.returncode == 0, done.stderr
            built[arch, name] = Path(done.stdout.strip())
        return built[arch, name]

    return build


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy machine's first windows."""
    machine = Machine(SOURCE)
    count = 80
    recorded = Recording(
        np.stack([machine.window(index, index * 10.0) for index in range(count)]),
        np.ones(2),
        SOURCE.sample_rate_hz,
        np.arange(float(count)) * 10.0,
        ("horizontal", "vertical"),
        ("g", "g"),
        {"machine": "simulated"},
    )
    path = tmp_path_factory.mktemp("recording") / "healthy.npz"
    write_recording(recorded, path)
    return path


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """Release 1 of ``bearing``: an int8 network trained and quantized here, with its golden vectors."""
    folder = tmp_path_factory.mktemp("release") / "bundle"
    train_anomaly([recording], healthy_fraction=1.0, out=folder, model="bearing")
    path = folder / MANIFEST_FILE
    manifest = decode_manifest(path.read_bytes())
    # Emulation is no board: it says nothing about time and memory there.
    budget = Budget(latency_p95_ms=60_000.0, rss_growth_mb=2_000.0)
    path.write_bytes(encode_manifest(msgspec.structs.replace(manifest, release=1, budget=budget)))
    return folder
