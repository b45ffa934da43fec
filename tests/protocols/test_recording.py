"""Recordings: round trip, determinism, and every refusal."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wheeltapper_protocols import recording as module
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.recording import Recording, read_recording, recording_bytes, write_recording


def arrays(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "samples": np.arange(48, dtype=np.int16).reshape(3, 8, 2),
        "scale": np.array([0.001, 0.002]),
        "sample_rate_hz": np.array(100.0),
        "t_s": np.array([0.0, 10.0, 20.0]),
        "channels": np.array(["h", "v"]),
        "units": np.array(["g", "g"]),
        "meta": np.array('{"machine": "m1"}'),
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


def packed(**changes: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays(**changes))
    buffer.seek(0)
    return buffer


def test_round_trip_is_exact_and_deterministic(tmp_path: Path) -> None:
    recording = read_recording(packed())
    path = tmp_path / "r.npz"
    write_recording(recording, path)
    again = read_recording(path)
    assert (again.samples == recording.samples).all()
    assert (again.channels, again.units, again.meta) == (("h", "v"), ("g", "g"), {"machine": "m1"})
    assert path.read_bytes() == recording_bytes(again)
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.npz"]
    np.testing.assert_allclose(again.physical(slice(0, 1))[0, 1], [0.002, 0.006], rtol=1e-6)


NAN = np.full((3, 8, 2), np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("recording.empty", {"samples": np.zeros((0, 8, 2), np.int16), "t_s": np.zeros(0)}),
        ("recording.nan", {"samples": NAN}),
        ("recording.nan", {"scale": np.array([1.0, np.inf])}),
        ("recording.dtype", {"samples": np.zeros((3, 8, 2))}),
        ("recording.dtype", {"channels": np.array([1, 2])}),
        ("recording.shape", {"samples": np.zeros((3, 8), np.int16)}),
        ("recording.shape", {"scale": np.ones(3)}),
        ("recording.rate", {"sample_rate_hz": None}),
        ("recording.rate", {"sample_rate_hz": np.array(0.0)}),
        ("recording.rate", {"sample_rate_hz": np.array(-1.0)}),
        ("recording.rate", {"sample_rate_hz": np.array(np.nan)}),
        ("recording.rate", {"sample_rate_hz": np.array("fast")}),
        ("recording.times", {"t_s": np.array([0.0, 10.0, 5.0])}),
        ("recording.times", {"t_s": np.array([0.0, 10.0])}),
        ("recording.malformed", {"samples": None}),
        ("recording.malformed", {"meta": np.array("[1]")}),
        ("recording.malformed", {"meta": np.array("{")}),
        ("recording.malformed", {"meta": np.array([{"a": 1}], dtype=object)}),
    ],
)
def test_bad_recordings_are_refused(code: str, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordingError) as caught:
        read_recording(packed(**changes))
    assert caught.value.code == code


@pytest.mark.parametrize("cut", [0, 1, 30, 200, 600, -1, -40])
def test_truncated_files_are_malformed(cut: int) -> None:
    with pytest.raises(RecordingError, match=r"recording\.(malformed|rate)"):
        read_recording(io.BytesIO(packed().getvalue()[:cut]))


def test_flipped_bytes_never_escape() -> None:
    content = packed().getvalue()
    random = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        broken[random.integers(len(content))] ^= int(random.integers(1, 256))
        try:
            read_recording(io.BytesIO(bytes(broken)))
        except RecordingError:
            continue


def test_size_is_capped_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDING_BYTES", 10_000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples.npy", b"\0" * 20_000)
    with pytest.raises(RecordingError) as caught:
        read_recording(buffer)
    assert caught.value.code == "recording.too_large"


def test_writing_refuses_what_reading_would() -> None:
    recording = read_recording(packed(samples=np.zeros((3, 8, 2), np.float32)))
    recording.samples[1, 1, 1] = np.nan
    with pytest.raises(RecordingError) as caught:
        recording_bytes(recording)
    assert caught.value.code == "recording.nan"


def test_part() -> None:
    recording = read_recording(packed())
    assert recording.part(slice(1, None)).t_s.tolist() == [10.0, 20.0]
    with pytest.raises(RecordingError):
        recording.part(slice(0, 0))
    assert isinstance(recording, Recording)
