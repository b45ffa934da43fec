"""Trials on a Ray cluster of two workers: the same search, the same result as on one computer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.training.run_sites import RECIPE, coolant
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


def test_without_the_library_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    _, outcome = searched(tmp_path / "run", DatasetStore(tmp_path / "store"), "ray")
    assert (outcome.state, outcome.error_code) == (State.FAILED, "ray.missing")
    _, outcome = searched(tmp_path / "other", DatasetStore(tmp_path / "store"), "ray", RECIPE)
    assert outcome.error_code == "run.executor"
