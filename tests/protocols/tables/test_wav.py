"""WAV files beyond 4 GB and as recorders really write them. What is common to all of them is tested with the agent's
replay."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.tables.notes import Notes
from wheeltapper_protocols.tables.options import TableOptions
from wheeltapper_protocols.tables.signal import agreed_rate, open_table
from wheeltapper_protocols.tables.wav import WavTable

FMT = b"fmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
SAMPLES = np.arange(-500, 500, dtype="<i2")
UNKNOWN = 0xFFFFFFFF


def read(path: Path, notes: Notes | None = None) -> list[int]:
    """All samples of a file of one channel with 16 bits."""
    chunks = [samples for samples, _ in WavTable.open(path).chunks(notes or Notes())]
    return [int(code) for code in np.concatenate(chunks)[:, 0] * 32768]


def long_form(
    name: bytes, data_bytes: int, riff_bytes: int = 0, length: int = UNKNOWN, table: bytes = b"", before: bytes = b""
) -> bytes:
    """A file with lengths of 64 bits: EBU Tech 3306, figure 2."""
    ds64 = struct.pack("<QQQI", riff_bytes, data_bytes, 0, len(table) // 12) + table
    body = b"WAVE" + b"ds64" + struct.pack("<I", len(ds64)) + ds64 + before + FMT
    return name + struct.pack("<I", UNKNOWN) + body + b"data" + struct.pack("<I", length) + SAMPLES.tobytes()


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
@pytest.mark.parametrize("data_bytes", [2000, 0])  # 0: the recorder never came to write it
def test_long_forms(tmp_path: Path, name: bytes, data_bytes: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(long_form(name, data_bytes))
    assert read(path) == SAMPLES.tolist()


def test_what_follows_the_samples_of_a_long_form_is_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(long_form(b"RF64", 2000) + b"LIST\x04\0\0\0abcd")
    assert read(path) == SAMPLES.tolist()


def test_a_long_chunk_before_the_samples_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    extra = b"axml" + struct.pack("<I", UNKNOWN) + b"x" * 30
    path.write_bytes(long_form(b"BW64", 2000, table=b"axml" + struct.pack("<Q", 30), before=extra))
    assert read(path) == SAMPLES.tolist()


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(long_form(b"RF64", 2 * 10**10))
    notes = Notes()
    assert read(path, notes) == SAMPLES.tolist()
    assert notes.counts == {"truncated": 10**10 - 1000}
    assert notes.first["truncated"] == "the file is truncated: 9999999000 of 10000000000 samples are missing"
    assert notes.lost == 1


@pytest.mark.parametrize("more", [b"", b"LIST\x04\0\0\0abcd"])
def test_a_plain_file_whose_lengths_ran_over(tmp_path: Path, more: bytes) -> None:
    data_bytes = 2**32 + 2000  # a hole on the disk
    size = 12 + len(FMT) + 8 + data_bytes + len(more)
    head = b"RIFF" + struct.pack("<I", (size - 8) % 2**32) + b"WAVE" + FMT + b"data" + struct.pack("<I", 2000)
    path = tmp_path / "a.wav"
    with path.open("wb") as handle:
        handle.write(head)
        handle.truncate(size - len(more))
        handle.seek(0, 2)
        handle.write(more)
    assert WavTable.open(path).frames == data_bytes // 2


@pytest.mark.parametrize("padding", [b"", b"\0", b"x"])
@pytest.mark.parametrize("odd", [b"LIST", b"note"])
def test_a_chunk_of_odd_length_with_and_without_padding(tmp_path: Path, padding: bytes, odd: bytes) -> None:
    chunk = odd + struct.pack("<I", 5) + b"abcde" + padding
    body = b"WAVE" + chunk + FMT + chunk + b"data" + struct.pack("<I", 2000) + SAMPLES.tobytes()
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert read(path) == SAMPLES.tolist()


def test_a_rate_in_whole_hertz_is_accepted_for_the_real_one(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(long_form(b"RF64", 2000))
    table = open_table(path, "wav", TableOptions())
    assert agreed_rate(table, 0.0) == 8000
    assert agreed_rate(table, 8000.4) == 8000.4
    with pytest.raises(RecordingError) as refused:
        agreed_rate(table, 8010.0)
    assert refused.value.code == "recording.mismatch"


@pytest.mark.parametrize(
    ("after", "unread"),
    [
        (b"LIST\x04\0\0\0abcd", 0),
        (b"LIST\x03\0\0\0abc\0id3 \x02\0\0\0ab", 0),
        (b"\0" * 7, 0),
        (b"data" + struct.pack("<I", 400) + bytes(400), 200),
        (b"LIST\x04\0\0\0abcd" + b"data" + struct.pack("<I", 400) + bytes(400), 200),
        (SAMPLES[:300].tobytes(), 300),  # the recorder wrote the length now and then only
    ],
)
def test_samples_beyond_those_that_the_header_counts_are_said(tmp_path: Path, after: bytes, unread: int) -> None:
    body = b"WAVE" + FMT + b"data" + struct.pack("<I", 2000) + SAMPLES.tobytes() + after
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    notes = Notes()
    assert read(path, notes) == SAMPLES.tolist()
    assert notes.counts == ({"unread": unread} if unread else {})
