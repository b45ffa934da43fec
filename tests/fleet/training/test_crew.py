"""Nets that several processes fit together: the same steps as one, on all of them alike, or an error on all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from tests.fleet.training.run_sites import RECIPE, coolant
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.runs.recipe_text import read_recipe
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.training.convnet import ConvNet, Convolution, Fit, fit
from wheeltapper_fleet.training.crew import ALONE, Crew, Meeting, Member, Seat
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.runs.child import execute
from wheeltapper_fleet.training.runs.folder import RunFolder, Task
from wheeltapper_fleet.training.runs.together import train_together
from wheeltapper_protocols.manifest.manifest import MODEL_FILE, decode_manifest

Array = NDArray[np.float32]


def together(size: int, work: Callable[[Crew], Any]) -> list[Any]:
    """What each of some threads makes of its place in a crew."""
    made: list[Any] = [None] * size

    def one(seat: Seat) -> None:
        try:
            made[seat.rank] = work(Member(seat))
        except TrainingError as error:
            made[seat.rank] = error.code

    with Meeting(size, "127.0.0.1") as meeting:
        threads = [threading.Thread(target=one, args=(meeting.seat(rank),)) for rank in range(size)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    return made


def fitted(crew: Crew, how: Fit, classes: bool = False) -> tuple[list[Array], list[float]]:
    random = np.random.default_rng(0)
    x = random.normal(size=(150, 16, 2)).astype(np.float32)
    height = x[:, 4:8].mean(axis=(1, 2))[:, None]
    net = ConvNet(16, 2, [Convolution(5, 3), Convolution(4, 3, stride=2)], 6, 2 if classes else 1, average=classes)
    for _ in fit(net, x, (height[:, 0] > 0).astype(int) if classes else height, how, 3, crew):
        pass
    return [*net.weights, *net.biases], net.losses


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_that_fit_together_take_the_steps_of_one(size: int, classes: bool) -> None:
    how = Fit(loss="classes" if classes else "square", epochs=4, batch=31, noise=0.1)
    alone, losses = fitted(ALONE, how, classes)
    found = together(size, lambda crew: fitted(crew, how, classes))
    for values, seen in found:
        assert all((one == first).all() for one, first in zip(values, found[0][0], strict=True))  # to the bit
        for one, wanted in zip(values, alone, strict=True):
            np.testing.assert_allclose(one, wanted, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(seen, losses, rtol=1e-3)


def test_a_batch_may_be_smaller_than_the_crew() -> None:
    how = Fit(epochs=1, batch=2)
    alone, _ = fitted(ALONE, how)
    for values, _ in together(3, lambda crew: fitted(crew, how)):
        for one, wanted in zip(values, alone, strict=True):
            np.testing.assert_allclose(one, wanted, rtol=1e-3, atol=1e-4)


def test_a_member_that_is_lost_ends_all_and_strangers_are_not_heard() -> None:
    def work(crew: Crew) -> str:
        for step in range(100):
            if crew.rank == 1 and step == 3:
                raise TrainingError("training.gate_failed", "this one has had enough")
            (total,) = crew.sum([np.full((2, 3), crew.rank + 1, np.float32)])
            assert (total == 6).all()
        return "done"

    def leaving(crew: Crew) -> str:
        try:
            return work(crew)
        finally:
            crew._socket.close()  # type: ignore[attr-defined]  # a process that ends closes it

    assert together(3, leaving) == ["crew.lost", "training.gate_failed", "crew.lost"]
    with Meeting(1, "127.0.0.1") as meeting:
        seat = meeting.seat(0)
        with socket.create_connection((seat.host, seat.port)) as stranger:
            stranger.sendall(b"\0" * 40)
            assert stranger.recv(1) == b""
        with pytest.raises(TrainingError) as caught:
            Member(replace(seat, token="ff" * 32)).sum([np.ones(1, np.float32)])
        assert caught.value.code == "crew.lost"
        (alone,) = Member(seat).sum([np.ones(2, np.float32)])
        assert alone.tolist() == [1, 1]


def test_a_meeting_to_which_nobody_comes_ends_at_once() -> None:
    with Meeting(2, "127.0.0.1") as meeting:
        seat = meeting.seat(0)
    with pytest.raises(TrainingError) as caught:
        Member(seat).sum([np.ones(1, np.float32)])
    assert caught.value.code == "crew.lost"


def test_members_of_different_nets_are_told_apart() -> None:
    assert together(2, lambda crew: crew.sum([np.ones(crew.rank + 1, np.float32)])) == ["crew.lost"] * 2


def trained(path: Path, store: DatasetStore, recipe: str, executor: str = "local") -> RunFolder:
    folder = RunFolder(path)
    folder.begin(Task(run="r-0", recipe=recipe, seed=7, store=store.url, executor=executor))
    outcome = execute(folder)
    assert outcome.state is State.SUCCEEDED, outcome
    return folder


def test_a_run_of_two_workers_gives_what_one_gives(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "store")
    coolant(store)
    one, two = (
        trained(tmp_path / str(workers), store, RECIPE + f"[train]\nworkers = {workers}\n") for workers in (1, 2)
    )
    assert (one.bundle / MODEL_FILE).read_bytes() == (two.bundle / MODEL_FILE).read_bytes()
    lineage = decode_manifest((two.bundle / "manifest.json").read_bytes()).lineage
    assert (lineage["workers"], lineage["run"]) == ("2", "r-0")
    assert set(two.plot_files()) == {"scores"}
    assert {each.name for each in (two.path / "workers").iterdir()} == {"00", "01"}
    assert not list((two.path / "workers").glob("*/bundle"))


class Failing:
    """An executor whose second task fails by itself, and the others because of it."""

    host = "127.0.0.1"

    def run(self, folders: Sequence[RunFolder], deadline: float, tell: Callable[[], None]) -> None:
        for folder in folders:
            seat = folder.task().seat
            assert seat is not None
            code = "training.too_little" if seat.rank == 1 else "crew.lost"
            folder.write_outcome(Outcome(state=State.FAILED, error_code=code, error_detail="why"))

    def close(self) -> None:
        pass


def test_the_reason_of_the_worker_that_failed_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    task = Task(run="r-0", recipe=RECIPE, seed=7)
    folder.begin(task)
    with pytest.raises(TrainingError) as caught:
        train_together(folder, task, 3, Failing(), lambda text, done: None)
    assert caught.value.code == "training.too_little"


def test_workers_of_trials_are_refused() -> None:
    search = '[search]\nmetric = "x"\ndirection = "minimize"\ntrials = 1\n'
    for wrong in ("[train]\nworkers = 2\n" + search, "[train]\nworkers = 0\n", "[train]\nprocesses = 2\n"):
        with pytest.raises(TrainingError) as caught:
            read_recipe(RECIPE + wrong)
        assert caught.value.code == "recipe.malformed"
