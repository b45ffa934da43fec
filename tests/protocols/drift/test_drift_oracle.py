"""PSI compared with evidently's, which is in ``.venv-oracles`` (``make oracles``): its libraries conflict with ours."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wheeltapper_fleet.training.evaluate import compute_features
from wheeltapper_fleet.training.importers import import_femto
from wheeltapper_protocols.drift.drift import distances, fit_reference
from wheeltapper_protocols.drift.sketch import Bins
from wheeltapper_protocols.signal.features import FeatureSet, default_specs

ROOT = Path(__file__).resolve().parents[3]
Values = NDArray[Any]

pytestmark = [pytest.mark.slow, pytest.mark.data]
LIMIT = 0.25
FLOOR = 1e-4
"""The share that evidently uses for an empty bin, unless another bin has a lower one."""


@pytest.fixture(scope="module")
def evidently() -> Callable[[list[dict[str, Any]]], list[float]]:
    """Evidently's PSI of some pairs of samples."""
    python = ROOT / ".venv-oracles" / "bin" / "python"
    if not python.exists():
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("no .venv-oracles: make oracles")

    def ask(cases: list[dict[str, Any]]) -> list[float]:
        done = subprocess.run(
            [python, Path(__file__).with_name("psi_oracle.py")],
            input=json.dumps(cases).encode(),
            capture_output=True,
            check=True,
            env={"PATH": os.environ["PATH"], "DO_NOT_TRACK": "1"},
        )
        answers: list[float] = json.loads(done.stdout)
        return answers

    return ask


def real_pairs(data_dir: Path) -> list[tuple[Values, Values]]:
    """(reference, now) of every feature of a bearing, a tenth of its life apart each time."""
    run = import_femto(data_dir / "femto" / "Learning_set__Bearing1_1.npz")
    specs = default_specs(run.sample_rate_hz, run.channels, run.window_samples)
    features = FeatureSet(specs, run.sample_rate_hz, run.window_samples, len(run.channels))
    table = compute_features(features, run)
    parts = np.array_split(table[1402:], 3)
    return [
        (reference[:, column], now[:, column])
        for reference, now in ((parts[0], parts[1]), (parts[0], parts[2]), (table[1402::2], table[1403::2]))
        for column in range(table.shape[1])
    ]


def floored(counts: Values) -> Values:
    """Shares with evidently's floor in place of 0."""
    shares = counts / counts.sum()
    return np.where(shares == 0, FLOOR, shares)


def test_psi_agrees_with_evidently(data_dir: Path, evidently: Callable[[list[dict[str, Any]]], list[float]]) -> None:
    pairs = real_pairs(data_dir)
    references = [fit_reference(reference) for reference, _ in pairs]
    sketched = [Bins([one.edges]).sketch(now[:, None]) for one, (_, now) in zip(references, pairs, strict=True)]
    cases = []
    for single, (reference, now) in zip(references, pairs, strict=True):
        edges = np.asarray(single.edges, dtype=np.float32)
        labels = [np.searchsorted(edges, one.astype(np.float32), side="right").tolist() for one in (reference, now)]
        cases.append({"reference": labels[0], "now": labels[1], "categories": True})
    cases += [{"reference": a.tolist(), "now": b.tolist(), "categories": False} for a, b in pairs]
    answers = evidently(cases)
    same_bins, own_bins = answers[: len(pairs)], answers[len(pairs) :]

    # Over our bins, with evidently's floor for empty ones: the same number.
    for single, sketch, theirs in zip(references, sketched, same_bins, strict=True):
        counts = sketch.counts[0]
        seen = (np.array(single.counts) + counts) > 0  # evidently knows no bin that nobody fell in
        p, q = floored(np.array(single.counts)[seen]), floored(counts[seen])
        assert float(np.sum((q - p) * np.log(q / p))) == pytest.approx(theirs, rel=1e-9, abs=1e-12)

    # With half a count in place of the floor: somewhat less, since a bin that training left empty counts for less.
    ours = [distances([one], sketch)[0].psi for one, sketch in zip(references, sketched, strict=True)]
    for mine, theirs in zip(ours, same_bins, strict=True):
        assert 0.6 * theirs <= mine <= theirs * (1 + 1e-9)

    # Over evidently's own bins (of equal width, both samples together) outliers hide what bins of equal shares show:
    # the verdicts agree on 9 of 10 features or more, and where they do not, it is ours that says "moved".
    verdicts = [(mine > LIMIT, theirs > LIMIT) for mine, theirs in zip(ours, own_bins, strict=True)]
    different = [pair for pair in verdicts if pair[0] != pair[1]]
    assert len(different) <= 0.1 * len(verdicts)
    assert set(different) <= {(True, False)}
    unchanged = verdicts[-len(verdicts) // 3 :]
    assert set(unchanged) == {(False, False)}
    assert (True, True) in verdicts
