"""The recipe ``slow-signal``: its deviations beside numpy, what it finds, and what it does not take for a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wheeltapper_agent.model.bundle import Bundle, load_bundle
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.recipe_files import train_recipe
from wheeltapper_fleet.training.recipes import Job
from wheeltapper_fleet.training.runs.folder import RunFolder
from wheeltapper_fleet.training.runs.measured import Measured
from wheeltapper_fleet.training.slow_signal import detector, season_of
from wheeltapper_protocols.decision.decision import DecisionState
from wheeltapper_protocols.manifest.manifest import MODEL_FILE
from wheeltapper_protocols.signal.recording import Recording

HOURLY = 1 / 3600
Series = NDArray[np.float32]


def recording(series: Series, rate_hz: float = HOURLY) -> Recording:
    samples = np.asarray(series, dtype=np.float32).reshape(-1, 1, 1)
    return Recording(samples, np.ones(1), rate_hz, np.arange(len(samples)) / rate_hz, ("t",), ("degC",), {})


def daily(days: int, seed: int, noise: float = 0.3) -> Series:
    """A temperature that follows the day, with noise that lasts some hours."""
    random = np.random.default_rng(seed)
    slow = np.convolve(random.normal(size=24 * days + 5), np.ones(6) / 6, mode="valid")
    return np.asarray(20 + 5 * np.sin(np.arange(24 * days) * 2 * np.pi / 24) + noise * slow, dtype=np.float32)


def alerts(bundle: Bundle, series: Series) -> list[int]:
    """The samples at which a device raises an alert."""
    window = bundle.manifest.input.window_samples
    cuts = np.lib.stride_tricks.sliding_window_view(series, window)[:, :, None].copy()
    found, state = [], DecisionState()
    evaluation = bundle.evaluate(cuts)
    for row in range(len(cuts)):
        before = state.severity
        state, verdict = bundle.decide(state, evaluation, row)
        if verdict.alert and before.value == "normal":
            found.append(row + window - 1)
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("slow") / "bundle"
    parameters = {"window_samples": 240}
    folder = RunFolder(out.parent / "run")
    job = Job(out=out, model="coolant", shown=Measured(folder))
    manifest = train_recipe("slow-signal", parameters, [recording(daily(40, 1))], job)
    assert set(folder.plot_files()) == {"scores"}
    assert manifest.lineage["season_samples"] == "24"
    loaded = load_bundle(out)
    self_test(loaded)
    return loaded


def test_the_graph_says_the_deviations_that_numpy_says() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 96, 2)).astype(np.float32)
    x[3, -1, 1] += 7
    x[4] = 2.5

    def deviation(values: NDArray[Any], gap: int) -> float:
        past = values[: len(values) - gap].astype(np.float64)
        return float(abs(values[-1] - past.mean()) / np.sqrt(past.var() + 0.05**2))

    wanted = []
    for window in x:
        found = []
        for channel in window.T.astype(np.float64):
            for width in (1, 2, 4):
                means = np.convolve(channel, np.ones(width) / width, mode="valid")
                found += [deviation(means, width), deviation(means[width:] - means[:-width], width)]
            seasonal = channel[24:] - channel[:-24]
            for width in (1, 2, 3):
                found.append(deviation(np.convolve(seasonal, np.ones(width) / width, mode="valid"), width))
        wanted.append(max(found))
    output = open_session(detector(96, 2, 24)).run(["output"], {"input": x})[0][:, 0]
    np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-5)
    assert output[4] == 0
    assert output.argmax() == 3


def test_a_day_is_no_fault_and_what_breaks_it_is(bundle: Bundle) -> None:
    healthy = daily(60, 2)
    assert len(alerts(bundle, healthy)) <= 1
    level, still, spike = healthy.copy(), healthy.copy(), healthy.copy()
    level[1000:] += 4
    still[1000:] = still[999]
    spike[1000] = 60
    for broken in (level, still, spike):
        new = set(alerts(bundle, broken)) - set(alerts(bundle, healthy))
        assert new
        assert 1000 <= min(new) < 1048


def test_seasons_are_found_where_they_are() -> None:
    assert season_of([daily(30, 1)[:, None]], HOURLY, 240) == 24
    assert season_of([daily(30, 1)[:, None]], HOURLY, 40) == 0
    noise = np.random.default_rng(0).normal(size=(720, 1)).astype(np.float32)
    assert season_of([noise], HOURLY, 240) == 0
    weekly = daily(70, 1)
    weekly += np.where(np.arange(len(weekly)) % 168 < 48, 12, 0).astype(np.float32)
    assert season_of([weekly[:, None]], HOURLY, 400) == 168


def test_the_same_recording_gives_the_same_bytes_and_a_restless_one_a_higher_limit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    restless = np.cumsum(random.normal(size=2000)).astype(np.float32)
    warned: list[str] = []
    limits = []
    for name, series in (("one", daily(30, 1)), ("two", daily(30, 1)), ("three", restless)):
        made = train_recipe(
            "slow-signal", {}, [recording(series)], Job(out=tmp_path / name, model="m", warn=warned.append)
        )
        assert made.anomaly is not None
        limits.append(made.anomaly.threshold)
        assert made.input.window_samples == min(768, len(series) * 2 // 3)
    assert (tmp_path / "one" / MODEL_FILE).read_bytes() == (tmp_path / "two" / MODEL_FILE).read_bytes()
    assert limits[0] == limits[1] == 3.75
    if limits[2] > 3.75:
        assert len(warned) == 1


@pytest.mark.parametrize(
    ("series", "code"),
    [(daily(5, 1), "training.too_little"), (np.ones(500, np.float32), "training.channel")],
)
def test_what_teaches_nothing_is_refused(series: Series, code: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train_recipe("slow-signal", {}, [recording(series)], Job(out=tmp_path / "out", model="m"))
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()
