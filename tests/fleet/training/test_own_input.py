"""How somebody's model fits a window, by shapes; models that others published are read or refused, never an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fleet.training.own_models import machine, write_machines
from tests.fleet.training.test_own_model import Run, run
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.labelled import read_labelled
from wheeltapper_fleet.training.own_draft import Answers
from wheeltapper_fleet.training.own_input import placements, tasks_of
from wheeltapper_fleet.training.own_model import found_draft, read_model, refuse
from wheeltapper_fleet.training.tables import TableForm
from wheeltapper_fleet.training.tflite_micro import has_tflite_micro
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.manifest import decode_manifest
from wheeltapper_protocols.signal.recording import Recording, write_recording

__all__ = ["run"]


@pytest.mark.parametrize(
    ("shape", "channels", "found"),
    [
        ((None, 4096, 1), 1, [("sample_channel", 4096)]),
        ((None, 1, 4096), 1, [("channel_sample", 4096)]),
        ((1, 4096), 1, [("flat", 4096)]),  # of one channel: as many axes as the input has
        ((None, 4096, 2), 2, [("sample_channel", 4096)]),
        ((None, 2, 4096), 2, [("channel_sample", 4096)]),
        ((None, 8192), 2, [("flat", 4096)]),
        ((None, 14), 1, [("features", 4096)]),  # not windows of 14 samples
        ((None, 1024, 2), 2, [("sample_channel", 1024)]),  # shorter windows, cut
        ((None, None, 2), 2, [("sample_channel", 4096)]),
        ((None, None), 1, [("features", 4096), ("flat", 4096)]),
        ((None, 8192, 2), 2, []),  # longer than what there is
        ((None, 7, 9), 1, []),
        ((None, 3, 3, 3), 1, []),
    ],
)
def test_every_reading_of_an_input_is_found(
    shape: tuple[int | None, ...], channels: int, found: list[tuple[str, int]]
) -> None:
    got = placements(shape, 4096, channels, 14)
    assert [(each.text(), each.window_samples) for each in got] == found


def test_two_readings_of_one_shape_are_both_found() -> None:
    assert {each.text() for each in placements((None, 4, 4), 4, 4, 14)} == {"sample_channel", "channel_sample"}


@pytest.mark.parametrize(
    ("given", "output", "found"),
    [
        ((None, 640), (None, 640), {"reconstruction", "classification"}),
        ((None, 512, 1), (None, 512, 1), {"reconstruction"}),
        ((None, 512, 1), (None, 1), {"score", "remaining_life"}),
        ((None, 512, 1), (None,), {"score", "remaining_life"}),
        ((None, 512, 1), (None, 4), {"classification"}),
        ((None, 512, 1), (None, 3, 3), set()),
    ],
)
def test_tasks_follow_from_shapes(
    given: tuple[int | None, ...], output: tuple[int | None, ...], found: set[str]
) -> None:
    assert set(tasks_of(given, output)) == found


def test_longer_windows_are_cut_and_lives_follow(tmp_path: Path) -> None:
    write_machines(tmp_path / "m", "normal", each=1)
    data = read_labelled([f"3={tmp_path / 'm'}"], TableForm(), lambda text: None)
    cut = data.cut(200)
    assert (len(data), len(cut), cut.input.window_samples) == (40, 80, 200)
    assert np.array_equal(cut.samples[1], data.samples[0, 200:400])
    assert cut.t_s[1] == pytest.approx(200 / 12_800)
    assert data.remaining_life("cycles")[[0, -1]].tolist() == [42.0, 3.0]
    assert data.remaining_life("seconds")[[0, -1]].tolist() == [393.0, 3.0]
    with pytest.raises(TrainingError) as caught:
        data.cut(1000)
    assert caught.value.code == "bundle.window"


def test_data_that_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    write_recording(machine("normal", 1), tmp_path / "a.npz")
    write_recording(machine("normal", 1), tmp_path / "again.npz")
    write_recording(machine("normal", 2, channels=2), tmp_path / "two.npz")
    for files, code in (
        (["a.npz", "again.npz"], "training.repeated"),
        (["a.npz", "two.npz"], "training.mixed_input"),
        (["none.npz"], "bundle.data"),
        ([], "bundle.data"),
    ):
        with pytest.raises(TrainingError) as caught:
            read_labelled([str(tmp_path / name) for name in files], TableForm(), lambda text: None)
        assert caught.value.code == code


@pytest.mark.data
def test_models_that_others_published_are_read_or_refused_with_a_code(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "models"
    models = [*sorted(folder.glob("*.tflite")), *sorted(folder.rglob("*.onnx"))]
    assert len(models) > 30
    write_machines(tmp_path / "m", "normal", each=1)
    data = read_labelled([str(tmp_path / "m")], TableForm(), lambda text: None)
    refused = {}
    for path in models:
        content, runtime = read_model(path)
        try:
            found_draft(content, runtime, data, Answers(), refuse, lambda text: None)
        except (TrainingError, WireError) as error:
            refused[path.name] = error.code.partition(".")[0]
    assert set(refused.values()) <= {"bundle", "runtime"}


def mel_frames() -> Recording:
    """Levels of mel bands, of the size that the toy-car model of MLPerf Tiny takes."""
    random = np.random.default_rng(0)
    level = random.normal(-40, 3, size=(60, 1, 1))
    samples = (level + random.normal(scale=1.0, size=(60, 640, 1))).astype(np.float32)
    return Recording(samples, np.ones(1), 16_000.0, np.arange(60.0), ("mel",), ("dB",), {"machine": "car"})


@pytest.mark.data
def test_a_published_quantised_autoencoder_becomes_a_bundle(run: Run, data_dir: Path, tmp_path: Path) -> None:
    write_recording(mel_frames(), tmp_path / "normal.npz")
    models = data_dir / "models"
    options = ("--model", models / "ad01_int8.tflite", "--data", f"normal={tmp_path / 'normal.npz'}")
    said = ("--task", "reconstruction", "--input", "flat", "--scaling", "none")
    code, out, err = run("init", *options, *said, "--out", tmp_path / "b", "--claim", "ai-edge-litert", "--json")
    assert code == 0, err
    assert '"golden_ai-edge-litert"' in out


@pytest.mark.data
def test_a_microcontrollers_interpreter_has_golden_outputs_of_its_own(run: Run, data_dir: Path, tmp_path: Path) -> None:
    """Where TFLite Micro is installed it is claimed and tested; elsewhere it cannot be claimed."""
    write_recording(mel_frames(), tmp_path / "normal.npz")
    options = ("--model", data_dir / "models/ad01_int8.tflite", "--data", f"normal={tmp_path / 'normal.npz'}")
    said = ("--task", "reconstruction", "--input", "flat", "--scaling", "none")
    claims = ("--claim", "ai-edge-litert", "--claim", "tflite-micro", "--out", tmp_path / "b", "--json")
    code, out, err = run("init", *options, *said, *claims)
    if not has_tflite_micro():
        assert (code, "--pre tflite-micro" in err, err.endswith("[bundle.untested]\n")) == (2, True, True)
        return
    assert code == 0, err
    assert '"golden_tflite-micro"' in out
    manifest = decode_manifest((tmp_path / "b" / "manifest.json").read_bytes())
    assert [entry.name for entry in manifest.runtimes or ()] == ["ai-edge-litert", "tflite-micro"]
    assert run("check", tmp_path / "b")[0] == 0
