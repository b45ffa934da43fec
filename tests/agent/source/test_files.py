"""Replay of WAV, CSV and cut .npz: round trips, and files made to hurt."""

from __future__ import annotations

import struct
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.agent.servers import until
from tests.agent.source.rig import RunningSource, concatenated, open_source, running
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import Window, malformed_payloads, pending_windows
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.signal.quality import window_quality
from wheeltapper_protocols.signal.recording import Recording, write_recording

FAST = "kind = 'replay'\nrate_hz = 1000000\n"


def _windows(folder: Path, source: str) -> list[Window]:
    return list(open_source(folder, FAST + source).windows(0))


def _wav(path: Path, codes: NDArray[np.int64], width: int, rate_hz: int = 8000) -> None:
    """Integer codes [sample, channel] as PCM."""
    with wave.open(str(path), "wb") as handle:
        handle.setnchannels(codes.shape[1])
        handle.setsampwidth(width)
        handle.setframerate(rate_hz)
        unsigned = codes.ravel() + (128 if width == 1 else 0)
        handle.writeframes(b"".join(int(code).to_bytes(width, "little", signed=width > 1) for code in unsigned))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_of_each_width(tmp_path: Path, width: int) -> None:
    half = 2 ** (8 * width - 1)
    codes = np.random.default_rng(width).integers(-half, half, (1000, 2))
    codes[0], codes[1] = half - 1, -half
    _wav(tmp_path / "a.wav", codes, width)
    source = open_source(
        tmp_path, f"{FAST}path = 'a.wav'\nwindow_samples = 250\nscale = [16.0, 2.0]\nunits = ['g', 'V']"
    )
    windows = list(source.windows(0))
    assert source.spec.sample_rate_hz == 8000
    assert source.spec.units == ("g", "V")
    np.testing.assert_allclose(concatenated(windows), (codes / half * [16.0, 2.0]).astype(np.float32), rtol=1e-6)
    assert [window.t_s for window in windows] == pytest.approx([0, 0.03125, 0.0625, 0.09375])
    assert window_quality(windows[0].samples, full_scale=source.spec.full_scale).clipped >= 4
    assert source.state == "ended"


def test_wav_overlaps_and_resumes(tmp_path: Path) -> None:
    codes = np.arange(20000)[:, None] % 30000
    _wav(tmp_path / "a.wav", codes, 2)
    source = f"{FAST}path = 'a.wav'\nwindow_samples = 1000\nhop_samples = 300"
    whole = list(open_source(tmp_path, source).windows(0))
    assert len(whole) == (20000 - 1000) // 300 + 1
    np.testing.assert_array_equal(whole[7].samples[:, 0] * 32768, np.arange(2100, 3100))
    rest = list(open_source(tmp_path, source).windows(60))
    np.testing.assert_array_equal(concatenated(rest), concatenated(whole[60:]))
    assert [window.t_s for window in rest] == [window.t_s for window in whole[60:]]


def test_a_truncated_wav_gives_what_it_has(tmp_path: Path) -> None:
    _wav(tmp_path / "a.wav", np.arange(1000)[:, None], 2)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:1045])  # an odd byte at the end
    assert len(_windows(tmp_path, "path = 'a.wav'\nwindow_samples = 100")) == 5


def test_a_wav_that_promises_two_gigabytes(tmp_path: Path) -> None:
    _wav(tmp_path / "a.wav", np.arange(1000)[:, None], 2)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 2**31 - 1)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(_windows(tmp_path, "path = 'a.wav'\nwindow_samples = 100")) == 10


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.wav", b"", "source.malformed"),
        ("a.wav", b"RIFF\xff\xff\xff\x7fWAVEfmt \x10", "source.malformed"),
        (
            "a.wav",
            b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0@\x1f\0\0\0}\0\0\x04\0 \0data\0\0\0\0",
            "source.malformed",
        ),
        ("a.csv", b"", "source.malformed"),
        ("a.csv", b"x,x\n1,2\n", "source.malformed"),
        ("a.csv", b"x" * 70000, "source.malformed"),
        ("a.csv", b",".join(b"c%d" % i for i in range(65)), "source.malformed"),
        ("a.npz", b"PK\x03\x04", "recording.malformed"),
    ],
)
def test_hostile_files_have_a_code(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((AgentError, ProtocolError)) as refused:
        _windows(tmp_path, f"path = '{name}'\nwindow_samples = 10\nsample_rate_hz = 100")
    assert getattr(refused.value, "code", None) == code
    with pytest.raises(AgentError) as refused:
        _windows(tmp_path, f"path = 'none{name}'\nwindow_samples = 10\nsample_rate_hz = 100")
    assert refused.value.code == "source.unreadable"


def test_csv_with_holes_and_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{i / 100:.2f},{i},{-i}" for i in range(40)]
    rows[3] = "0.03,NaN,-3"
    rows[4] = "0.04,cheese,-4"
    rows[5] = "0.05,5,"
    rows[6] = "0.06,,-6,,"  # delimiters beyond the last column
    del rows[17:19]
    (tmp_path / "a.csv").write_text("\ufefft, x ,y\n" + "\n".join(rows) + "\n\n0.4")  # ends in the middle of a line
    source = open_source(
        tmp_path, f"{FAST}path = 'a.csv'\ntime_column = 't'\nsample_rate_hz = 100\nwindow_samples = 10\nscale=[2.0,1.0]"
    )
    assert source.spec.channels == ("x", "y")
    windows = list(source.windows(0))
    found = concatenated(windows)
    expected = np.stack([2.0 * np.arange(40), -np.arange(40)], axis=1)
    expected[[3, 4, 6], 0] = np.nan
    expected[5, 1] = np.nan
    expected[17:19] = np.nan
    np.testing.assert_array_equal(found, expected)
    assert [window.t_s for window in windows] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert malformed_payloads(source) == 2  # the text, and the line that was cut off
    assert "line 6: column 'x' holds 'cheese'" in caplog.text
    assert "the last line was cut off" in caplog.text


def test_csv_whose_clock_jumps(tmp_path: Path) -> None:
    times = [*np.arange(20) / 100, *(5000 + np.arange(20) / 100), *(100 + np.arange(20) / 100)]
    (tmp_path / "a.csv").write_text("t,x\n" + "\n".join(f"{t:.2f},{i}" for i, t in enumerate(times)))
    windows = _windows(
        tmp_path, "path = 'a.csv'\ntime_column = 't'\nsample_rate_hz = 100\nwindow_samples = 10\nchannels = ['x']"
    )
    assert [window.t_s for window in windows] == pytest.approx([0, 0.1, 5000, 5000.1, 100, 100.1])
    assert [window.gap_samples for window in windows] == [0, 0, 499_980, 0, 0, 0]
    np.testing.assert_array_equal(concatenated(windows)[:, 0], np.arange(60))


@pytest.mark.parametrize("rate_hz", [50.0, 75.0, 90.0, 120.0, 202.0])
def test_a_table_whose_times_show_another_rate_is_refused(tmp_path: Path, rate_hz: float) -> None:
    (tmp_path / "a.csv").write_text("t,x\n" + "\n".join(f"{i / rate_hz:.6f},{i % 7}" for i in range(6000)))
    text = f"{FAST}path = 'a.csv'\nsample_rate_hz = 100\nwindow_samples = 10\ntime_column = 't'"
    with running(tmp_path, text) as taken:
        taken.until_state("source.mismatch")
        assert taken.windows == []


@pytest.mark.parametrize("t_s", [np.arange(4) * 0.16, np.arange(4) * 10.0])
def test_snapshots_can_be_cut(tmp_path: Path, t_s: NDArray[np.float64]) -> None:
    samples = np.arange(4 * 16, dtype=np.int16).reshape(4, 16, 1)
    write_recording(Recording(samples, np.array([1.0]), 100.0, t_s, ("x",), ("g",), {}), tmp_path / "r.npz")
    found = _windows(tmp_path, "path = 'r.npz'\nwindow_samples = 8")
    assert len(found) == 8
    np.testing.assert_array_equal(concatenated(found)[:, 0], np.arange(64))
    assert [window.gap_samples for window in found] == [0] * 8
    assert found[2].t_s == pytest.approx(t_s[1])
    across = _windows(tmp_path, "path = 'r.npz'\nwindow_samples = 10")
    assert len(across) == (6 if t_s[1] < 1 else 4)  # never across what was not measured


def test_windows_that_are_due_can_be_taken_at_once(tmp_path: Path) -> None:
    samples = np.arange(20 * 16, dtype=np.int16).reshape(20, 16, 1)
    write_recording(Recording(samples, np.array([1.0]), 100.0, np.arange(20.0), ("x",), ("g",), {}), tmp_path / "r.npz")
    source = open_source(tmp_path, f"{FAST}path = 'r.npz'")
    assert pending_windows(source) == 0
    stream = source.windows(5)
    assert next(stream).t_s == 5
    until(lambda: pending_windows(source) == 14, 5, "all due")
    assert [next(stream).t_s for _ in range(14)] == list(range(6, 20))
    assert pending_windows(source) == 0
    slow = open_source(tmp_path, "kind = 'replay'\nrate_hz = 0.001\npath = 'r.npz'")
    next(slow.windows(0))
    assert pending_windows(slow) == 0


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("path = 'r.npz'\nsample_rate_hz = 99", "source.mismatch"),
        ("path = 'r.npz'\nchannels = ['y']", "source.mismatch"),
        ("path = 'r.npz'\nwindow_samples = 17", "config.invalid"),
        ("path = 'a.wav'", "config.invalid"),
        ("path = 'a.csv'\nwindow_samples = 10\nsample_rate_hz = 1\ndelimiter = ''", "config.invalid"),
        ("path = 'a.wav'\nwindow_samples = 10\nscale = [1, 2]", "config.invalid"),
        ("path = 'a.wav'\nwindow_samples = 10\nsample_rate_hz = 44100", "source.mismatch"),
        ("path = 'a.csv'\nwindow_samples = 10", "config.invalid"),
        ("path = 'a.csv'\nwindow_samples = 10\nsample_rate_hz = 1\nchannels = ['z']", "source.malformed"),
    ],
)
def test_what_the_file_and_the_configuration_say_must_agree(tmp_path: Path, text: str, code: str) -> None:
    samples = np.zeros((2, 16, 1), np.int16)
    t_s = np.array([0.0, 5.0])
    write_recording(Recording(samples, np.array([1.0]), 100.0, t_s, ("x",), ("g",), {}), tmp_path / "r.npz")
    _wav(tmp_path / "a.wav", np.arange(100)[:, None], 2)
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(AgentError) as refused:
        _windows(tmp_path, text)
    assert refused.value.code == code


def test_a_file_that_goes_away_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n" + "\n".join(map(str, range(100))))
    source = open_source(tmp_path, f"{FAST}path = 'a.csv'\nwindow_samples = 10\nsample_rate_hz = 1")
    (tmp_path / "a.csv").rename(tmp_path / "b.csv")
    with RunningSource(source) as taken:
        taken.until_state("source.unreadable")
        (tmp_path / "b.csv").rename(tmp_path / "a.csv")
        until(taken.ended.is_set, 10, "the end")
        np.testing.assert_array_equal(concatenated(taken.windows)[:, 0], np.arange(100))


def _header(
    code: int, channels: int, bits: int, *, valid_bits: int = 0, subformat: int = 1, rate_hz: int = 8000
) -> bytes:
    """The part ``fmt`` of a WAV; with ``valid_bits`` as WAVE_FORMAT_EXTENSIBLE."""
    frame = channels * bits // 8
    content = struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * frame, frame, bits)
    if valid_bits:
        content += struct.pack("<HHIH", 22, valid_bits, 3, subformat) + bytes.fromhex("000000001000800000aa00389b71")
    return b"fmt " + struct.pack("<I", len(content)) + content


def _riff(path: Path, header: bytes, samples: bytes, promised: int | None = None, riff: int | None = None) -> None:
    length = len(samples) if promised is None else promised
    body = b"WAVE" + header + b"LIST\x03\0\0\0odd\0" + b"data" + struct.pack("<I", length) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body)


@pytest.mark.parametrize(("bits", "valid_bits"), [(16, 16), (24, 24), (32, 24), (32, 32)])
def test_extensible_wav(tmp_path: Path, bits: int, valid_bits: int) -> None:
    half = 2 ** (valid_bits - 1)
    codes = np.random.default_rng(bits).integers(-half, half, (500, 2))
    codes[0], codes[1] = half - 1, -half
    raw = b"".join(
        (int(code) << (bits - valid_bits)).to_bytes(bits // 8, "little", signed=True) for code in codes.ravel()
    )
    _riff(tmp_path / "a.wav", _header(0xFFFE, 2, bits, valid_bits=valid_bits), raw)
    source = open_source(tmp_path, f"{FAST}path = 'a.wav'\nwindow_samples = 250")
    windows = list(source.windows(0))
    np.testing.assert_allclose(concatenated(windows), (codes / half).astype(np.float32), rtol=1e-6)
    assert source.spec.full_scale == ((half - 1) / half,) * 2
    assert source.spec.sample_rate_hz == 8000


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("extensible", [False, True])
def test_wav_of_floats(tmp_path: Path, width: int, extensible: bool) -> None:
    values = np.random.default_rng(width).standard_normal((500, 1)) * 30
    header = (
        _header(0xFFFE, 1, 8 * width, valid_bits=8 * width, subformat=3) if extensible else _header(3, 1, 8 * width)
    )
    _riff(tmp_path / "a.wav", header, values.astype(f"<f{width}").tobytes())
    source = open_source(tmp_path, f"{FAST}path = 'a.wav'\nwindow_samples = 100")
    np.testing.assert_allclose(concatenated(list(source.windows(0))), values.astype(np.float32), rtol=1e-6)
    assert source.spec.full_scale == ()


@pytest.mark.parametrize(("promised", "riff"), [(0, 0), (0, 36), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_wav_whose_recorder_streamed(tmp_path: Path, promised: int, riff: int) -> None:
    samples = np.arange(1000, dtype="<i2")
    _riff(tmp_path / "a.wav", _header(1, 1, 16), samples.tobytes(), promised, riff)
    found = concatenated(_windows(tmp_path, "path = 'a.wav'\nwindow_samples = 100"))
    np.testing.assert_array_equal(found[:, 0] * 32768, samples)


@pytest.mark.parametrize(
    ("header", "samples", "promised"),
    [
        (_header(6, 1, 8), b"abcd", None),  # A-law
        (_header(0xFFFE, 1, 16, valid_bits=16, subformat=6), b"abcd", None),
        (_header(0xFFFE, 1, 16), b"abcd", None),  # extensible without its extension
        (_header(1, 2, 16).replace(struct.pack("<HH", 4, 16), struct.pack("<HH", 6, 16)), b"abcdef", None),
        (_header(1, 1, 16), b"", 0),
        (_header(1, 1, 16), b"LIST\x04\0\0\0abcd", 0),  # whole, and without samples
        (_header(1, 0, 16), b"abcd", None),
        (_header(3, 1, 16), b"abcd", None),
        (b"", b"abcd", None),
    ],
)
def test_wav_files_that_cannot_be_played(tmp_path: Path, header: bytes, samples: bytes, promised: int | None) -> None:
    _riff(tmp_path / "a.wav", header, samples, promised)
    with pytest.raises(AgentError) as refused:
        _windows(tmp_path, "path = 'a.wav'\nwindow_samples = 1")
    assert refused.value.code == "source.malformed"


TIMED = "path = 'a.csv'\ntime_column = 't'\nsample_rate_hz = 10\nwindow_samples = 10\n"


def test_csv_with_iso_times(tmp_path: Path) -> None:
    rows = [f"2026-01-01T00:00:{i // 10:02d}.{i % 10}{'' if i < 20 else '+00:00'},{i}" for i in range(40) if i != 25]
    rows[3] = "2026-01-01 01:00:00.3+01:00,3"
    (tmp_path / "a.csv").write_text("t,x\n" + "\n".join(rows))
    windows = _windows(tmp_path, TIMED)
    expected = np.arange(40.0)
    expected[25] = np.nan
    np.testing.assert_array_equal(concatenated(windows)[:, 0], expected)
    assert windows[0].t_s == pytest.approx(1_767_225_600)


@pytest.mark.parametrize("cell", ["0,5", "1/2/2026 10:00", "", "inf"])
@pytest.mark.parametrize("count", [20, 5000])
def test_csv_without_a_time_says_so(tmp_path: Path, cell: str, count: int) -> None:
    (tmp_path / "a.csv").write_text("t;x\n" + f"{cell};1\n" * count)
    with RunningSource(open_source(tmp_path, f"{FAST}{TIMED}delimiter = ';'")) as taken:
        taken.until_state("source.malformed")
    assert not taken.windows


def test_csv_lines_without_their_time_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{i / 10},{i}" for i in range(40)]
    rows[0], rows[12], rows[13] = "cheese,0", ",12", ""
    (tmp_path / "a.csv").write_text("t,x\n" + "\n".join(rows))
    found = concatenated(_windows(tmp_path, TIMED))[:, 0]
    assert np.flatnonzero(np.isnan(found)).tolist() == [11, 12]  # the stream begins with the second line
    assert "2 rows without a time were left out" in caplog.text


@pytest.mark.parametrize(("rate_hz", "channels"), [(44100, 2), (8000, 1), (8000, 3)])
def test_a_file_that_is_replaced_must_be_alike(tmp_path: Path, rate_hz: int, channels: int) -> None:
    _wav(tmp_path / "a.wav", np.arange(2000).reshape(1000, 2), 2)
    source = open_source(tmp_path, f"{FAST}path = 'a.wav'\nwindow_samples = 100\nscale = [1.0, 2.0]")
    _wav(tmp_path / "a.wav", np.zeros((1000, channels), np.int64), 2, rate_hz)
    with RunningSource(source) as taken:
        taken.until_state("source.mismatch")
        assert not taken.windows
        _wav(tmp_path / "a.wav", np.arange(2000).reshape(1000, 2), 2)
        taken.until(10)


def test_reading_far_into_a_file_can_be_ended(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n" + "1.5\n" * 400_000)
    source = open_source(tmp_path, f"{FAST}path = 'a.csv'\nwindow_samples = 500000\nsample_rate_hz = 1")
    with RunningSource(source):
        time.sleep(0.05)
    assert source.state == "running"  # it did not read to the end
