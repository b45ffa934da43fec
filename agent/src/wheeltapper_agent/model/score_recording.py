"""Scores a recording with a bundle on this computer, without a device or a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.bundle import check_input, load_bundle
from wheeltapper_agent.source.base import SourceSpec
from wheeltapper_protocols.decision.decision import DecisionState, Verdict
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.signal.recording import read_recording

__all__ = ["score_recording"]


def score_recording(bundle_dir: Path, recording_file: Path) -> Iterator[dict[str, Any]]:
    """Score each snapshot of a recording as a device would; implements ``wheeltapper-agent replay``.

    Args:
        bundle_dir: folder of a release, with its ``manifest.json``.
        recording_file: an ``.npz`` recording.

    Yields:
        One row a snapshot: ``snapshot``, ``t_s``, ``score`` (1.0 is the warning threshold; None where it is not a
            number), ``severity``, ``alert``; ``label`` of a classification, ``value`` and ``unit`` of a remaining life,
            ``zone`` of ISO 20816; ``reasons`` where an alert was raised or became worse.

    Raises:
        AgentError: ``bundle.*``, ``update.input_mismatch``, ``source.unreadable``, ``runtime.*``.
        ProtocolError: ``recording.*``, ``manifest.*``.

    Example:
        >>> for row in score_recording(Path("release"), Path("run.npz")):
        ...     print(row["snapshot"], row["score"], row["severity"])
    """
    bundle = load_bundle(bundle_dir)
    try:
        recording = read_recording(recording_file)
    except OSError as error:
        raise AgentError("source.unreadable", f"the recording cannot be read: {error}") from error
    spec = SourceSpec(
        float(recording.sample_rate_hz), int(recording.samples.shape[1]), recording.channels, recording.units
    )
    check_input(bundle.manifest, spec)
    state = DecisionState()
    for index in range(recording.samples.shape[0]):
        evaluation = bundle.evaluate(recording.physical(slice(index, index + 1)))
        state, verdict = bundle.decide(state, evaluation)
        row = {
            "snapshot": index,
            "t_s": float(recording.t_s[index]),
            "score": float(verdict.score) if verdict.valid else None,
            "severity": verdict.severity.value,
            "alert": verdict.alert,
        }
        yield row | _task_fields(bundle.manifest, verdict)


def _task_fields(manifest: Manifest, verdict: Verdict) -> dict[str, Any]:
    """Return the fields that depend on the task of the release or on the window."""
    fields: dict[str, Any] = {}
    if manifest.classification is not None:
        fields["label"] = verdict.label
    if manifest.remaining_life is not None:
        fields |= {"value": verdict.value, "unit": manifest.remaining_life.unit}
    if manifest.iso20816 is not None:
        fields["zone"] = verdict.zone
    if verdict.reasons:
        fields["reasons"] = msgspec.to_builtins(verdict.reasons)
    return fields
