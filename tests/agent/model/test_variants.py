"""A release in two formats: a board runs the one that it has a runtime for, and is held to that runtime's outputs."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.agent.bundles import gain_model, make_bundle, write_bundle
from tests.agent.tflite_writer import gain_net
from tests.legacy import LEGACY, needs_onnx
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import load_bundle
from wheeltapper_agent.model.desk import check_bundle, desk_profile
from wheeltapper_agent.model.inference import runtime_name
from wheeltapper_agent.model.self_test import compare_golden
from wheeltapper_protocols.manifest.manifest import (
    BundleFile,
    ClaimedRuntime,
    Golden,
    Manifest,
    Variant,
    decode_manifest,
    encode_manifest,
)

LITE: Any = "tflite-runtime" if LEGACY else "ai-edge-litert"
"""The TFLite runtime of this environment."""
FOREIGN: Any = "ai-edge-litert" if LEGACY else "tflite-runtime"
SHIFT = 0.25


def two_formats(claimed: Any = LITE, golden: Golden | None = None) -> dict[str, bytes]:
    """A bundle in ONNX (without ONNX Runtime its file is never read) and in TFLite, whose outputs are 0.25 lower."""
    files = make_bundle(runtime="onnx", content=b"\x08\x08" if LEGACY else gain_model(0.5))
    manifest = decode_manifest(files["manifest.json"])
    with np.load(io.BytesIO(files["golden.npz"])) as archive:
        arrays = {name: archive[name] for name in ("model_output", "score")}
    buffer = io.BytesIO()
    np.savez(buffer, model_output=arrays["model_output"] - np.float32(SHIFT), score=arrays["score"])
    more = {
        "model.tflite": gain_net(len(manifest.features), 0.5),
        f"golden-{claimed}.npz": buffer.getvalue(),
    }
    entries = [
        BundleFile(name=name, sha256=hashlib.sha256(body).hexdigest(), length=len(body)) for name, body in more.items()
    ]
    variant = Variant(runtime="tflite", runtimes=[ClaimedRuntime(name=claimed, golden=golden)])
    made = msgspec.structs.replace(
        manifest,
        files=[*manifest.files, *entries],
        runtimes=[ClaimedRuntime(name="onnxruntime")],
        variants=[variant],
    )
    return files | more | {"manifest.json": encode_manifest(made)}


def test_a_board_with_a_tflite_runtime_only_runs_that_format(tmp_path: Path) -> None:
    wide = Golden(output_atol=SHIFT + 0.01, score_rtol=0.01)
    folder = write_bundle(tmp_path / "both", two_formats(golden=wide))
    bundle = load_bundle(folder, Profile(name="small", runtimes=(LITE,)))
    assert runtime_name(bundle.model) == LITE
    assert bundle.manifest.runtime == "tflite"
    assert compare_golden(bundle)["output_error"] == pytest.approx(SHIFT, abs=0.01)
    strict = write_bundle(tmp_path / "strict", two_formats())
    with pytest.raises(AgentError) as caught:  # its own golden outputs and tolerances, not those of ONNX
        compare_golden(load_bundle(strict, Profile(name="small", runtimes=(LITE,))))
    assert caught.value.code == "self_test.output"


@needs_onnx
def test_the_first_runtime_of_the_board_decides_the_format(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "both", two_formats())
    for runtimes in (("onnxruntime", LITE), (FOREIGN, "onnxruntime", LITE), (LITE, "onnxruntime")):
        bundle = load_bundle(folder, Profile(name="board", runtimes=runtimes))
        assert runtime_name(bundle.model) == next(name for name in runtimes if name != FOREIGN)
    assert load_bundle(folder).manifest.runtime == "onnx"


@needs_onnx
def test_a_runtime_that_no_format_claims_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "both", two_formats())
    with pytest.raises(AgentError) as caught:
        load_bundle(folder, Profile(name="board", runtimes=(FOREIGN,)))
    assert caught.value.code in {"runtime.missing", "runtime.unclaimed"}


@needs_onnx
def test_the_desk_tests_every_claimed_runtime_of_every_format(tmp_path: Path) -> None:
    wide = Golden(output_atol=SHIFT + 0.01, score_rtol=0.01)
    found = check_bundle(write_bundle(tmp_path / "both", two_formats(golden=wide)), desk_profile(), 60)
    assert [entry["runtime"] for entry in found] == ["onnxruntime", LITE]
    assert found[1]["metrics"]["output_error"] == pytest.approx(SHIFT, abs=0.01)


def test_a_manifest_says_each_format_once_and_has_its_file() -> None:
    manifest = decode_manifest(two_formats()["manifest.json"])
    assert [each.runtime for each in manifest.formats()] == ["onnx", "tflite"]
    assert all(each.variants is None for each in manifest.formats())
    assert decode_manifest(encode_manifest(manifest)) == manifest
    lite = ClaimedRuntime(name=LITE)
    plain = decode_manifest(make_bundle(runtime="onnx", content=b"\x08\x08")["manifest.json"])
    wrong: list[tuple[Manifest, dict[str, Any], str]] = [
        (manifest, {"variants": [Variant(runtime="onnx", runtimes=[ClaimedRuntime(name="onnxruntime")])]}, "twice"),
        (manifest, {"variants": [Variant(runtime="tflite", runtimes=[ClaimedRuntime(name="onnxruntime")])]}, "read"),
        (manifest, {"variants": [Variant(runtime="tflite", runtimes=[ClaimedRuntime(name=FOREIGN)])]}, "golden-"),
        (manifest, {"output": "scores"}, "of one format"),
        (plain, {"variants": [Variant(runtime="tflite", runtimes=[lite])]}, r"model\.tflite"),
    ]
    for base, changes, told in wrong:
        with pytest.raises(ValueError, match=told):
            msgspec.structs.replace(base, **changes).__post_init__()
