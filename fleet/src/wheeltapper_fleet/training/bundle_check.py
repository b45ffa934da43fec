"""Whether a bundle may become a release: all that a device will do with it, done on a desk, and its gates.

``wheeltapper bundle check`` shows the result, ``bundle init`` and ``release publish`` refuse what does not pass.

Invariants:
    * The self-test is the agent's own, in its process, with every runtime that the release claims.
    * With labelled data the gates are computed from it; what the file says of its gates is then not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from wheeltapper_fleet.registry.prepare import prepare_release
from wheeltapper_fleet.training import tflite_micro
from wheeltapper_fleet.training.desk_agent import DeskAgent
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.judging.judge import HEALTHY, Limits, Other, Scores, judge
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_protocols.drift.drift import distances
from wheeltapper_protocols.drift.sketch import Bins
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    RUNTIMES,
    Gate,
    Manifest,
    decode_manifest,
    golden_file,
)

__all__ = ["Report", "check_bundle", "self_tested"]

_LEAST_DRIFT_WINDOWS: Final = 50
Say = Callable[[str], None]


@dataclass
class Report:
    """What was found."""

    manifest: Manifest
    gates: list[Gate] = field(default_factory=list)
    """Computed here, of the self-tests and of the data."""
    runtimes: list[str] = field(default_factory=list)
    """Those that it was tested with."""
    missing: list[str] = field(default_factory=list)
    """Claimed runtimes that are not installed here."""
    scores: Scores | None = None
    """Of the windows of the data."""

    @property
    def failed(self) -> list[Gate]:
        """The gates that did not pass."""
        return [gate for gate in self.gates if not gate.passed]

    def refuse(self) -> None:
        """Raise the error for what is wrong.

        Raises:
            TrainingError: ``bundle.gate_failed``, ``bundle.untested``.
        """
        if self.failed:
            told = "; ".join(f"{gate.name} is {gate.value:.4g}, limit {gate.limit:.4g}" for gate in self.failed)
            raise TrainingError("bundle.gate_failed", f"the bundle failed its gates: {told}")
        if self.missing:
            text = f"the release claims {', '.join(self.missing)}, and no agent here has it"
            raise TrainingError("bundle.untested", f"{text}: name an agent that has it (--agent), or do not claim it")


def check_bundle(
    folder: Path,
    agents: Sequence[DeskAgent],
    *,
    data: LabelledWindows | None = None,
    scores: Scores | None = None,
    limits: Limits | None = None,
    profiles: Sequence[str] = (),
    champion: Path | None = None,
    others: Sequence[Other] = (),
    say: Say = lambda text: None,
) -> Report:
    """Check a bundle.

    Args:
        folder: of the bundle.
        agents: the agents of this computer; each runtime is tested by the first that has it.
        data: labelled windows of which the gates are computed; None: those of the manifest count.
        scores: what an agent gave for ``data``; None: it is asked.
        limits: what must be reached on ``data``.
        profiles: boards whose runtimes, threads and memory the self-test is run with too.
        champion: the folder of a bundle that this one must not be worse than.
        others: more models that it must not be worse than.
        say: called with a sentence for each thing that cannot be known.

    Raises:
        FleetError: ``release.bundle``, ``bundle.*``; ``self_test.*`` and ``runtime.*``: the agent refuses it.
        WireError: ``manifest.*``, ``runtime.*``.
    """
    report = self_tested(folder, agents)
    report.gates += _profile_gates(folder, report.manifest, agents, profiles)
    report.gates.append(_size(report.manifest))
    if report.manifest.drift is None:
        say("the bundle has no drift reference: its devices will not notice that the world changed")
    if data is None:
        report.gates += [gate for gate in report.manifest.gates if gate.name not in {own.name for own in report.gates}]
        return report
    if data.input != report.manifest.input:
        text = "the data differs from the bundle's input in rate, window, channels or units"
        raise TrainingError("training.mixed_input", f"{text}: give data as its devices record it")
    runtime = report.runtimes[0]
    found = scores or _agent_with(runtime, agents, folder).evaluate(folder, data.samples, runtime)
    report.scores = found
    others = list(others)
    if champion is not None:
        theirs = decode_manifest(prepare_release(champion, 1))
        if theirs.input != data.input:
            raise TrainingError(
                "bundle.champion", "the champion takes other windows: it cannot be compared on this data"
            )
        scored = agents[0].evaluate(champion, data.samples)
        others.append(Other("against_champion", "the champion", theirs, scored))
    report.gates += judge(report.manifest, data, found, limits or Limits(), say, others)
    report.gates += _drift(report.manifest, data, found, say)
    return report


def self_tested(folder: Path, agents: Sequence[DeskAgent]) -> Report:
    """Test a bundle with each runtime, as devices do; nothing is asked of its gates.

    Raises:
        FleetError, WireError: as :func:`check_bundle`.
    """
    report = Report(decode_manifest(prepare_release(folder, 1)))
    tested, report.missing = _self_tests(folder, report.manifest, agents)
    report.runtimes = list(tested)
    report.gates = [gate for name, figures in tested.items() for gate in _runtime_gates(name, figures, report.manifest)]
    for each in report.manifest.formats():
        if tflite_micro.NAME not in [entry.name for entry in each.runtimes or ()]:
            continue
        if tflite_micro.has_tflite_micro():
            report.gates.append(_micro_gate(folder, each))
        else:
            report.missing.append(tflite_micro.NAME)
    return report


def _micro_gate(folder: Path, manifest: Manifest) -> Gate:
    """The golden vectors through TFLite Micro's interpreter, from the model's input on."""
    arrays: dict[str, Any] = {}
    own = folder / golden_file(tflite_micro.NAME)
    for file in (folder / GOLDEN_FILE, *([own] if own.exists() else ())):
        with np.load(file, allow_pickle=False) as archive:
            arrays |= {name: np.asarray(archive[name]) for name in archive.files}
    output = tflite_micro.run_micro((folder / manifest.model_file).read_bytes(), arrays["model_input"])
    error = float(np.abs(output.reshape(arrays["model_output"].shape) - arrays["model_output"]).max())
    limit = manifest.golden_for(tflite_micro.NAME).output_atol
    return _at_most(f"golden_{tflite_micro.NAME}", error, limit, "greatest difference of outputs")


def _self_tests(
    folder: Path, manifest: Manifest, agents: Sequence[DeskAgent]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Test a bundle with each runtime that it claims, or of those that read its model with those that are here.

    Returns:
        The figures by runtime, and the claimed runtimes that no agent here has.

    Raises:
        TrainingError: what the agent refuses the bundle with.
    """
    claimed = [entry.name for each in manifest.formats() for entry in each.runtimes or ()]
    open_to = [name for each in manifest.formats() if each.runtimes is None for name in RUNTIMES[each.runtime]]
    wanted = [name for name in (*claimed, *open_to) if name != "tflite-micro"]
    tested: dict[str, dict[str, Any]] = {}
    for agent in agents:
        left = [name for name in wanted if name not in tested]
        for entry in agent.check(folder) if left else ():
            if "metrics" in entry and entry["runtime"] in left:
                tested[entry["runtime"]] = entry["metrics"]
            elif entry.get("code") not in (None, "runtime.missing"):
                raise TrainingError(entry["code"], f"{entry['runtime']}: {entry['message']}")
    if not tested:
        text = f"no agent here has a runtime for the model ({', '.join(wanted)})"
        raise TrainingError("bundle.untested", f"{text}: install wheeltapper-agent[onnx] or [litert]")
    return tested, [name for name in wanted if name in claimed and name not in tested]


def _agent_with(runtime: str, agents: Sequence[DeskAgent], folder: Path) -> DeskAgent:
    """The first agent that has a runtime."""
    for agent in agents[:-1]:
        if any("metrics" in entry for entry in agent.check(folder, runtime=runtime)):
            return agent
    return agents[-1]


def _runtime_gates(runtime: str, figures: dict[str, Any], manifest: Manifest) -> list[Gate]:
    """What the self-test of one runtime measured, against the manifest."""
    manifest = next((each for each in manifest.formats() if runtime in RUNTIMES[each.runtime]), manifest)
    golden, budget = manifest.golden_for(runtime), manifest.budget
    return [
        _at_most(f"golden_{runtime}", figures["output_error"], golden.output_atol, "greatest difference of outputs"),
        _at_most(
            f"latency_p95_ms_{runtime}", figures["processor_p95_ms"], budget.latency_p95_ms, "of one processor here"
        ),
        _at_most(f"memory_mb_{runtime}", figures["rss_growth_mb"], budget.rss_growth_mb, "with 32 windows in a call"),
    ]


def _profile_gates(
    folder: Path, manifest: Manifest, agents: Sequence[DeskAgent], profiles: Sequence[str]
) -> list[Gate]:
    """The self-test under the limits of boards: their runtimes, threads and memory, on this computer's processor; and
    the budgets that their profiles state for a model and a window. By the first agent that has a runtime of the board.
    """
    gates = []
    for name in profiles:
        for agent in agents:
            entries = agent.check(folder, profile=name)
            found = next((entry for entry in entries if "metrics" in entry), None)
            if found is not None or entries[0]["code"] != "runtime.missing":
                break
        if found is None:
            worst = entries[0]
            raise TrainingError(worst["code"], f"on the board {name}: {worst['message']}")
        figures = found["metrics"]
        window_ms = 1e3 * manifest.input.window_samples / manifest.input.sample_rate_hz
        board = agent.board(name)
        limit = min(manifest.budget.latency_p95_ms, window_ms, float(board.get("max_window_ms", window_ms)))
        detail = "a window in its budget, the board's, and less time than it lasts, within the board's memory"
        gates.append(_at_most(f"board_{name}"[:80], figures["processor_p95_ms"], limit, f"{detail}; on this processor"))
        if "max_model_mb" in board:
            run = next((each for each in manifest.formats() if found["runtime"] in RUNTIMES[each.runtime]), manifest)
            length_mb = manifest.file(run.model_file).length / 1024**2
            gates.append(
                _at_most(f"board_{name[:60]}_model_mb", length_mb, float(board["max_model_mb"]), "the model's file")
            )
    return gates


def _size(manifest: Manifest) -> Gate:
    """The length of the model's file; what a device can fetch at all is the limit."""
    length = manifest.file(manifest.model_file).length
    return _at_most("model_bytes", float(length), 256.0 * 1024 * 1024, "")


def _drift(manifest: Manifest, data: LabelledWindows, found: Scores, say: Say) -> list[Gate]:
    """How far the healthy windows are from the bundle's drift reference: a device would report drift at once."""
    healthy = manifest.classification.normal if manifest.classification is not None else HEALTHY
    rows = np.isin(np.array(data.labels), healthy) & np.isfinite(found["score"])
    if manifest.drift is None or rows.sum() < _LEAST_DRIFT_WINDOWS:
        return []
    reference = manifest.drift.score
    sketch = Bins([reference.edges]).sketch(np.asarray(found["score"][rows], dtype=np.float32)[:, None])
    apart = distances([reference], sketch)[0]
    limit = manifest.drift.psi_limit + apart.psi_noise
    if apart.psi > limit:
        say(f"healthy windows of the data score otherwise than those of the drift reference (PSI {apart.psi:.2g})")
    return [_at_most("drift_of_healthy", apart.psi, limit, f"PSI of the scores of {int(rows.sum())} healthy windows")]


def _at_most(name: str, value: float, limit: float, detail: str) -> Gate:
    return Gate(name=name, value=float(value), limit=float(limit), passed=bool(value <= limit), detail=detail)
