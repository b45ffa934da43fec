"""Makes a bundle of a model that somebody else trained: ``wheeltapper bundle init``.

Model and labelled data come in; a bundle goes out that has run in an agent's process: its golden vectors, its drift
reference and its gates were computed there, from the data.

Invariants:
    * A bundle that fails a gate is not written. If anything fails, ``out`` is as it was before.
    * The drift reference is of healthy windows only.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from wheeltapper_fleet.training import tflite_micro
from wheeltapper_fleet.training.bundle_check import Report, check_bundle
from wheeltapper_fleet.training.bundles import check_target, write_bundle
from wheeltapper_fleet.training.desk_agent import DeskAgent
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.golden import GoldenVectors, pick_windows, tolerances
from wheeltapper_fleet.training.judging.judge import HEALTHY, Limits, Other, Say, Scores, agreement
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_fleet.training.own_draft import Answers, Ask, Draft, Head, Scaling, bytes_of, entries, trial
from wheeltapper_fleet.training.own_model import found_draft, found_head, found_scaling, read_again, read_model
from wheeltapper_protocols.drift.drift import DriftSpec, fit_drift_spec
from wheeltapper_protocols.manifest.inference_task import InferenceTask
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    RUNTIMES,
    ClaimedRuntime,
    Manifest,
    decode_manifest,
    encode_manifest,
    golden_file,
)
from wheeltapper_protocols.manifest.model_file import chosen_graph, chosen_output

__all__ = ["init_bundle", "with_gates"]

_LEAST_REFERENCE: Final = 20
"""Healthy windows for a drift reference."""


def init_bundle(
    model: Path,
    data: LabelledWindows,
    answers: Answers,
    out: Path,
    *,
    agents: Sequence[DeskAgent],
    ask: Ask,
    say: Say,
    limits: Limits,
    profiles: Sequence[str] = (),
    champion: Path | None = None,
    float_model: Path | None = None,
    replace: bool = False,
    origin: str = "",
) -> Manifest:
    """Make a bundle of a model and write it to ``out``.

    Args:
        model: an ONNX or TFLite file.
        data: windows with labels that the model was not trained on.
        answers: what is known beforehand.
        out: the bundle's folder.
        agents: the agents of this computer; the first one is asked first.
        ask: answers what model and data leave open.
        say: called with a sentence for each thing that was found out or that cannot be known.
        limits: what the model must reach.
        profiles: boards that it is tested for.
        champion: the folder of a bundle that it must not be worse than.
        float_model: the same model in floating point, which it must agree with and not be worse than.
        replace: whether an older bundle at ``out`` may be replaced.
        origin: where the model is from; by default the file's name.

    Raises:
        TrainingError: ``bundle.*``, ``training.out_exists``; ``self_test.*``, ``runtime.*``: no device could run it.
        WireError: ``runtime.*``.
    """
    check_target(out, replace)
    draft, data = found_draft(*read_model(model), data, answers, ask, say)
    answers = _with_classes(answers, draft, ask)
    scaling = found_scaling(draft, data, answers, agents[0], ask, say)
    head, fields, outputs = found_head(draft, scaling, data, answers, agents[0], ask, say)
    fields["budget"] = answers.budget
    with trial(draft, scaling, head, **fields) as folder:
        found = read_again(decode_manifest((folder / MANIFEST_FILE).read_bytes()), outputs)
        vectors = _golden(folder, draft, data, found, answers, agents, say)
    files, manifest = _assembled(draft, scaling, head, fields, data, found, vectors, say)
    manifest = msgspec.structs.replace(manifest, lineage=_lineage(origin or model.name, scaling, data))
    with tempfile.TemporaryDirectory(prefix="wheeltapper-") as place:
        _write_all(Path(place), files | {MANIFEST_FILE: encode_manifest(manifest)})
        others = _in_float(float_model, draft, scaling, head, fields, data, agents[0])
        report = check_bundle(
            Path(place), agents, data=data, scores=found, limits=limits, profiles=profiles, champion=champion,
            others=others, say=say,
        )  # fmt: skip
    report.gates += [agreement(found, other.scores) for other in others]
    report.refuse()
    manifest = with_gates(manifest, report)
    write_bundle(out, files | {MANIFEST_FILE: encode_manifest(manifest)}, replace)
    return manifest


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        (folder / name).write_bytes(body)


def _with_classes(answers: Answers, draft: Draft, ask: Ask) -> Answers:
    """The answers with the classes, which only a person knows."""
    if draft.task != "classification" or len(answers.classes) > 1:
        return answers
    text = ask("classes", "Which classes, in the order of the model's output, with commas?", ())
    return dataclasses.replace(answers, classes=tuple(name.strip() for name in text.split(",")))


def _in_float(
    model: Path | None,
    draft: Draft,
    scaling: Scaling,
    head: Head,
    fields: dict[str, Any],
    data: LabelledWindows,
    agent: DeskAgent,
) -> list[Other]:
    """The scores of the same model in floating point, read in the same way."""
    if model is None:
        return []
    content, runtime = read_model(model)
    other = dataclasses.replace(draft, content=content, runtime=runtime, output="", signature="", tensors=())
    if len(chosen_graph(runtime, content, None).outputs) > 1:
        other = dataclasses.replace(other, output=draft.output)
    with trial(other, scaling, head, **fields) as folder:
        scores = agent.evaluate(folder, data.samples)
        manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    return [Other("int8_against_float", "the float model", manifest, scores)]


def with_gates(manifest: Manifest, report: Report) -> Manifest:
    """The manifest with the gates of a report instead of its own."""
    return msgspec.structs.replace(manifest, gates=report.gates)


def _golden(
    folder: Path,
    draft: Draft,
    data: LabelledWindows,
    found: Scores,
    answers: Answers,
    agents: Sequence[DeskAgent],
    say: Say,
) -> list[GoldenVectors]:
    """The golden vectors of each runtime that the release claims: the named ones, or all that are here."""
    rows = pick_windows(data, found["score"])
    if not len(rows):
        raise TrainingError("bundle.not_finite", "no window of the data has a score: look at the model's weights")
    samples, vectors = data.samples[rows], []
    names = answers.claim or tuple(name for name in RUNTIMES[draft.runtime] if name != "tflite-micro")
    for name in names:
        if name == tflite_micro.NAME:
            continue
        for agent in agents:
            try:
                got = agent.evaluate(folder, samples, name, with_inputs=True)
            except TrainingError as error:
                if error.code != "runtime.missing":
                    raise
                continue
            vectors.append(GoldenVectors(name, samples, got))
            break
        else:
            if answers.claim:
                text = f"{name} cannot be claimed: no agent here has it"
                raise TrainingError("bundle.untested", f"{text}; name one that has (--agent)")
    if tflite_micro.NAME in names:
        if not vectors:
            raise TrainingError("bundle.untested", f"{tflite_micro.NAME} is claimed beside a runtime of devices only")
        vectors.append(_micro(folder, draft, vectors[0]))
    absent = [name for name in names if name not in {each.runtime for each in vectors}]
    if absent:
        say(f"devices with {', '.join(absent)} will refuse the release: no agent here has it to test with (--agent)")
    return vectors


def _micro(folder: Path, draft: Draft, first: GoldenVectors) -> GoldenVectors:
    """What microcontrollers give for the golden windows, from the model's input of another runtime."""
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    model_input = first.found["model_input"]
    output = tflite_micro.run_micro(draft.content, model_input)
    score = InferenceTask(manifest).read(model_input, output).score
    return GoldenVectors(tflite_micro.NAME, first.samples, {**first.found, "model_output": output, "score": score})


def _assembled(
    draft: Draft,
    scaling: Scaling,
    head: Head,
    fields: dict[str, Any],
    data: LabelledWindows,
    found: Scores,
    vectors: Sequence[GoldenVectors],
    say: Say,
) -> tuple[dict[str, bytes], Manifest]:
    """The files of the bundle without its manifest, and the manifest without its gates."""
    files = {MODEL_FILES[draft.runtime]: draft.content, GOLDEN_FILE: bytes_of(vectors[0].arrays())}
    drift = _drift(head, data, found)
    if drift is None:
        say("there are too few healthy windows for a drift reference: its devices will not report drift")
    draft_manifest = draft.manifest(scaling, head, files=entries(files), **dict(fields))
    graph = chosen_graph(draft.runtime, draft.content, draft.signature or None)
    output = graph.outputs[chosen_output(graph.outputs, draft.output or None)]
    given = {spec.name: spec.scale for spec in draft.tensors}
    step = (
        (output.scale or given.get(output.label, 0.0)) if output.dtype not in ("float32", "float64", "float16") else 0.0
    )
    quantised = b"QuantizeLinear" in draft.content or b"QLinear" in draft.content or draft.runtime == "tflite"
    claimed: list[ClaimedRuntime] = []
    first = tolerances(draft_manifest, vectors[0], step, quantised)
    for number, each in enumerate(vectors):
        differs = number and not np.array_equal(each.found["model_output"], vectors[0].found["model_output"])
        if differs:
            files[golden_file(each.runtime)] = bytes_of(each.arrays(alone=False))
        own = tolerances(draft_manifest, each, step, quantised) if differs else None
        claimed.append(ClaimedRuntime(name=each.runtime, golden=own if own != first else None))  # type: ignore[arg-type]  # a runtime of RUNTIMES
    fields = {**fields, "files": entries(files), "golden": first, "drift": drift, "runtimes": claimed}
    return files, draft.manifest(scaling, head, **fields)


def _drift(head: Head, data: LabelledWindows, found: Scores) -> DriftSpec | None:
    """The drift reference, of healthy windows; for a remaining life of all."""
    labels = np.array(data.labels)
    normal = getattr(head, "normal", HEALTHY)
    rows = np.isfinite(found["score"]) & (np.isin(labels, normal) | (getattr(head, "warn_at", None) is not None))
    if rows.sum() < _LEAST_REFERENCE:
        return None
    an_hour = round(min(1e6, max(16.0, 3600.0 / data.step_seconds)))
    return fit_drift_spec(found["features"][rows], found["score"][rows], an_hour)


def _lineage(origin: str, scaling: Scaling, data: LabelledWindows) -> dict[str, str]:
    """Where the bundle comes from."""
    found = {"origin": f"bundle init of {origin}"[:200], "scaling": scaling.name}
    found |= {f"judged-on-{name}": text for name, text in data.lineage.items()}
    return found | {f"judged-on-{number}": digest for number, digest in enumerate(data.sha256[:200])}
