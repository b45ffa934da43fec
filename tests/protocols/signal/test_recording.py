"""Recordings: round trip, determinism, and every refusal."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal import recording as module
from wheeltapper_protocols.signal.recording import Recording, read_recording, recording_bytes, write_recording


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


def _npz(member: str, content: bytes, kind: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    """The file of a recording whose array ``member`` has the bytes ``content``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(packed()) as whole, zipfile.ZipFile(buffer, "w", kind) as archive:
        for name in whole.namelist():
            archive.writestr(name, content if name == f"{member}.npy" else whole.read(name))
    buffer.seek(0)
    return buffer


def _npy(header: str, data: bytes = b"") -> bytes:
    padded = header.encode() + b" " * (-len(header) % 16) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i2', 'fortran_order': False, 'shape': (",
        "{'descr': (), 'fortran_order': False, 'shape': (3, 8, 2)}",
        "{'descr': ('<i2',), 'fortran_order': False, 'shape': (3, 8, 2)}",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (-3, 8, 2)}",
        "[" * 4000,
    ],
)
def test_hostile_headers_never_escape(header: str) -> None:
    with pytest.raises(RecordingError):
        read_recording(_npz("samples", _npy(header)))


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_stored_and_deflated_members_are_read(kind: int) -> None:
    with zipfile.ZipFile(packed()) as whole:
        content = whole.read("samples.npy")
    with pytest.raises(RecordingError, match="stored or with deflate"):
        read_recording(_npz("samples", content, kind))


def test_a_small_file_does_not_become_much_memory() -> None:
    """Empty texts would take a pointer each in memory, and 8-bit numbers would become 64-bit ones."""
    many = 50_000_000
    texts = _npy(f"{{'descr': '<U0', 'fortran_order': False, 'shape': ({many},)}}")
    scale = _npy(f"{{'descr': '|i1', 'fortran_order': False, 'shape': ({many},)}}", bytes(many))
    times = _npy(f"{{'descr': '|i1', 'fortran_order': False, 'shape': ({many},)}}", bytes(many))
    tracemalloc.start()
    try:
        for member, content in (("channels", texts), ("scale", scale), ("t_s", times)):
            packed_up = _npz(member, content)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            with pytest.raises(RecordingError):
                read_recording(packed_up)
            assert tracemalloc.get_traced_memory()[1] - before < 2 * many
    finally:
        tracemalloc.stop()


def test_an_offset_below_zero_is_malformed_and_a_missing_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_recording(tmp_path / "none.npz")


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_large_arrays_are_written_as_numpy_writes_them(dtype: type) -> None:
    samples: np.ndarray = np.random.default_rng(0).integers(-999, 999, (5, 70_001, 3)).astype(dtype)
    for array in (samples, samples[:, ::2], np.asfortranarray(samples), samples[:1, :9]):
        buffer = io.BytesIO()
        module.write_npz({"samples": array}, buffer)
        expected = io.BytesIO()
        np.save(expected, array)
        with zipfile.ZipFile(buffer) as archive:
            assert archive.read("samples.npy") == expected.getvalue()
