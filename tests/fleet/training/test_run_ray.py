"""Trials on a Ray cluster of two workers: the same search, the same result as on one computer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fleet.training.run_sites import LIFE_RECIPE, RECIPE, coolant, pump, pumps
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.runs.child import execute
from wheeltapper_fleet.training.runs.folder import RunFolder, Task

pytestmark = pytest.mark.slow

SEARCH = (
    RECIPE
    + '[search]\nmetric = "healthy_above"\ndirection = "minimize"\ntrials = 3\nparallel = 2\nseeds = 2\n'
    + "[search.parameters]\nwindow_samples = { low = 150, high = 320 }\n"
)


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster with two workers of one processor each."""
    pytest.importorskip("ray", reason="pip install 'wheeltapper-fleet[ray]' to execute trials on Ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster.address
    finally:
        cluster.shutdown()


def searched(path: Path, store: DatasetStore, executor: str, recipe: str = SEARCH) -> tuple[RunFolder, Outcome]:
    folder = RunFolder(path)
    folder.begin(Task(run="r-0", recipe=recipe, seed=7, store=store.url, executor=executor))
    return folder, execute(folder)


def test_two_workers_find_what_one_computer_finds(tmp_path: Path, two_workers: str) -> None:
    store = DatasetStore(tmp_path / "store")
    coolant(store)
    _, local = searched(tmp_path / "local", store, "local")
    folder, spread = searched(tmp_path / "ray", store, "ray")
    assert (local.state, spread.state) == (State.SUCCEEDED, State.SUCCEEDED), (local, spread)
    assert {trial["state"] for trial in local.trials} >= {"complete"}
    for one, other in zip(local.trials, spread.trials, strict=True):
        for name in ("number", "state", "value", "parameters"):
            assert one[name] == other[name], (one, other)
    assert local.digests == spread.digests
    assert (folder.bundle / "manifest.json").exists()


def test_two_workers_fit_the_nets_that_one_fits(tmp_path: Path, two_workers: str) -> None:
    """Stated in docs/learning/runs.md: lives differ by at most 2 % of the model's own error."""
    store = DatasetStore(tmp_path / "store")
    pumps(store)
    _, alone = searched(tmp_path / "alone", store, "local", LIFE_RECIPE)
    _, shared = searched(tmp_path / "ray", store, "ray", LIFE_RECIPE + "[train]\nworkers = 2\n")
    assert (alone.state, shared.state) == (State.SUCCEEDED, State.SUCCEEDED), (alone, shared)
    series = np.concatenate([pump(seed).samples[-60:, 0] for seed in range(50, 60)])
    windows = np.lib.stride_tricks.sliding_window_view(series, 16, axis=0).transpose(0, 2, 1).copy()
    values = [load_bundle(tmp_path / name / "bundle").evaluate(windows).scores.values for name in ("alone", "ray")]
    assert values[0] is not None
    assert values[1] is not None
    apart = float(np.sqrt(np.mean((values[0] - values[1]) ** 2)))
    assert apart < 0.02 * alone.metrics["rmse"]
    assert shared.metrics["rmse"] == pytest.approx(alone.metrics["rmse"], rel=0.02)


def test_without_the_library_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    _, outcome = searched(tmp_path / "run", DatasetStore(tmp_path / "store"), "ray")
    assert (outcome.state, outcome.error_code) == (State.FAILED, "ray.missing")
    _, outcome = searched(tmp_path / "other", DatasetStore(tmp_path / "store"), "ray", RECIPE)
    assert outcome.error_code == "run.executor"
