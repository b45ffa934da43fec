"""Three tasks behind one decision: labels and lives in verdicts, records and replay; zones; what does not fit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper
from typer.testing import CliRunner

from tests.agent.bundles import SMALL, make_bundle, write_bundle
from tests.agent.servers import until
from tests.agent.task_bundles import (
    RAW_INPUT,
    Windows,
    classifier,
    cwru_windows,
    femto_life,
    graph,
    linear,
    raw_classifier,
    standard_scoring,
    task_bundle,
)
from wheeltapper_agent.cli import app
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.model.bundle import Bundle, Evaluation, load_bundle
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_agent.source.simulator import Machine
from wheeltapper_protocols.decision.bearing import Bearing, BearingSpec
from wheeltapper_protocols.decision.decision import SCORE_LIMIT, DecisionSpec, DecisionState, Verdict
from wheeltapper_protocols.manifest.inference_task import InferenceTask, Prediction
from wheeltapper_protocols.manifest.manifest import (
    Anomaly,
    Classification,
    Input,
    RawInput,
    RemainingLife,
    decode_manifest,
    encode_manifest,
)
from wheeltapper_protocols.signal.iso20816 import Iso20816, velocity_feature_specs
from wheeltapper_protocols.signal.recording import Recording, recording_bytes
from wheeltapper_protocols.wire.messages import Alert, Severity, TelemetryRecord

FAULTS = {
    "normal": "normal_0_97",
    "inner": "48k_Drive_End_IR021_0_213",
    "outer": "48k_Drive_End_OR021@6_0_238",
}
QUICK = DecisionSpec(smooth_windows=1, raise_windows=2, clear_windows=2)


class ListSource:
    """A source that gives the windows that it was made with."""

    state, dropped = "running", 0

    def __init__(self, spec: SourceSpec, samples: np.ndarray) -> None:
        self.spec = spec
        self._samples = samples

    def windows(self, first: int) -> Iterator[Window]:
        for index, window in enumerate(self._samples):
            yield Window(window, index * 1.0)
        self.state = "ended"

    def model_ready(self) -> None: ...

    def close(self) -> None: ...


def load(folder: Path, files: dict[str, bytes]) -> Bundle:
    return load_bundle(write_bundle(folder, files))


def verdicts_on(bundle: Bundle, samples: np.ndarray) -> list[Verdict]:
    state, found = DecisionState(), []
    for window in samples:
        state, verdict = bundle.decide(state, bundle.evaluate(window[None]))
        found.append(verdict)
    return found


def write_recording_file(path: Path, samples: np.ndarray, rate_hz: float, channels: tuple[str, ...]) -> Path:
    count = len(channels)
    recording = Recording(
        samples=samples.astype(np.float32),
        scale=np.ones(count),
        sample_rate_hz=rate_hz,
        t_s=np.arange(len(samples), dtype=np.float64) * 10.0,
        channels=channels,
        units=("g",) * count,
        meta={},
    )
    path.write_bytes(recording_bytes(recording))
    return path


@pytest.fixture(scope="module")
def windows(data_dir: Path) -> dict[str, Windows]:
    return cwru_windows(data_dir, FAULTS)


@pytest.fixture(scope="module")
def classes(windows: dict[str, Windows], tmp_path_factory: pytest.TempPathFactory) -> Path:
    bearing = BearingSpec(geometry=Bearing(), shaft_hz=1797 / 60, carrier_low_hz=1000.0, carrier_high_hz=12_000.0)
    return write_bundle(tmp_path_factory.mktemp("classes"), classifier(windows, decision=QUICK, bearing=bearing))


@pytest.mark.data
def test_a_classifier_names_real_faults_and_alerts_on_them(classes: Path, windows: dict[str, Windows]) -> None:
    bundle = load_bundle(classes)
    assert self_test(bundle)["output_error"] < 1e-3
    for label, each in windows.items():
        verdicts = verdicts_on(bundle, each.samples[len(each.samples) // 2 :])
        named = [verdict.label for verdict in verdicts]
        assert named.count(label) > 0.95 * len(named)
        assert any(verdict.alert for verdict in verdicts) == (label != "normal")
    raised = [verdict for verdict in verdicts_on(bundle, windows["outer"].samples) if verdict.reasons]
    assert len(raised) >= 1
    assert raised[0].reasons[0].share > 0


@pytest.mark.data
def test_a_replay_shows_label_and_reasons(classes: Path, windows: dict[str, Windows], tmp_path: Path) -> None:
    samples = np.concatenate([windows["normal"].samples[-4:], windows["inner"].samples[-4:]])
    recording = write_recording_file(tmp_path / "r.npz", samples, 48_000.0, ("de",))
    arguments = ["replay", "--bundle", str(classes), "--recording", str(recording)]
    lines = CliRunner().invoke(app, [*arguments, "--json"]).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["label"] for row in rows] == ["normal"] * 4 + ["inner"] * 4
    assert [bool(row.get("reasons")) for row in rows].count(True) == 1
    text = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert " normal" in text[0]
    assert " inner" in text[5]
    assert "ALERT" in text[5]


@pytest.mark.data
def test_a_remaining_life_falls_with_real_wear_and_warns(data_dir: Path, tmp_path: Path) -> None:
    with np.load(data_dir / "femto" / "Learning_set__Bearing1_2.npz", allow_pickle=False) as archive:
        samples = (archive["acc_milli_g"].astype(np.float32) / 1000)[::4]
    bundle = load(tmp_path / "life", femto_life(samples))
    section = bundle.manifest.remaining_life
    assert section is not None
    assert self_test(bundle)["score_error"] < 1e-2
    verdicts = verdicts_on(bundle, samples)
    values = [verdict.value for verdict in verdicts if verdict.value is not None]
    assert len(values) == len(samples)
    assert 0 <= min(values) <= max(values) <= section.cap
    assert np.mean(values[:40]) > 1.3 * np.mean(values[-10:])
    assert verdicts[-1].alert
    assert not any(verdict.alert for verdict in verdicts[: len(verdicts) // 4])
    recording = write_recording_file(tmp_path / "r.npz", samples[-20:], 25_600.0, ("horizontal", "vertical"))
    arguments = ["replay", "--bundle", str(tmp_path / "life"), "--recording", str(recording)]
    assert " hours left" in CliRunner().invoke(app, arguments).stdout.splitlines()[-1]
    row = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout.splitlines()[-1])
    assert row["unit"] == "hours"
    assert row["value"] == pytest.approx(values[-1], rel=0.2)


def remaining_life_score(output: float, warn_at: float = 10.0) -> float:
    """The score of a model that gives ``output`` whatever it reads."""
    files = task_bundle(
        linear(np.zeros((16, 1)), np.array([output])),
        np.zeros((2, 16, 1), np.float32),
        task="remaining_life",
        input=RAW_INPUT,
        raw=RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat"),
        remaining_life=RemainingLife(unit="cycles", cap=100.0, warn_at=warn_at),
    )
    with np.load(io.BytesIO(files["golden.npz"])) as archive:
        return float(archive["score"][0])


def test_a_life_scores_one_where_it_warns() -> None:
    assert remaining_life_score(10.0) == pytest.approx(1.0)
    assert remaining_life_score(5.0) == pytest.approx(2.0)
    assert remaining_life_score(1e9) == pytest.approx(0.1)
    assert remaining_life_score(0.0) == remaining_life_score(-5.0) == pytest.approx(1000.0)
    assert np.isnan(remaining_life_score(float("nan")))


def test_logits_of_raw_samples_become_probabilities(tmp_path: Path) -> None:
    bundle = load(tmp_path / "b", raw_classifier())
    assert bundle.manifest.scoring is None
    for level in (-1.0, 0.0, 0.5, 100.0):
        found = bundle.evaluate(np.full((1, 16, 1), level, np.float32))
        expected = 1 / (1 + np.exp(-8 * level))
        assert found.scores.score[0] == pytest.approx(expected / 0.5, rel=1e-4)
        assert found.features.shape == (1, 0)
    labels = [
        verdict.label for verdict in verdicts_on(bundle, np.array([-1.0, 1.0])[:, None, None] * np.ones((2, 16, 1)))
    ]
    assert labels == ["ok", "bad"]
    spoiled = bundle.evaluate(np.full((1, 16, 1), np.nan, np.float32))
    assert np.isnan(spoiled.scores.score[0])
    _, verdict = bundle.decide(DecisionState(), spoiled)
    assert (verdict.valid, verdict.label) == (False, None)


@pytest.mark.parametrize("layout", ["flat", "sample_channel", "channel_sample"])
def test_raw_samples_are_laid_out_as_asked(tmp_path: Path, layout: str) -> None:
    """A model that multiplies by 0 reconstructs nothing: the score is the root mean square of what it read."""
    shapes: dict[str, list[int | None]] = {
        "flat": [1, 32],
        "sample_channel": [1, 16, 2],
        "channel_sample": [1, 2, 16],
    }
    shape = shapes[layout]
    content = graph([helper.make_node("Mul", ["input", "w"], ["output"])], {"w": np.zeros(1, np.float32)}, shape, shape)
    random = np.random.default_rng(2)
    samples = random.normal(size=(3, 16, 3)).astype(np.float32)
    files = task_bundle(
        content,
        samples,
        input=Input(sample_rate_hz=1000.0, window_samples=16, channels=["x", "y", "z"], units=["g", "g", "bar"]),
        raw=RawInput(channels=[2, 0], center=[1.0, 0.0], scale=[2.0, 0.5], layout=layout),  # type: ignore[arg-type]
        anomaly=Anomaly(output="reconstruction", threshold=0.5),
    )
    bundle = load(tmp_path / "b", files)
    self_test(bundle)  # the model takes one window at a time, the golden ones are three
    found = bundle.evaluate(samples)
    wanted = np.stack([(samples[:, :, 2] - 1) / 2, samples[:, :, 0] / 0.5], axis=2)
    if layout == "channel_sample":
        wanted = wanted.transpose(0, 2, 1)
    np.testing.assert_allclose(found.model_input, wanted.reshape(3, *[each or 1 for each in shape[1:]]), rtol=1e-6)
    np.testing.assert_allclose(found.scores.score, np.sqrt(np.mean(wanted**2, axis=(1, 2))) / 0.5, rtol=1e-5)


def test_a_model_may_give_the_score_itself(tmp_path: Path) -> None:
    weights = np.full((16, 1), 1 / 16)
    samples = np.linspace(0, 3, 5)[:, None, None] * np.ones((5, 16, 1), np.float32)
    fields = {"input": RAW_INPUT, "anomaly": Anomaly(output="score", threshold=1.5)}
    raw = RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat")
    bundle = load(
        tmp_path / "b", task_bundle(linear(weights, np.zeros(1)), samples.astype(np.float32), raw=raw, **fields)
    )
    found = bundle.evaluate(samples.astype(np.float32))
    np.testing.assert_allclose(found.scores.score, np.linspace(0, 3, 5) / 1.5, rtol=1e-6)


def test_an_output_of_another_form_is_a_runtime_error_with_a_code(tmp_path: Path) -> None:
    files = raw_classifier()
    with pytest.raises(ValueError, match="3 classes need"):
        raw_classifier(classification=Classification(classes=["ok", "bad", "worse"], normal=["ok"]))
    folder = write_bundle(tmp_path / "b", files)
    manifest = decode_manifest(files["manifest.json"])
    other = Classification(classes=["ok", "bad", "worse"], normal=["ok"])
    (folder / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(manifest, classification=other)))
    with pytest.raises(AgentError) as caught:
        load_bundle(folder).evaluate(np.zeros((1, 16, 1), np.float32))
    assert caught.value.code == "runtime.run"
    assert "3 classes" in caught.value.message


def iso20816_bundle(folder: Path, raises: bool) -> Bundle:
    section = Iso20816(group=1, foundation="rigid", channels=[0, 1], raises=raises)
    return load(folder, make_bundle(iso20816=section, decision=QUICK))


def vibrating_window(bundle: Bundle, velocity_mm_s: float) -> np.ndarray:
    """A window that shakes the vertical axis at ten periods a window with this velocity."""
    shape = bundle.manifest.input
    hz = 10 * shape.sample_rate_hz / shape.window_samples
    at_s = np.arange(shape.window_samples) / shape.sample_rate_hz
    x = np.zeros((1, shape.window_samples, 2), np.float32)
    x[0, :, 1] = velocity_mm_s / 1000 * np.sqrt(2) * 2 * np.pi * hz / 9.80665 * np.sin(2 * np.pi * hz * at_s)
    return x


def test_zones_are_told_and_raise_only_where_asked(tmp_path: Path) -> None:
    plain, raising = iso20816_bundle(tmp_path / "plain", False), iso20816_bundle(tmp_path / "raising", True)
    for velocity, zone in ((1.0, "A"), (3.0, "B"), (5.0, "C"), (9.0, "D")):
        window = vibrating_window(plain, velocity)
        found = plain.evaluate(window)
        assert found.velocity_mm_s is not None
        assert found.velocity_mm_s[0].max() == pytest.approx(velocity, rel=1e-3)
        assert found.features.shape == (1, len(plain.task.names))
        quiet = Evaluation(
            samples=found.samples,
            features=found.features,
            model_input=found.model_input,
            model_output=found.model_output,
            scores=msgspec.structs.replace(found.scores, score=np.array([0.1])),
            velocity_mm_s=found.velocity_mm_s,
        )
        for bundle in (plain, raising):
            state = DecisionState()
            for _ in range(3):
                state, verdict = bundle.decide(state, quiet)
            assert verdict.zone == zone
            expected = {"C": Severity.WARNING, "D": Severity.CRITICAL}.get(zone) if bundle is raising else None
            assert verdict.severity is (expected or Severity.NORMAL)


def test_old_bundles_say_nothing_new(tmp_path: Path) -> None:
    files = make_bundle()
    assert b"iso20816" not in files["manifest.json"]
    bundle = load(tmp_path / "b", files)
    verdict = verdicts_on(bundle, vibrating_window(bundle, 1.0))[0]
    assert (verdict.label, verdict.value, verdict.zone) == (None, None, None)


def test_an_alert_lasts_its_minimum(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(QUICK, minimum_alert_windows=6)
    bundle = load(tmp_path / "b", raw_classifier(decision=spec))
    levels = np.array([-1.0] * 2 + [1.0] * 3 + [-1.0] * 8)
    alerts = [
        verdict.alert
        for verdict in verdicts_on(bundle, (levels[:, None, None] * np.ones((13, 16, 1))).astype(np.float32))
    ]
    assert alerts == [False] * 3 + [True] * 6 + [False] * 4


def test_records_and_alerts_carry_what_the_model_says(tmp_path: Path) -> None:
    files = task_bundle(
        linear(np.full((16, 1), 1 / 16), np.zeros(1)),
        np.zeros((2, 16, 1), np.float32),
        task="remaining_life",
        input=RAW_INPUT,
        raw=RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat"),
        remaining_life=RemainingLife(unit="cycles", cap=100.0, warn_at=10.0),
        iso20816=Iso20816(group=1, foundation="rigid", channels=[0], low_hz=60.0, high_hz=400.0),
        decision=QUICK,
    )
    levels = np.array([50.0, 40.0, np.nan, 8.0, 7.0, 6.0])
    samples = (levels[:, None, None] * np.ones((6, 16, 1))).astype(np.float32)
    source = ListSource(SourceSpec(1000.0, 16, ("x",), ("g",)), samples)
    spool = Spool(tmp_path / "spool.db")
    pipeline = Pipeline("main", source, spool, SystemClock())
    pipeline.swap(load(tmp_path / "b", files))
    pipeline.start()
    until(lambda: source.state == "ended" and len(spool.peek(0, 100, ("telemetry",))) == 6, 10, "the windows")
    pipeline.stop()
    records = [held.item for held in spool.peek(0, 100, ("telemetry",))]
    alerts = [held.item for held in spool.peek(0, 100, ("alert",))]
    spool.close()
    values = [record.value for record in records if isinstance(record, TelemetryRecord)]
    assert values == [pytest.approx(50.0), pytest.approx(40.0), None, *map(pytest.approx, (8.0, 7.0, 6.0))]
    zones = [record.zone for record in records if isinstance(record, TelemetryRecord)]
    assert zones == ["A", "A", None, "A", "A", "A"]
    assert len(alerts) == 1
    assert isinstance(alerts[0], Alert)
    assert alerts[0].value == pytest.approx(7.0)
    assert (alerts[0].unit, alerts[0].zone) == ("cycles", "A")


# --- outputs that a model must not give ------------------------------------------------------------------------


def prediction(manifest_fields: dict[str, Any], output: list[list[float]]) -> Prediction:
    """What the task makes of ``output``, one row a window."""
    files = raw_classifier()
    manifest = decode_manifest(files["manifest.json"])
    plain = {"classification": None, "anomaly": None, "remaining_life": None}
    task = InferenceTask(msgspec.structs.replace(manifest, **plain | manifest_fields))
    return task.read(np.zeros((len(output), 16), np.float32), np.array(output, np.float32))


LIFE: dict[str, Any] = {"task": "remaining_life", "remaining_life": RemainingLife(cap=100.0, warn_at=10.0)}
SCORE: dict[str, Any] = {"task": "anomaly", "anomaly": Anomaly(output="score", threshold=1.0)}


@pytest.mark.parametrize("fields", [LIFE, SCORE])
def test_what_is_not_finite_is_no_score(fields: dict[str, Any]) -> None:
    found = prediction(fields, [[-np.inf], [-np.inf], [np.nan], [20.0]])
    assert np.isnan(found.score[:3]).all()
    assert np.isfinite(found.score[3])
    if found.values is not None:
        assert np.isnan(found.values[:3]).all()


@pytest.mark.parametrize("output", [[[5.0, 3.0]], [[12.0, -3.0]], [[0.0, 0.0]], [[0.4, 0.4]], [[1.2, -0.2]]])
def test_outputs_that_are_no_probabilities_are_refused(output: list[list[float]]) -> None:
    section = Classification(classes=["ok", "bad"], normal=["ok"])
    fields = {"task": "classification", "classification": section}
    with pytest.raises(ValueError, match="no probabilities"):
        prediction(fields, output)
    logits = msgspec.structs.replace(section, output="logits")
    assert np.isfinite(prediction(fields | {"classification": logits}, output).score).all()


def test_probabilities_of_eight_bits_and_windows_without_any_are_read() -> None:
    fields = {"task": "classification", "classification": Classification(classes=["ok", "bad"], normal=["ok"])}
    found = prediction(fields, [[0.996, 0.0], [np.nan, np.nan], [-0.001, 1.002]])
    np.testing.assert_allclose(found.score[[0, 2]], [0.0, 2.004], atol=1e-6)
    assert np.isnan(found.score[1])


def test_a_life_that_warns_from_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="below cap"):
        RemainingLife(cap=5.0, warn_at=5.0)


# --- zones that cannot be, and alerts that they raise -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"channels": [0, 0]}, "names a channel twice"),
        ({"channels": [0], "high_hz": 20_000.0}, "half of the sample rate"),
        ({"channels": [0], "low_hz": 2.0}, "is too short for iso20816"),
    ],
)
def test_zones_that_the_window_cannot_show_are_refused(section: dict[str, Any], message: str) -> None:
    manifest = decode_manifest(make_bundle()["manifest.json"])
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(manifest, iso20816=Iso20816(group=1, foundation="rigid", **section))


def test_a_velocity_may_also_be_a_feature(tmp_path: Path) -> None:
    section = Iso20816(group=1, foundation="rigid", channels=[0])
    specs = velocity_feature_specs(section, ["x"], ["g"])
    shape = Input(sample_rate_hz=2000.0, window_samples=512, channels=["x"], units=["g"])
    files = task_bundle(
        linear(np.ones((1, 1)), np.zeros(1)),
        np.random.default_rng(0).normal(size=(2, 512, 1)).astype(np.float32),
        input=shape, features=specs, iso20816=section, scoring=standard_scoring(np.ones((2, 1))),
    )  # fmt: skip
    assert load(tmp_path / "b", files).task.names == ("x.velocity_mm_s",)


def test_an_alert_that_the_zone_raised_says_so(tmp_path: Path) -> None:
    bundle = iso20816_bundle(tmp_path / "b", True)
    found = bundle.evaluate(vibrating_window(bundle, 9.0))
    quiet = msgspec.structs.replace(found, scores=msgspec.structs.replace(found.scores, score=np.array([0.1])))
    state = DecisionState()
    for _ in range(2):
        state, verdict = bundle.decide(state, quiet)
    assert verdict.alert
    assert [(reason.feature, reason.usual, reason.share) for reason in verdict.reasons] == [
        ("vertical.velocity_mm_s", 4.5, 1.0)
    ]
    assert verdict.reasons[0].value == pytest.approx(9.0, rel=1e-3)


def test_an_alert_at_a_quiet_window_tells_of_the_loud_one_before(tmp_path: Path) -> None:
    bundle = load(tmp_path / "b", make_bundle(decision=DecisionSpec(smooth_windows=3, raise_windows=2)))
    quiet, loud = Machine(SMALL).window(0, 0.0)[None], vibrating_window(bundle, 40.0)
    assert bundle.evaluate(loud).scores.score[0] > 1.0 > bundle.evaluate(quiet).scores.score[0]
    state = DecisionState()
    for window in (loud, loud, loud, quiet):
        found = bundle.evaluate(window)
        state, verdict = bundle.decide(state, found)
    assert verdict.changed
    assert verdict.alert
    assert verdict.reasons == bundle.reasons(bundle.evaluate(loud))
    assert verdict.reasons != bundle.reasons(found)


RECONSTRUCTION: dict[str, Any] = {"task": "anomaly", "anomaly": Anomaly(output="reconstruction", threshold=1.0)}


def test_an_overflow_is_the_greatest_anomaly() -> None:
    found = prediction(SCORE, [[np.inf], [1e30], [-np.inf], [np.nan]])
    assert found.score[:1].tolist() == [SCORE_LIMIT]
    assert np.isnan(found.score[2:]).all()
    rows = np.zeros((5, 16))
    rows[0, 3], rows[1, 3] = np.inf, -np.inf
    rows[2, 3:5] = np.inf, np.nan
    rows[3, 3] = np.nan
    found = prediction(RECONSTRUCTION, rows.tolist())
    assert found.score[:3].tolist() == [SCORE_LIMIT] * 3
    assert np.isnan(found.score[3])
    assert found.score[4] == 0.0


def test_an_overflow_on_features_too_whatever_their_weight() -> None:
    manifest = decode_manifest(make_bundle()["manifest.json"])
    assert manifest.scoring is not None
    count = len(manifest.features)
    scoring = msgspec.structs.replace(manifest.scoring, weight=[0.0] + [1.0] * (count - 1), down=[0.0] * count)
    task = InferenceTask(msgspec.structs.replace(manifest, scoring=scoring))
    given = np.ones((5, count), np.float32)
    output = np.ones((5, count), np.float32)
    output[0, 0], output[1, 0], output[2, 1], output[3, 1] = np.inf, -np.inf, np.inf, np.nan
    given[4, 2], output[4, 1] = np.nan, np.inf
    found = task.read(given, output)
    assert found.score[:3].tolist() == [SCORE_LIMIT] * 3
    assert np.isnan(found.score[3:]).all()  # NaN says nothing, and a window with a missing sample has no score


def test_a_life_without_end_is_no_score() -> None:
    found = prediction(LIFE, [[np.inf], [np.nan], [20.0]])
    assert np.isnan(found.score[:2]).all()


def test_logits_beyond_every_number_leave_one_class() -> None:
    section = Classification(classes=["ok", "bad", "worse"], normal=["ok"], output="logits")
    fields = {"task": "classification", "classification": section}
    inf, nan = np.inf, np.nan
    rows = [[0.0, inf, 0.0], [inf, 0.0, 0.0], [inf, inf, 0.0], [0.0, inf, nan], [0.0, 0.0, -inf], [-inf, -inf, -inf]]
    found = prediction(fields, rows)
    assert found.score[:2].tolist() == [2.0, 0.0]
    assert found.labels is not None
    assert found.labels[:2] == ["bad", "ok"]
    assert np.isnan(found.score[[2, 3, 5]]).all()
    assert found.labels[2] is None
    assert found.score[4] == pytest.approx(1.0)
