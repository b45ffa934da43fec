"""The checks of ``doctor`` on the runtimes: which of them run on this machine, and with which execution provider."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.host.finding import FAIL, OK, WARN, Finding
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.python_path import child_environment, python_command

__all__ = ["check_runtimes"]

_PROBE_SECONDS: Final = 120.0  # the SD card may be slow, or the processor emulated
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


def check_runtimes(profile: Profile) -> list[Finding]:
    """Check, for each format of models, which runtime of the profile would run them and with which provider."""
    findings = []
    for model_format, known in _RUNTIMES_BY_FORMAT.items():
        preferred = [runtime for runtime in profile.runtimes if runtime in known]
        if preferred:
            findings.append(_runtime(profile, model_format, preferred))
    if not any(finding.verdict == OK or finding.found.startswith("uses ") for finding in findings):
        if not profile.runtimes:
            return [
                Finding("runtime", FAIL, "the profile names no runtime, so no model can run", "add one to the profile")
            ]
        text = f"none of {', '.join(profile.runtimes)} can be imported, so no model can run"
        advice = f"install one: wheeltapper-agent[{_EXTRAS[profile.runtimes[0]]}]"
        findings.append(Finding("runtime", FAIL, text, advice))
    return findings


def _probe(runtime: str) -> tuple[list[str] | None, str]:
    """Import a runtime in a child process, since a broken native library may crash the process that loads it.

    Returns:
        The execution providers that it offers and an empty text; or None and why it cannot be imported.
    """
    line = python_command("-c", _PROBE, _MODULES[runtime])
    environment = child_environment(os.environ)
    try:
        done = subprocess.run(
            line, cwd="/", env=environment, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"importing it took longer than {_PROBE_SECONDS:.0f} s"
    if done.returncode == 0:
        try:
            return [str(name) for name in json.loads(done.stdout.strip().splitlines()[-1])], ""
        except (ValueError, IndexError):
            return None, "its list of providers cannot be read"
    if done.returncode < 0:
        return None, f"importing it ended with signal {-done.returncode}: not built for this processor?"
    return None, brief((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])


def _runtime(profile: Profile, model_format: str, preferred: list[str]) -> Finding:
    """The finding on the first of the ``preferred`` runtimes that can be imported."""
    failures = []
    for runtime in preferred:
        providers, why = _probe(runtime)
        if providers is None:
            failures.append(f"{runtime}: {why}")
            continue
        verdict, found, advice = _provider(profile, runtime, providers)
        if failures:
            verdict, found = WARN, f"{found}; not {'; '.join(failures)}"
            advice = advice or f"install what the profile prefers: wheeltapper-agent[{_EXTRAS[preferred[0]]}]"
        return Finding(f"runtime.{model_format}", verdict, found, advice)
    advice = f"needed only for such models: install wheeltapper-agent[{_EXTRAS[preferred[0]]}]"
    return Finding(f"runtime.{model_format}", WARN, f"no {model_format} model can run: {'; '.join(failures)}", advice)


def _provider(profile: Profile, runtime: str, available: list[str]) -> tuple[str, str, str]:
    """Which of the ``available`` providers the runtime would use: verdict, text and advice for a finding."""
    onnx = runtime == "onnxruntime"
    preferred = [name for name in profile.providers if name.endswith("ExecutionProvider") == onnx]
    if not onnx:
        available = available + [
            name for name in preferred if name.startswith("delegate:") and Path(name[9:]).is_file()
        ]
    used = next((name for name in preferred if name in available), None)
    if used is None:
        used = "CPUExecutionProvider" if onnx else "XNNPACK"
        named = ", ".join(preferred) or "no provider of it"
        return WARN, f"uses {used} of {runtime}; the profile names {named}", "correct the profile's providers"
    if used != preferred[0]:
        advice = (
            f"install the build of {runtime} that the board's maker offers" if onnx else f"install {preferred[0][9:]}"
        )
        return WARN, f"uses {used} of {runtime}; {preferred[0]} is not installed", advice
    return OK, f"uses {used} of {runtime}", ""
