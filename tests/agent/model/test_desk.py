"""What a device does with a bundle, on a desk: each claimed runtime is tested, and windows are scored under limits."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.agent.bundles import RUNTIME, make_bundle, write_bundle
from tests.legacy import LEGACY, needs_onnx
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.desk import check_bundle, desk_profile, evaluate_windows
from wheeltapper_agent.model.self_test import compare_golden
from wheeltapper_protocols.manifest.manifest import BundleFile, ClaimedRuntime, Golden, decode_manifest, encode_manifest

HERE = {"onnx": "onnxruntime", "tflite": "tflite-runtime" if LEGACY else "ai-edge-litert"}
"""A runtime of the development environment for each format."""


def claim(files: dict[str, bytes], *claimed: ClaimedRuntime, **more: bytes) -> dict[str, bytes]:
    """The files of a bundle that claims runtimes, with more files."""
    manifest = decode_manifest(files["manifest.json"])
    entries = [
        BundleFile(name=name, sha256=hashlib.sha256(body).hexdigest(), length=len(body)) for name, body in more.items()
    ]
    made = msgspec.structs.replace(manifest, runtimes=list(claimed), files=[*manifest.files, *entries])
    return files | more | {"manifest.json": encode_manifest(made)}


def shifted(files: dict[str, bytes], shift: float) -> bytes:
    """The golden vectors of one runtime: outputs that are ``shift`` above those of the bundle."""
    with np.load(io.BytesIO(files["golden.npz"])) as archive:
        arrays = {name: archive[name] for name in ("model_output", "score")}
    buffer = io.BytesIO()
    np.savez(buffer, model_output=arrays["model_output"] + np.float32(shift), score=arrays["score"])
    return buffer.getvalue()


def desk(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wheeltapper_agent", "bundle", *arguments], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@needs_onnx
def test_a_bundle_passes_or_fails_as_on_a_device(tmp_path: Path) -> None:
    good = write_bundle(tmp_path / "good", make_bundle(runtime="onnx"))
    code, out, err = desk("check", str(good), "--json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)["runtimes"]
    assert found["runtime"] == "onnxruntime"
    assert found["metrics"]["output_error"] < 1e-3
    bad = write_bundle(tmp_path / "bad", make_bundle(runtime="onnx", golden_error=1.0))
    code, out, err = desk("check", str(bad))
    assert (code, out.startswith("failed"), err.endswith("[self_test.output]\n")) == (2, True, True)
    assert desk("check", str(tmp_path / "none"))[2].endswith("[bundle.missing]\n")


def test_a_runtime_that_is_not_installed_is_named_and_does_not_fail(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", make_bundle(runtime="tflite"))
    found = {entry["runtime"]: entry for entry in check_bundle(bundle, desk_profile(), 60)}
    assert set(found) == {"ai-edge-litert", "tflite-runtime"}
    assert any("metrics" in entry for entry in found.values())
    assert {entry["code"] for entry in found.values() if "code" in entry} <= {"runtime.missing"}


def test_only_claimed_runtimes_run_a_release(tmp_path: Path) -> None:
    name = HERE[RUNTIME]
    other = {"onnx": "ai-edge-litert", "tflite": "onnxruntime"}[RUNTIME]
    bundle = write_bundle(tmp_path / "b", claim(make_bundle(), ClaimedRuntime(name=name)))  # type: ignore[arg-type]  # a name of the table
    with pytest.raises(AgentError) as caught:
        load_bundle(bundle, desk_profile(runtime=other))
    assert caught.value.code == "runtime.missing"  # it does not read the format at all
    if RUNTIME == "tflite":
        micro = write_bundle(tmp_path / "m", claim(make_bundle(), ClaimedRuntime(name="tflite-micro")))
        for test in (lambda: load_bundle(micro), lambda: check_bundle(micro, desk_profile(), 60)):
            with pytest.raises(AgentError) as caught:
                test()
            assert caught.value.code == "runtime.unclaimed"


@needs_onnx
def test_a_runtime_is_held_to_its_own_expectations(tmp_path: Path) -> None:
    files = make_bundle(runtime="onnx")
    own = {"golden-onnxruntime.npz": shifted(files, 0.5)}
    strict = write_bundle(tmp_path / "strict", claim(files, ClaimedRuntime(name="onnxruntime"), **own))
    with pytest.raises(AgentError) as caught:
        compare_golden(load_bundle(strict))
    assert caught.value.code == "self_test.output"
    loose = ClaimedRuntime(name="onnxruntime", golden=Golden(output_atol=0.6, score_rtol=0.01))
    found = compare_golden(load_bundle(write_bundle(tmp_path / "loose", claim(files, loose, **own))))
    assert found["output_error"] == pytest.approx(0.5)


def test_a_manifest_claims_runtimes_that_read_its_model_and_keeps_its_bytes() -> None:
    files = make_bundle(runtime="onnx") if RUNTIME == "onnx" else make_bundle()
    manifest = decode_manifest(files["manifest.json"])
    assert b"runtimes" not in files["manifest.json"]
    assert b"score_atol" not in files["manifest.json"]
    foreign: Any = {"onnx": "ai-edge-litert", "tflite": "onnxruntime"}[RUNTIME]
    mine: Any = HERE[RUNTIME]
    for wrong, extra in (
        ([ClaimedRuntime(name=foreign)], ()),
        ([ClaimedRuntime(name=mine), ClaimedRuntime(name=mine)], ()),
        ([ClaimedRuntime(name="tflite-micro" if RUNTIME == "tflite" else mine)], (f"golden-{mine}.npz",)),
    ):
        entries = [BundleFile(name=name, sha256="0" * 64, length=1) for name in extra]
        if RUNTIME == "onnx" and extra:
            continue
        with pytest.raises(ValueError, match="runtimes"):
            msgspec.structs.replace(manifest, runtimes=wrong, files=[*manifest.files, *entries]).__post_init__()
    made = msgspec.structs.replace(manifest, runtimes=[ClaimedRuntime(name=mine)])
    assert decode_manifest(encode_manifest(made)) == made


@needs_onnx
def test_windows_are_scored_as_on_a_device(tmp_path: Path) -> None:
    files = make_bundle(runtime="onnx")
    bundle = write_bundle(tmp_path / "b", files)
    (tmp_path / "golden.npz").write_bytes(files["golden.npz"])
    out = tmp_path / "out.npz"
    code, text, _ = desk(
        "evaluate", str(bundle), "--windows", str(tmp_path / "golden.npz"), "--out", str(out), "--inputs"
    )
    assert (code, text) == (0, f"{out}: 8 windows by onnxruntime/CPUExecutionProvider\n")
    with np.load(out) as found, np.load(io.BytesIO(files["golden.npz"])) as golden:
        assert np.allclose(found["score"], golden["score"])
        assert np.allclose(found["model_output"], golden["model_output"], atol=1e-3)
        assert np.array_equal(found["model_input"], golden["model_input"])
        assert found["features"].shape == (8, golden["model_input"].shape[1])


def test_windows_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", make_bundle())
    wrong = tmp_path / "w.npz"
    for content in (b"", b"PK\x03\x04"):
        wrong.write_bytes(content)
        with pytest.raises(AgentError) as caught:
            evaluate_windows(bundle, wrong, tmp_path / "o.npz", desk_profile(), False, 60)
        assert caught.value.code == "source.windows"
    np.savez(wrong, samples=np.zeros((2, 3)))
    code, _, err = desk("evaluate", str(bundle), "--windows", str(wrong), "--out", str(tmp_path / "o.npz"))
    assert (code, err.endswith("[source.windows]\n"), (tmp_path / "o.npz").exists()) == (2, True, False)
