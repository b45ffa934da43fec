"""A bundle over a recording, without a fleet: one decision a snapshot."""

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

__all__ = ["replay"]


def replay(bundle_dir: Path, recording_file: Path) -> Iterator[dict[str, Any]]:
    """Score each snapshot of a recording as a device would.

    Yields:
        ``snapshot``, ``t_s``, ``score`` (1.0 is the warning threshold; None where it is not a number), ``severity``,
        ``alert``; ``label`` of a classification, ``value`` and ``unit`` of a remaining life, ``zone`` of ISO 20816;
        ``reasons`` where an alert was raised or became worse.

    Raises:
        AgentError: ``bundle.*``, ``update.input_mismatch``, ``source.unreadable``, ``runtime.*``.
        ProtocolError: ``recording.*``, ``manifest.*``.
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
        found = bundle.evaluate(recording.physical(slice(index, index + 1)))
        state, verdict = bundle.decide(state, found)
        row = {
            "snapshot": index,
            "t_s": float(recording.t_s[index]),
            "score": float(verdict.score) if verdict.valid else None,
            "severity": verdict.severity.value,
            "alert": verdict.alert,
        }
        yield row | _more(bundle.manifest, verdict)


def _more(manifest: Manifest, verdict: Verdict) -> dict[str, Any]:
    """What only some releases and some windows have."""
    found: dict[str, Any] = {}
    if manifest.classification is not None:
        found["label"] = verdict.label
    if manifest.remaining_life is not None:
        found |= {"value": verdict.value, "unit": manifest.remaining_life.unit}
    if manifest.iso20816 is not None:
        found["zone"] = verdict.zone
    if verdict.reasons:
        found["reasons"] = msgspec.to_builtins(verdict.reasons)
    return found
