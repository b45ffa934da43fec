"""How early the default recipe warns of real bearing failures, and how often it raises false alarms.

The cases are FEMTO's runs to failure, each scored by a model trained on its own first 10 %, on the first 10 % of all
runs, and on the other runs only; shortened and thinned runs; single channels; and the CWRU bearings, with a model
trained on the first half of the healthy recording. The baseline in the same table is a fixed limit: six standard
deviations above the mean RMS of the healthy part (of the louder channel), with the same smoothing and hysteresis.

    python benchmarks/anomaly_quality.py [--data DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wheeltapper_fleet.training.anomaly import train_anomaly
from wheeltapper_fleet.training.evaluate import Bundle, compute_features, evaluate, first_alert, read_bundle
from wheeltapper_fleet.training.importers import import_cwru, import_femto
from wheeltapper_fleet.training.recipe import DECISION
from wheeltapper_protocols.decision.decision import DecisionState, decide
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec
from wheeltapper_protocols.signal.recording import Recording


@dataclass(frozen=True)
class Row:
    """One recording scored by one bundle."""

    case: str
    recording: str
    snapshots: int
    first_alert: int | None
    life: float | None
    minutes_before_end: float | None
    early_alerts: int
    """Snapshots of the first quarter with the alert on."""
    threshold: float
    early_peak: float
    """Greatest smoothed score of the first quarter."""
    baseline_first: int | None
    baseline_early: int


def _baseline(recording: Recording, fraction: float) -> list[bool]:
    count = len(recording.channels)
    specs = [FeatureSpec(name=f"rms{i}", kind="rms", channel=i) for i in range(count)]
    features = FeatureSet(specs, recording.sample_rate_hz, recording.window_samples, count)
    rms = compute_features(features, recording).astype(np.float64)
    healthy = rms[: max(2, int(recording.snapshots * fraction))]
    score = np.max((rms - healthy.mean(axis=0)) / (6 * healthy.std(axis=0) + 1e-12), axis=1)
    state, found = DecisionState(), []
    for value, row in zip(score, rms, strict=True):
        state, verdict = decide(DECISION, state, value, np.ones(count), row, features.names, row)
        found.append(verdict)
    return [verdict.alert for verdict in found]


def judge(case: str, name: str, recording: Recording, bundle: Bundle, fraction: float = 0.1) -> Row:
    """Score one recording and return its row of the table."""
    result = evaluate(recording, bundle)
    first = first_alert(result.verdicts)
    quarter = recording.snapshots // 4
    base = _baseline(recording, fraction)
    end = recording.t_s[-1]
    return Row(
        case=case,
        recording=name,
        snapshots=recording.snapshots,
        first_alert=first,
        life=None if first is None else round(first / recording.snapshots, 3),
        minutes_before_end=None if first is None else round((end - recording.t_s[first]) / 60, 1),
        early_alerts=int(result.alert[:quarter].sum()),
        threshold=round(bundle.manifest.scoring.threshold, 1) if bundle.manifest.scoring else 0.0,
        early_peak=round(max(verdict.score for verdict in result.verdicts[:quarter]), 2),
        baseline_first=base.index(True) if any(base) else None,
        baseline_early=sum(base[:quarter]),
    )


def _train(recordings: list[Recording], fraction: float = 0.1) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        train_anomaly(recordings, healthy_fraction=fraction, out=Path(folder, "bundle"))
        return read_bundle(Path(folder, "bundle"))


def _channel(run: Recording, channel: int) -> Recording:
    one = slice(channel, channel + 1)
    return replace(
        run, samples=run.samples[:, :, one], scale=run.scale[one], channels=run.channels[one], units=run.units[one]
    )


def femto(data: Path) -> list[Row]:
    """The rows of the runs to failure."""
    runs = {path.stem[-3:]: import_femto(path) for path in sorted((data / "femto").glob("*.npz"))}
    rows = [judge("own", name, run, _train([run])) for name, run in runs.items()]
    pooled = _train(list(runs.values()))
    rows += [judge("pooled", name, run, pooled) for name, run in runs.items()]
    for name, run in runs.items():
        others = _train([other for key, other in runs.items() if key != name])
        rows.append(judge("left-out", name, run, others))
    for name, run in runs.items():
        thin = run.part(slice(0, None, max(1, run.snapshots // 230)))
        rows.append(judge("thinned", name, thin, _train([thin])))
    for name, run in runs.items():
        for channel, label in enumerate(run.channels):
            alone = _channel(run, channel)
            rows.append(judge(label, name, alone, _train([alone])))
        fourth = run.part(slice(0, None, 4))
        if fourth.snapshots >= 160:
            rows.append(judge("every-fourth", name, fourth, _train([fourth])))
    for name, run in runs.items():
        tail = run.part(slice(run.snapshots // 4, None))
        rows.append(judge("from-quarter", name, tail, _train([tail])))
    for name, run in runs.items():
        tail = run.part(slice(max(0, run.snapshots - 230), None))
        rows.append(judge("last-230", name, tail, _train([tail])))
    for name, run in runs.items():
        head = run.part(slice(0, run.snapshots // 4))
        rows.append(judge("healthy-quarter", name, head, _train([head], 0.4), 0.4))
    return rows


def cwru(data: Path) -> list[Row]:
    """The rows of the CWRU bearings, all at 48 kHz."""
    with np.load(data / "cwru" / "cwru_de_int16.npz", allow_pickle=False) as archive:
        names = [name for name in archive.files if name.startswith("48k") and "__" not in name]
    normal = import_cwru(data / "cwru", "normal_0_97", 2048)
    bundle = _train([normal.part(slice(0, normal.snapshots // 2))], 1.0)
    rows = [judge("cwru", "normal, second half", normal.part(slice(normal.snapshots // 2, None)), bundle)]
    for name in names:
        rows.append(judge("cwru", name, import_cwru(data / "cwru", name, 2048), bundle))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("WHEELTAPPER_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = femto(arguments.data) + cwru(arguments.data)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(
        f"{'case':16}{'recording':28}{'n':>5}{'first':>7}{'life':>7}{'min left':>9}{'early':>6}{'thr':>6}{'peak':>6}"
        f"{'6-sigma first/early':>21}"
    )
    for row in rows:
        base = f"{row.baseline_first}/{row.baseline_early}"
        print(
            f"{row.case:16}{row.recording:28}{row.snapshots:5}{row.first_alert!s:>7}{row.life!s:>7}"
            f"{row.minutes_before_end!s:>9}{row.early_alerts:6}{row.threshold:6.1f}{row.early_peak:6.2f}{base:>21}"
        )


if __name__ == "__main__":
    main()
