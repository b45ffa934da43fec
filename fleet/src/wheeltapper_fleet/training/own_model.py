"""What somebody's model and labelled data say of one another: its input, its task, its scaling, how its output is read.

What the model's file and the data say is found; what they leave open is asked; what cannot be known is refused with
advice.

Invariants:
    * Nothing is guessed: where two readings of a model are possible, the data tells them apart clearly, or the caller
      is asked.
    * The model is loaded by the agent's process only, under a device's limits.

What this module does not do: write a bundle (:mod:`bundle_init`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.desk_agent import DeskAgent
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.judging import metrics
from wheeltapper_fleet.training.judging.judge import HEALTHY, Say, Scores
from wheeltapper_fleet.training.labelled import LabelledWindows
from wheeltapper_fleet.training.own_draft import Answers, Ask, Draft, Head, Scaling, scaling_of, trial
from wheeltapper_fleet.training.own_input import Placement, placements, shape_text, tasks_of, usable_outputs
from wheeltapper_protocols.manifest.inference_task import InferenceTask
from wheeltapper_protocols.manifest.manifest import (
    MAX_FILE_BYTES,
    Anomaly,
    Classification,
    Manifest,
    RemainingLife,
)
from wheeltapper_protocols.manifest.model_file import chosen_graph
from wheeltapper_protocols.manifest.model_tensor import ModelGraph, ModelTensor
from wheeltapper_protocols.manifest.tflite_file import MAIN, read_tflite
from wheeltapper_protocols.signal.features import default_specs

__all__ = ["found_draft", "found_head", "found_scaling", "read_again", "read_model", "refuse"]

_TRIAL_WINDOWS: Final = 300
_CLEAR: Final = 0.1
"""How much better one scaling must be than the next, in accuracy or AUROC, to be taken without asking."""
_EXPLAINED: Final = 0.5
"""A reconstruction that leaves more of the input's deviation than this was given something else than it was trained on.
"""
_MARGIN: Final = 1.2
"""Between the greatest smoothed score of healthy windows and the threshold."""


def read_model(path: Path) -> tuple[bytes, Literal["onnx", "tflite"]]:
    """Read a model's file; its format is known by its content.

    Raises:
        TrainingError: ``bundle.model`` (it cannot be read), ``bundle.too_large``.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TrainingError("bundle.too_large", f"{path.name} has more than {MAX_FILE_BYTES} bytes; quantise it")
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError("bundle.model", f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise TrainingError("bundle.model", f"{path.name} is empty; export the model again")
    return content, "tflite" if content[4:8] == b"TFL3" or path.suffix == ".tflite" else "onnx"


def found_draft(
    content: bytes,
    runtime: Literal["onnx", "tflite"],
    data: LabelledWindows,
    answers: Answers,
    ask: Ask,
    say: Say,
) -> tuple[Draft, LabelledWindows]:
    """What model and data say of one another; the data is cut as the model takes it.

    Raises:
        TrainingError: ``bundle.input`` (no reading of a window fits), ``bundle.output``, ``bundle.task``,
            ``bundle.question`` (it must be said).
        WireError: ``runtime.*``: no device could run the model.
    """
    signature = _signature(content, runtime, answers, ask)
    graph = chosen_graph(runtime, content, signature or None)
    output = _output(graph, answers, ask, say)
    if len(graph.inputs) != 1:
        names = ", ".join(tensor.label for tensor in graph.inputs) or "none"
        raise TrainingError("bundle.input", f"the model has {len(graph.inputs)} inputs ({names}); export it with one")
    if answers.window_samples:
        data = data.cut(answers.window_samples)
    placement = _placement(graph.inputs[0], data, answers, ask, say)
    if placement.window_samples != data.input.window_samples:
        before = data.input.window_samples
        data = data.cut(placement.window_samples)
        say(f"windows of {before} samples are cut into {placement.window_samples}, as the model takes them")
    task = answers.task or _task(graph.inputs[0], output, ask)
    draft = Draft(
        content=content,
        runtime=runtime,
        input=data.input,
        placement=placement,
        task=task,
        output=output.label if len(graph.outputs) > 1 else "",
        signature=signature,
        tensors=answers.tensors,
        name=answers.name,
    )
    return draft, _with_labels(draft, data, say)


def _with_labels(draft: Draft, data: LabelledWindows, say: Say) -> LabelledWindows:
    """Of an anomaly model, data without any label is of healthy machines."""
    if draft.task in ("score", "reconstruction") and not data.labelled():
        say("no recording has a label: all are taken as recordings of healthy machines")
        return dataclasses.replace(data, labels=(HEALTHY[0],) * len(data))
    return data


def _signature(content: bytes, runtime: str, answers: Answers, ask: Ask) -> str:
    """The signature of a TFLite model; empty where it has one or none."""
    if runtime != "tflite" or answers.signature:
        return answers.signature
    names = [key for key in read_tflite(content) if key != MAIN]
    return ask("signature", "The model has several signatures; which one is run?", names) if len(names) > 1 else ""


def _output(graph: ModelGraph, answers: Answers, ask: Ask, say: Say) -> ModelTensor:
    """The output that is read: the named one, the only one that a device can read, or the one that is asked for."""
    usable = usable_outputs(graph)
    if answers.output:
        found = [tensor for tensor in graph.outputs if tensor.called(answers.output)]
        if not found:
            names = ", ".join(tensor.label for tensor in graph.outputs)
            raise TrainingError("bundle.output", f"the model has no output {answers.output!r}; it has {names}")
        return found[0]
    if not usable:
        names = ", ".join(shape_text(tensor) for tensor in graph.outputs) or "none"
        text = f"a device can read none of the model's outputs ({names})"
        raise TrainingError("bundle.output", f"{text}: export numbers as float32 (of scikit-learn with zipmap=False)")
    if len(usable) == 1:
        if len(graph.outputs) > 1:
            say(f"the output {shape_text(usable[0])} is read: devices cannot read the others")
        return usable[0]
    name = ask("output", "The model has several outputs; which one is read?", [tensor.label for tensor in usable])
    return next(tensor for tensor in usable if tensor.label == name)


def _placement(tensor: ModelTensor, data: LabelledWindows, answers: Answers, ask: Ask, say: Say) -> Placement:
    """How a window becomes the model's input."""
    shape = data.input
    count = len(default_specs(shape.sample_rate_hz, shape.channels, shape.window_samples))
    fitting = placements(tensor.shape, shape.window_samples, len(shape.channels), count)
    if answers.input:
        fitting = [each for each in fitting if each.text() == answers.input]
    if not fitting:
        text = (
            f"the model takes {shape_text(tensor)}; a window of the data has {shape.window_samples} samples of "
            f"{len(shape.channels)} channels, and {count} default features"
        )
        advice = "record longer windows, or train on what `wheeltapper bundle features --out x.npz` gives"
        raise TrainingError("bundle.input", f"{text}, and neither fits: {advice}")
    if len(fitting) > 1:
        chosen = ask(
            "input", f"The model takes {shape_text(tensor)}; what is it given?", [each.text() for each in fitting]
        )
        return next(each for each in fitting if each.text() == chosen)
    say(f"the model takes {shape_text(tensor)}: it is given {fitting[0].text().replace('_', ' by ')}")
    return fitting[0]


def _task(given: ModelTensor, output: ModelTensor, ask: Ask) -> str:
    """What the output stands for."""
    possible = tasks_of(given.shape, output.shape)
    if not possible:
        text = f"the output {shape_text(output)} is no score, probabilities, remaining life or reconstruction"
        raise TrainingError("bundle.task", f"{text}: export another one")
    return possible[0] if len(possible) == 1 else ask("task", f"What is the output {shape_text(output)}?", possible)


def found_scaling(
    draft: Draft, data: LabelledWindows, answers: Answers, agent: DeskAgent, ask: Ask, say: Say
) -> Scaling:
    """How the model's input is scaled: as said, or as the data shows clearly.

    Raises:
        TrainingError: ``bundle.scaling``, ``bundle.question``, and whatever the agent refuses the model with.
    """
    rows = _trial_rows(data)
    samples = data.samples[rows]
    reference = _reference(draft, data)
    if answers.scaling:
        return scaling_of(answers.scaling, draft, reference)
    names = ["none", "standard"] + (["log"] if draft.placement.kind == "features" else [])
    candidates: list[Scaling] = []
    for name in names:
        try:
            candidates.append(scaling_of(name, draft, reference))
        except TrainingError:
            continue
    worth = []
    for scaling in candidates:
        with trial(draft, scaling, _plain_head(draft, answers)) as folder:
            found = agent.evaluate(folder, samples, with_inputs=draft.task == "reconstruction")
        worth.append(_worth(draft, answers, data, rows, found))
    told = ", ".join(f"{scaling.name} {value:.3g}" for scaling, value in zip(candidates, worth, strict=True))
    best = _clearly_best(worth, _EXPLAINED if draft.task == "reconstruction" else 0.5)
    if best is not None:
        say(f"the scaling of the model's input is {candidates[best].name}: of the data it makes ({told})")
        return candidates[best]
    question = f"How was the model's input scaled in training? The data does not say ({told})"
    chosen = ask("scaling", question, [scaling.name for scaling in candidates])
    return next((each for each in candidates if each.name == chosen), None) or scaling_of(chosen, draft, reference)


def _reference(draft: Draft, data: LabelledWindows) -> npt.NDArray[np.float32]:
    """The windows whose mean and deviation are those of training, as far as the data knows."""
    if draft.task in ("score", "reconstruction"):
        healthy = np.array([label in HEALTHY for label in data.labels])
        if healthy.any():
            chosen: npt.NDArray[np.float32] = data.samples[healthy]
            return chosen
    return data.samples


def _trial_rows(data: LabelledWindows) -> npt.NDArray[np.int64]:
    """Some windows of every label, evenly spaced."""
    labels = np.array(data.labels)
    names = sorted(set(data.labels))
    each = max(1, _TRIAL_WINDOWS // len(names))
    parts = []
    for name in names:
        rows = np.flatnonzero(labels == name)
        parts.append(rows[np.unique(np.linspace(0, len(rows) - 1, each).astype(int))])
    return np.sort(np.concatenate(parts))


def _plain_head(draft: Draft, answers: Answers) -> Head:
    """A head that reads any output of the task, to look at it."""
    if draft.task == "reconstruction":
        return Anomaly(output="reconstruction", threshold=1.0) if draft.placement.kind == "raw" else None
    if draft.task == "score":
        return Anomaly(output="score", threshold=1.0)
    if draft.task == "remaining_life":
        return RemainingLife(unit="cycles", cap=1e9, warn_at=1.0, scale=answers.life_scale)
    return Classification(classes=list(answers.classes), normal=[answers.classes[0]], output="logits")


def _worth(draft: Draft, answers: Answers, data: LabelledWindows, rows: npt.NDArray[np.int64], found: Scores) -> float:
    """How well a scaling suits the data, 0 to 1; NaN where the data cannot say."""
    labels = np.array(data.labels)[rows]
    if draft.task == "reconstruction":
        given = found["model_input"].reshape(len(rows), -1).astype(np.float64)
        output = found["model_output"].reshape(len(rows), -1).astype(np.float64)
        healthy = np.array([label in HEALTHY for label in labels]) | (labels == "")
        apart = given[healthy] - (0.0 if draft.placement.kind == "raw" else given[healthy].mean(axis=0))
        left = float(np.sqrt(np.mean((given - output)[healthy] ** 2)) / (np.sqrt(np.mean(apart**2)) or 1.0))
        return float(np.clip(1.0 - left, 0.0, 1.0)) if math.isfinite(left) else 0.0
    if draft.task == "classification":
        known = np.isin(labels, answers.classes) & (found["label"] >= 0)
        if len(np.unique(labels[known])) < 2:
            return float("nan")
        predicted = np.array(answers.classes)[found["label"][known]]
        return metrics.balanced_accuracy(labels[known], predicted)(np.ones(int(known.sum())))
    if draft.task == "remaining_life":
        life = data.remaining_life(answers.unit or "cycles")[rows]
        known = np.isfinite(life) & np.isfinite(found["value"])
        if known.sum() < 3 or np.ptp(life[known]) == 0:
            return float("nan")
        error = metrics.rmse(found["value"][known], np.minimum(life[known], answers.cap or np.inf))(
            np.ones(int(known.sum()))
        )
        return float(np.clip(1.0 - error / np.std(life[known]), 0.0, 1.0))
    known = (labels != "") & np.isfinite(found["score"])
    faulty = np.array([label not in HEALTHY for label in labels[known]])
    if len(np.unique(faulty)) < 2:
        return float("nan")
    return metrics.auroc(found["score"][known], faulty)(np.ones(int(known.sum())))


def _clearly_best(worth: Sequence[float], least: float) -> int | None:
    """The index of the candidate that is good and clearly better than the others; None: the data does not say.

    Where all are equally good the first one, no scaling, is as right as any: the model scales by itself.
    """
    if len(worth) == 1:
        return 0 if math.isfinite(worth[0]) and worth[0] >= least else None
    if not all(math.isfinite(value) for value in worth):
        return None
    order = sorted(range(len(worth)), key=lambda index: -worth[index])
    best, second = order[0], order[1]
    if worth[best] < least or worth[best] - worth[second] < _CLEAR:
        return None
    return best


def found_head(
    draft: Draft,
    scaling: Scaling,
    data: LabelledWindows,
    answers: Answers,
    agent: DeskAgent,
    ask: Ask,
    say: Say,
) -> tuple[Head, dict[str, Any], Scores]:
    """How the model's output is read, fields of the manifest that belong to it, and what an agent gave for the data.

    Raises:
        TrainingError: ``bundle.not_finite``, ``bundle.threshold``, ``bundle.question``, ``bundle.unlabelled``.
    """
    with trial(draft, scaling, _plain_head(draft, answers)) as folder:
        found = agent.evaluate(folder, data.samples)
    output = found["model_output"]
    broken = ~np.isfinite(output.reshape(len(output), -1)).all(axis=1)
    if broken.any():
        text = f"the model gives numbers that are not finite for {int(broken.sum())} of {len(output)} windows"
        raise TrainingError("bundle.not_finite", f"{text}: look at its weights, or at --scaling")
    if draft.task == "classification":
        return _classes(output, answers, ask, say), {}, found
    if draft.task == "remaining_life":
        return _life(data, answers, ask, say), {}, found
    threshold = answers.threshold or _threshold(found["score"], data, say)
    if draft.task == "score":
        return Anomaly(output="score", threshold=threshold), {}, found
    if draft.placement.kind == "raw":
        return Anomaly(output="reconstruction", threshold=threshold), {}, found
    return None, {"threshold": threshold}, found


def read_again(manifest: Manifest, found: Scores) -> Scores:
    """What an agent gave for some windows, read as ``manifest`` says; the model need not be run again.

    Args:
        manifest: the same model with the same input.
        found: from a manifest of the same task whose threshold is 1, if it is a reconstruction.
    """
    if (manifest.anomaly is None and manifest.task == "anomaly") or (
        manifest.anomaly is not None and manifest.anomaly.output == "reconstruction"
    ):
        section = manifest.anomaly or manifest.scoring
        assert section is not None  # the manifest has one of the two
        return found | {"score": found["score"] / section.threshold}
    output = found["model_output"]
    read = InferenceTask(manifest).read(np.zeros((len(output), 1), dtype=np.float32), output)
    again: Scores = found | {"score": read.score}
    if read.labels is not None and manifest.classification is not None:
        places = {name: place for place, name in enumerate(manifest.classification.classes)}
        again["label"] = np.array([-1 if name is None else places[name] for name in read.labels], dtype=np.int64)
    return again | ({"value": read.values} if read.values is not None else {})


def _classes(output: npt.NDArray[Any], answers: Answers, ask: Ask, say: Say) -> Classification:
    """Which classes there are, which of them are normal, and whether the values are probabilities."""
    values = output.reshape(len(output), -1)
    if values.shape[1] != len(answers.classes):
        text = f"the model gives {values.shape[1]} values a window and there are {len(answers.classes)} classes"
        raise TrainingError("bundle.classes", f"{text} ({', '.join(answers.classes)}): correct --classes or --output")
    normal = answers.normal or tuple(name for name in answers.classes if name.lower() in HEALTHY)
    if not normal:
        normal = (ask("normal", "Which class means that the machine is healthy?", answers.classes),)
    slack = 0.05 + values.shape[1] / 512
    sums = np.abs(values.sum(axis=1, dtype=np.float64) - 1) <= slack
    probable = bool((values > -0.05).all() and (values < 1.05).all() and sums.all())
    say(f"the output is {'probabilities' if probable else 'logits'}; normal is {', '.join(normal)}")
    return Classification(
        classes=list(answers.classes), normal=list(normal), output="probabilities" if probable else "logits"
    )


def _life(data: LabelledWindows, answers: Answers, ask: Ask, say: Say) -> RemainingLife:
    """The unit, the longest life, and when to warn."""
    unit = answers.unit or ask("unit", "In which unit is the remaining life?", ("seconds", "hours", "cycles"))
    life = data.remaining_life(unit)
    if not np.isfinite(life).any():
        text = "no recording says how much life remains at its end: give --data 0=FILE for one that ends in a failure"
        raise TrainingError("bundle.unlabelled", text)
    cap = answers.cap or float(np.nanmax(life))
    if not answers.cap:
        say(f"the longest life that counts is {cap:g} {unit}, the longest in the data; --cap sets another")
    text = str(answers.warn_at) if answers.warn_at else ask("warn-at", f"Below how many {unit} shall it warn?", ())
    try:
        return RemainingLife(unit=unit, cap=cap, warn_at=float(text), scale=answers.life_scale)  # type: ignore[arg-type]  # checked by remaining_life
    except ValueError as error:
        raise TrainingError("bundle.question", f"--warn-at {text} cannot be: {error}") from error


def _threshold(score: npt.NDArray[np.float64], data: LabelledWindows, say: Say) -> float:
    """The value that becomes score 1.0: beyond what healthy windows show, smoothed as devices smooth it."""
    greatest, count = -math.inf, 0
    healthy = np.array([label in HEALTHY for label in data.labels])
    for index in range(len(data.names)):
        values = score[healthy & (data.recording == index) & np.isfinite(score)]
        if len(values):
            width = min(5, len(values))
            smoothed = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
            greatest, count = max(greatest, float(smoothed.max())), count + len(values)
    if not count:
        text = "the threshold needs windows of healthy machines: give --data normal=FILE, or --threshold"
        raise TrainingError("bundle.unlabelled", text)
    if greatest <= 0:
        text = f"healthy windows score at most {greatest:.4g}; a score rises with damage from 0 on"
        raise TrainingError("bundle.threshold", f"{text}: export it with the other sign or an offset")
    say(f"the warning threshold is {_MARGIN:g} times the greatest smoothed score of {count} healthy windows")
    return _MARGIN * greatest


def refuse(option: str, question: str, choices: Sequence[str]) -> str:
    """Answers no question: what is open must be said. For scripts.

    Raises:
        TrainingError: ``bundle.question``.
    """
    given = f" ({', '.join(choices)})" if choices else ""
    raise TrainingError("bundle.question", f"{question.rstrip('?')}: give --{option}{given}")
