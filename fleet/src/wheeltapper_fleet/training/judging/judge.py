"""The gates of a release on labelled data: quality, per segment, across sites, against the champion, and alerts.

What is right or wrong is decided here from labels and from scores that an agent computed. Nothing is taken from what a
manifest says of itself.

Invariants:
    * The same scores and labels give the same gates: the resamples are seeded.
    * A gate that cannot be computed from the data is left out, and it is said why; it never passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.judging import metrics
from wheeltapper_fleet.training.judging.metrics import Estimate, Metric
from wheeltapper_fleet.training.labelled import SEGMENTS, LabelledWindows
from wheeltapper_protocols.decision.decision import DecisionState, step
from wheeltapper_protocols.manifest.manifest import Gate, Manifest

__all__ = ["HEALTHY", "HeldOut", "Limits", "Other", "Scores", "agreement", "judge", "judge_held_out", "quality"]

HEALTHY: Final = ("normal", "healthy", "good", "ok")
"""Labels of a machine without a fault, for a model that knows no classes."""
_SEED: Final = 0
_LEAST_WINDOWS: Final = 20
"""Of a segment, for a figure of its own."""
_LEAST_EACH: Final = 5
"""Of each label that a segment has."""
_NAMED: Final = 3
"""Segments that are named in a sentence."""
_LOOKED_AT: Final = 8
"""Segments whose interval is computed: those with the worst figures."""

Say = Callable[[str], None]
Scores = dict[str, npt.NDArray[Any]]
"""Arrays by name, as `wheeltapper-agent bundle evaluate` writes them."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a release must reach. Quality is in the unit of its metric."""

    accuracy: float = 0.8
    """Least balanced accuracy of a classification."""
    auroc: float = 0.8
    """Least probability that a faulty window has a higher anomaly score than a healthy one."""
    error_ratio: float = 0.7
    """Greatest error of a remaining life, over that of always saying the median life."""
    calibration: float = 0.1
    """Greatest expected calibration error of a classification."""
    false_alerts: float = 0.1
    """Greatest share of healthy windows during which the alert is on."""
    alerted: float = 0.5
    """Least share of faulty recordings that alert."""
    worse: float = 0.02
    """How much worse than the champion the release may be, in accuracy, AUROC, or as a share of its error."""
    across_sites: float = 0.2
    """Greatest difference between the best and the worst site."""
    worst: float = 0.6
    """The worst segment keeps at least so much of what the whole has beyond chance."""


@dataclass(frozen=True)
class Other:
    """A model that a release is compared with on the same windows."""

    gate: str
    """The name of the comparison's gate."""
    called: str
    """For people, in the middle of a sentence."""
    manifest: Manifest
    scores: Scores


@dataclass(frozen=True)
class _Quality:
    """The figure that says how good a release is."""

    name: str
    metric: Metric
    rows: npt.NDArray[np.int64]
    """The windows that it is computed from."""
    labels: npt.NDArray[Any]
    """Of these windows."""
    limit: float
    higher_is_better: bool
    chance: float
    scale: float = 1.0
    """What one unit of ``Limits.worse`` is."""
    one_alert: int = 0
    """Windows for which one alert is on; of a share of time with an alert, else 0."""

    def worst_allowed(self, whole: float, windows: int, limits: Limits) -> float:
        """What the worst segment of so many windows must reach; one alert is always allowed."""
        if self.one_alert:
            return min(1.0, max(self.limit, self.one_alert / windows, whole / max(limits.worst, 1e-9)))
        return self.chance + limits.worst * (whole - self.chance)


@dataclass(frozen=True)
class HeldOut:
    """What was found on data that a model was not trained on.

    Args:
        figure: the name of what says how good it is, and the value with its interval in words; empty: there is none.
        value: of it.
        gates: those that the data allows.
        missing: what it does not allow, by name (``champion``, ``site``, ``machine``, ``condition``), with the reason.
    """

    figure: str
    value: float | None
    gates: list[Gate]
    missing: dict[str, str]


def judge(
    manifest: Manifest,
    data: LabelledWindows,
    found: Scores,
    limits: Limits,
    say: Say,
    others: Sequence[Other] = (),
) -> list[Gate]:
    """Judge a release on labelled data.

    Args:
        manifest: of the release.
        data: windows with labels, which the model should not have been trained on.
        found: the release's scores of these windows.
        limits: what must be reached.
        say: called with a sentence for each gate that the data does not allow.
        others: models that it must not be worse than, such as the champion and the float model.

    Raises:
        TrainingError: ``bundle.label``: the data has a label that the manifest does not know; ``bundle.unlabelled``:
            nothing can be judged.
    """
    gates = [_finite(found)]
    figure = quality(manifest, data, found, limits)
    if figure is not None:
        gates += _quality_gates(figure, manifest, data, limits, say, others)
    elif manifest.task != "anomaly":
        raise TrainingError(
            "bundle.unlabelled", "nothing says how good the model is: give labelled data, as --data LABEL=FILE"
        )
    else:
        say("how well faults are found is not known: no window has a label of a fault, as --data fault=FILE gives it")
    gates += _alerts(manifest, data, found, limits, say)
    if manifest.classification is not None:
        gates.append(_calibration(manifest, data, found, limits))
    return gates


def quality(manifest: Manifest, data: LabelledWindows, found: Scores, limits: Limits) -> _Quality | None:
    """The figure for the task of ``manifest``; None where the labels do not allow one."""
    if manifest.classification is not None:
        classes = manifest.classification.classes
        truth = _classes(data, classes)
        rows = np.flatnonzero(truth >= 0)
        present = len(np.unique(truth[rows]))
        if present < 2:
            return None
        metric = metrics.balanced_accuracy(truth[rows], found["label"][rows])
        return _Quality("balanced_accuracy", metric, rows, truth[rows], limits.accuracy, True, 1 / present)
    if manifest.remaining_life is not None:
        life = np.minimum(data.remaining_life(manifest.remaining_life.unit), manifest.remaining_life.cap)
        rows = np.flatnonzero(np.isfinite(life) & np.isfinite(found["value"]))
        if len(rows) < _LEAST_WINDOWS or np.ptp(life[rows]) == 0:
            return None
        baseline = float(np.sqrt(np.mean((life[rows] - np.median(life[rows])) ** 2)))
        metric = metrics.rmse(found["value"][rows], life[rows])
        labels = np.zeros(len(rows), dtype=np.int64)
        limit = limits.error_ratio * baseline
        return _Quality("rmse", metric, rows, labels, limit, False, baseline, scale=baseline)
    faulty = _faulty(manifest, data)
    rows = np.flatnonzero((faulty >= 0) & ~np.isnan(found["score"]))
    if len(np.unique(faulty[rows])) < 2:
        return None
    metric = metrics.auroc(found["score"][rows], faulty[rows] == 1)
    return _Quality("auroc", metric, rows, faulty[rows], limits.auroc, True, 0.5)


def judge_held_out(
    manifest: Manifest, data: LabelledWindows, found: Scores, limits: Limits, champion: Other | str | None
) -> HeldOut:
    """Judge across machines, sites and conditions, and against a champion, on data that the model was not trained on.

    Where no window has a label of a fault, the figure of an anomaly model is the share of healthy time with an alert.

    Args:
        manifest: of the model.
        data: the windows with what is true of them.
        found: the model's scores of them.
        limits: what must be reached.
        champion: what the champion gave for the same windows; a text: why there is nothing; None: there is no champion.
    """
    missing: dict[str, str] = {"champion": champion} if isinstance(champion, str) else {}
    try:
        figure = _any_quality(manifest, data, found, limits)
    except TrainingError as error:
        return HeldOut("", None, [], dict.fromkeys(("champion", *SEGMENTS), error.message))
    if figure is None:
        why = "the held-out side has no window whose label says what is true"
        return HeldOut("", None, [], dict.fromkeys(("champion", *SEGMENTS), why) | missing)
    blocks = metrics.blocks_of(data.recording[figure.rows], figure.labels)
    whole = metrics.estimate(figure.metric, blocks, figure.labels, np.random.default_rng(_SEED))
    gates = []
    for name in SEGMENTS:
        made = _segment_gates(name, figure, data, whole, limits)
        if isinstance(made, str):
            missing[name] = made
        else:
            gates += made
    if isinstance(champion, Other):
        try:
            gates.append(_against(figure, champion, data, limits, blocks, lambda text: None))
        except TrainingError as error:
            missing["champion"] = error.message
    return HeldOut(f"{figure.name} {whole.value:.4g}, {whole.text()}", whole.value, gates, missing)


def _any_quality(manifest: Manifest, data: LabelledWindows, found: Scores, limits: Limits) -> _Quality | None:
    """The figure for the task; of an anomaly model without labels of faults the share of time with a false alert."""
    figure = quality(manifest, data, _scored(found), limits)
    if figure is not None or manifest.remaining_life is not None or manifest.classification is not None:
        return figure
    rows = np.flatnonzero(_faulty(manifest, data) == 0)
    if len(rows) < _LEAST_WINDOWS:
        return None
    on = np.zeros(len(rows))
    for index in np.unique(data.recording[rows]):
        mine = np.flatnonzero(data.recording[rows] == index)
        on[mine] = _alerting(manifest, found["score"][rows[mine]])
    labels = np.zeros(len(rows), dtype=np.int64)
    one_alert = manifest.decision.clear_windows
    return _Quality(
        "false_alert_rate", metrics.mean(on), rows, labels, limits.false_alerts, False, 1.0, one_alert=one_alert
    )


def _scored(found: Scores) -> Scores:
    """Scores in which what is no number is below all others: a device raises no alert for it."""
    score = found["score"]
    known = score[np.isfinite(score)]
    return found | {"score": np.where(np.isnan(score), known.min() - 1 if len(known) else 0.0, score)}


def _alerting(manifest: Manifest, score: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """[window]: whether the alert is on, by the decision of devices."""
    state, on = DecisionState(), np.zeros(len(score), dtype=bool)
    for row, value in enumerate(score):
        state, verdict = step(manifest.decision, state, float(value))
        on[row] = verdict.alert
    return on


def _quality_gates(
    figure: _Quality,
    manifest: Manifest,
    data: LabelledWindows,
    limits: Limits,
    say: Say,
    others: Sequence[Other],
) -> list[Gate]:
    random = np.random.default_rng(_SEED)
    blocks = metrics.blocks_of(data.recording[figure.rows], figure.labels)
    whole = metrics.estimate(figure.metric, blocks, figure.labels, random)
    gates = [_gate(figure.name, whole.value, figure.limit, figure.higher_is_better, whole.text())]
    for name in SEGMENTS:
        made = _segment_gates(name, figure, data, whole, limits)
        gates += [] if isinstance(made, str) else made
    return gates + [_against(figure, other, data, limits, blocks, say) for other in others]


def _segment_gates(
    name: str, figure: _Quality, data: LabelledWindows, whole: Estimate, limits: Limits
) -> list[Gate] | str:
    """The worst of the machines, sites or conditions, and for sites how far the best is from the worst; a text: why the
    data does not allow it.

    The worst of many is bad by chance alone. What counts is therefore the end of its interval that speaks for it, which
    holds for all of them together: a segment fails where it is shown to be worse.

    A segment is judged from :data:`_LEAST_WINDOWS` windows on, :data:`_LEAST_EACH` of each label that it has.
    """
    of_recording = np.array(data.segments[name])
    names = of_recording[data.recording[figure.rows]]
    present = sorted(set(names.tolist()) - {""})
    found: dict[str, float] = {}
    for each in present:
        labels = figure.labels[names == each]
        enough = len(labels) >= _LEAST_WINDOWS and np.unique(labels, return_counts=True)[1].min() >= _LEAST_EACH
        value = figure.metric((names == each).astype(np.float64)) if enough else np.nan
        if np.isfinite(value):
            found[each] = value
    if not present:
        return f"no recording says its {name}"
    if len(found) < 2:
        need = f"{_LEAST_WINDOWS} windows and {_LEAST_EACH} of each label"
        return f"{len(found)} of {len(present)} {name}s have {need} with which {figure.name} is judged; 2 are needed"
    sign = 1.0 if figure.higher_is_better else -1.0
    order = sorted(found, key=lambda each: sign * found[each])
    worst, interval = min(
        ((each, _interval(figure, names == each, data, len(found))) for each in order[:_LOOKED_AT]),
        key=lambda pair: sign * (pair[1].high if figure.higher_is_better else pair[1].low),
    )
    end = interval.high if figure.higher_is_better else interval.low
    least = figure.worst_allowed(whole.value, int((names == worst).sum()), limits)
    detail = (
        f"{worst!r} is the worst of {len(found)}: {interval.value:.3g}, {interval.text()}; the whole {whole.value:.3g}"
    )
    if left := [each for each in present if each not in found]:
        more = f" and {len(left) - _NAMED} more" if left[_NAMED:] else ""
        detail += f"; too small to judge: {', '.join(left[:_NAMED])}{more}"
    gates = [_gate(f"worst_{name}_{figure.name}", end, least, figure.higher_is_better, detail)]
    if name == "site" and not figure.one_alert:
        apart = (max(found.values()) - min(found.values())) / (figure.scale or 1.0)
        text = f"best and worst of {len(found)} sites apart; {worst!r} is the worst"
        gates.append(_gate("sites_apart", apart, limits.across_sites, False, text))
    return gates


def _interval(figure: _Quality, mine: npt.NDArray[np.bool_], data: LabelledWindows, segments: int) -> Estimate:
    """The figure on some of its windows, with an interval that holds for all ``segments`` together (Bonferroni)."""
    labels = figure.labels[mine]

    def metric(weights: npt.NDArray[np.float64]) -> float:
        everywhere = np.zeros(len(mine))
        everywhere[mine] = weights
        return figure.metric(everywhere)

    blocks = metrics.blocks_of(data.recording[figure.rows][mine], labels)
    confidence = 1 - (1 - metrics.CONFIDENCE) / segments
    return metrics.estimate(metric, blocks, labels, np.random.default_rng(_SEED), confidence)


def _against(
    figure: _Quality,
    given: Other,
    data: LabelledWindows,
    limits: Limits,
    blocks: npt.NDArray[np.int64],
    say: Say,
) -> Gate:
    """How much better than another model, on the same resamples of the same windows."""
    other = _any_quality(given.manifest, data, given.scores, limits)
    if other is None or other.name != figure.name:
        text = f"{given.called} has another task or other classes: it cannot be compared"
        raise TrainingError("bundle.champion", text)
    theirs = _on_rows(other, figure.rows, len(data))
    sign = 1.0 if figure.higher_is_better else -1.0

    def difference(weights: npt.NDArray[np.float64]) -> float:
        return sign * (figure.metric(weights) - theirs(weights)) / figure.scale

    found = metrics.estimate(difference, blocks, figure.labels, np.random.default_rng(_SEED))
    if not np.isfinite([found.value, found.low]).all():
        text = f"nothing of {figure.name} is left to compare with {given.called} on these windows"
        raise TrainingError("bundle.champion", text)
    if found.low < 0 < found.high:
        say(f"the data does not tell the release and {given.called} apart: the difference is {found.text()}")
    detail = f"{figure.name} beyond that of {given.called}; {found.text()}; the lower end counts"
    return _gate(given.gate, found.low, -limits.worse, True, detail)


def agreement(found: Scores, reference: Scores) -> Gate:
    """Gate ``int8_agreement``: how far scores are from those of the float model: the 95 % quantile of the difference,
    over the float score or over 0.2, whichever is greater."""
    ours, theirs = found["score"], reference["score"]
    value = float(np.quantile(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 0.2), 0.95))
    return _gate("int8_agreement", value, 0.1, False, "95 % of the windows are no farther from the float model")


def _on_rows(other: _Quality, rows: npt.NDArray[np.int64], windows: int) -> Metric:
    """The other release's metric as a function of weights of ``rows``."""

    def metric(weights: npt.NDArray[np.float64]) -> float:
        everywhere = np.zeros(windows)
        everywhere[rows] = weights
        return other.metric(everywhere[other.rows])

    return metric


def _alerts(manifest: Manifest, data: LabelledWindows, found: Scores, limits: Limits, say: Say) -> list[Gate]:
    """The share of healthy windows with an alert, and of faulty recordings that alert: the decision of devices."""
    if manifest.remaining_life is not None:
        return []
    faulty = _faulty(manifest, data)
    on, alerted, recordings = 0, 0, 0
    healthy = int((faulty == 0).sum())
    for index in range(len(data.names)):
        for kind in (0, 1):
            rows = np.flatnonzero((data.recording == index) & (faulty == kind))
            if not len(rows):
                continue
            alerts = int(_alerting(manifest, found["score"][rows]).sum())
            if kind == 0:
                on += alerts
            elif len(rows) >= manifest.decision.raise_windows + manifest.decision.smooth_windows:
                recordings, alerted = recordings + 1, alerted + bool(alerts)
    gates = []
    if healthy:
        detail = f"the alert is on during {on} of {healthy} healthy windows"
        gates.append(_gate("false_alert_rate", on / healthy, limits.false_alerts, False, detail))
    else:
        say("false alerts are not known: no window has a label of a healthy machine, as --data normal=FILE gives it")
    if recordings:
        detail = f"at least; {alerted} of {recordings} faulty recordings alert"
        gates.append(_gate("faulty_alerted", alerted / recordings, limits.alerted, True, detail))
    return gates


def _calibration(manifest: Manifest, data: LabelledWindows, found: Scores, limits: Limits) -> Gate:
    """How far the probabilities are from the shares of right answers."""
    section = manifest.classification
    assert section is not None  # the caller has looked
    truth = _classes(data, section.classes)
    rows = np.flatnonzero((truth >= 0) & (found["label"] >= 0))
    values = np.asarray(found["model_output"][rows], dtype=np.float64).reshape(len(rows), -1)
    if section.output == "logits":
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values /= values.sum(axis=1, keepdims=True)
    sure = np.clip(values.max(axis=1), 0.0, 1.0)
    right = found["label"][rows] == truth[rows]
    blocks = metrics.blocks_of(data.recording[rows], truth[rows])
    random = np.random.default_rng(_SEED)
    whole = metrics.estimate(metrics.calibration_error(sure, right), blocks, truth[rows], random)
    return _gate("calibration_error", whole.value, limits.calibration, False, whole.text())


def _finite(found: Scores) -> Gate:
    """How many scores are no numbers; none may be."""
    missing = float(np.sum(~np.isfinite(found["score"])))
    return Gate(name="finite", value=missing, limit=0.0, passed=missing == 0)


def _classes(data: LabelledWindows, classes: list[str]) -> npt.NDArray[np.int64]:
    """[window]: the index of each label among the classes; -1 where there is no label."""
    places = {name: place for place, name in enumerate(classes)} | {"": -1}
    unknown = sorted(set(data.labels) - set(places))
    if unknown:
        text = f"the data has the label {unknown[0]!r}; the classes are {', '.join(classes)}"
        raise TrainingError("bundle.label", f"{text}: correct --data or --classes")
    return np.array([places[label] for label in data.labels], dtype=np.int64)


def _faulty(manifest: Manifest, data: LabelledWindows) -> npt.NDArray[np.int64]:
    """[window]: 1 where the label is one of a fault, 0 of a healthy machine, -1 where there is none."""
    healthy = manifest.classification.normal if manifest.classification is not None else HEALTHY
    return np.array([-1 if not label else int(label not in healthy) for label in data.labels], dtype=np.int64)


def _gate(name: str, value: float, limit: float, at_least: bool, detail: str) -> Gate:
    passed = bool(value >= limit if at_least else value <= limit)
    return Gate(name=name, value=float(value), limit=float(limit), passed=passed, detail=detail[:500])
