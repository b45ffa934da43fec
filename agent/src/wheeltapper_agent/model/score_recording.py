"""Scores a recording with a bundle on this computer, without a device or a fleet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.bundle import check_input, load_bundle
from wheeltapper_agent.source.recorded import ContinuousRecording, ReplayConfig, SnapshotRecording, open_recorded
from wheeltapper_protocols.decision.baseline import BaselineState
from wheeltapper_protocols.decision.condition import UNKNOWN
from wheeltapper_protocols.decision.decision import DecisionState, Verdict, initial_state
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.signal.quality import is_complete
from wheeltapper_protocols.tables.options import TableOptions
from wheeltapper_protocols.wire.messages import Severity

__all__ = ["score_recording"]


def score_recording(
    bundle_dir: Path, recording_file: Path, options: TableOptions | None = None, scale: tuple[float, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Score each snapshot of a recording as a device would; implements ``wheeltapper-agent replay``.

    A file of another maker (CSV, Parquet, WAV) is cut into windows as the release takes them: its rate, length and
    channels are what the release says.

    Args:
        bundle_dir: folder of a release, with its ``manifest.json``.
        recording_file: a recording, or a file of another maker.
        options: how a table is written; its ``channels`` are the columns of the release's channels, in their order.
        scale: physical value = number in the file * scale, for each channel of a file of another maker.

    Yields:
        One row a snapshot: ``snapshot``, ``t_s``, ``score`` (1.0 is the warning threshold; None where it is not a
            number, or where samples are missing), ``severity``, ``alert``; ``label`` of a classification, ``value`` and
            ``unit`` of a remaining life, with ``low`` and ``high`` where the release has an interval; ``condition``
            where it is unknown, ``partial`` where channels were missing, ``zone`` of ISO 20816; ``reasons`` where an
            alert was raised or became worse. A baseline is learnt as on a device.

    Raises:
        AgentError: ``bundle.*``, ``update.input_mismatch``, ``source.*``, ``config.invalid``, ``runtime.*``.
        ProtocolError: ``recording.*``, ``manifest.*``.

    Example:
        >>> for row in score_recording(Path("release"), Path("run.npz")):
        ...     print(row["snapshot"], row["score"], row["severity"])
    """
    bundle = load_bundle(bundle_dir)
    recorded = _opened(bundle.manifest, recording_file, options or TableOptions(), scale)
    state, severity, alert, baseline = DecisionState(), Severity.NORMAL.value, False, BaselineState()
    for index, window in enumerate(recorded.windows(lambda: False)):
        row: dict[str, Any] = {"snapshot": index, "t_s": window.t_s, "score": None}
        if not (bundle.manifest.missing_channels or is_complete(window.samples)):  # a device does not score it either
            yield row | {"severity": severity, "alert": alert}
            continue
        evaluation = bundle.evaluate(window.samples[None])
        state, verdict = bundle.decide(state, evaluation)
        learned = bundle.learn(baseline, evaluation, verdict) if baseline.phase == "learning" else baseline
        severity, alert = verdict.severity.value, verdict.alert
        row |= {"score": float(verdict.score) if verdict.valid else None, "severity": severity, "alert": alert}
        if evaluation.scores.labels == [UNKNOWN]:
            row["condition"] = "unknown"
        if evaluation.missing is not None:
            row["partial"] = True
        yield row | _task_fields(bundle.manifest, verdict)
        if learned.phase == "learned" and baseline.phase == "learning":
            bundle, state = bundle.with_baseline(learned), initial_state(state.severity, state.no_score)
        baseline = learned


def _opened(
    manifest: Manifest, file: Path, options: TableOptions, scale: tuple[float, ...]
) -> SnapshotRecording | ContinuousRecording:
    """Open a file that has the form which a release takes."""
    config = ReplayConfig(path=file)
    if config.file_format == "npz":
        recorded = open_recorded(config)
        check_input(manifest, recorded.spec)
        return recorded
    shape = manifest.input
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(TableOptions)}
    columns = options.channels or (tuple(shape.channels) if options.header else ())
    recorded = open_recorded(
        ReplayConfig(
            path=file,
            sample_rate_hz=shape.sample_rate_hz,
            window_samples=shape.window_samples,
            scale=scale,
            **(given | {"channels": columns}),
        )
    )
    if (count := len(recorded.spec.channels)) != len(shape.channels):
        raise AgentError(
            "update.input_mismatch",
            f"the release takes the channels {', '.join(shape.channels)}, and {file.name} gives {count}: name its "
            "columns in this order with --channels",
        )
    return recorded


def _task_fields(manifest: Manifest, verdict: Verdict) -> dict[str, Any]:
    """Return the fields that depend on the task of the release or on the window."""
    fields: dict[str, Any] = {}
    if manifest.classification is not None:
        fields["label"] = verdict.label
    if manifest.remaining_life is not None:
        section = manifest.remaining_life
        fields |= {"value": verdict.value, "unit": section.unit}
        if section.interval is not None:
            value = np.nan if verdict.value is None else verdict.value
            low, high = (float(end[0]) for end in section.interval.around(np.array([value]), section.cap))
            fields |= {"low": None if np.isnan(low) else low, "high": None if np.isnan(high) else high}
    if manifest.iso20816 is not None:
        fields["zone"] = verdict.zone
    if verdict.reasons:
        fields["reasons"] = msgspec.to_builtins(verdict.reasons)
    return fields
