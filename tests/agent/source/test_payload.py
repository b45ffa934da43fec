"""Payloads as other programs write them: numbers that are none, times, dotted keys, text, lists of objects, and formats
that are not read."""

from __future__ import annotations

import datetime
import json
import math
import struct
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.source.base import Window
from wheeltapper_agent.source.mqtt import MqttConfig
from wheeltapper_agent.source.payload import PayloadReader
from wheeltapper_agent.source.stream import Sink

NAN = math.nan


def _reader(**keys: Any) -> PayloadReader:
    base: dict[str, Any] = {"topic": "x", "channels": ("a", "b"), "sample_rate_hz": 100, "window_samples": 1}
    return PayloadReader(MqttConfig(**base | keys))


def _refusal(content: bytes, **keys: Any) -> str:
    with pytest.raises(AgentError) as refused:
        _reader(**keys).read(content)
    assert refused.value.code == "source.payload"
    return refused.value.message


@pytest.mark.parametrize(
    "numbers",
    [
        "[[1, NaN], [Infinity, 2]]",
        "[1, -NaN, -Infinity, 2]",
        "[1, nan, inf, 2]",
        "[1, undefined, -nan(ind), 2]",
        "[1, ovf, None, 2]",
    ],
)
def test_numbers_that_are_none_are_missing_samples(numbers: str) -> None:
    samples, t_s = _reader(time_key="t").read(f'{{"t": 5, "samples": {numbers}, "note": "NaN \\" inf"}}'.encode())
    np.testing.assert_array_equal(samples, [[1, NAN], [NAN, 2]])
    assert t_s == 5


def test_what_python_writes_is_read() -> None:
    payload = json.dumps({"samples": [[float("nan"), 1.0], [2.0, float("-inf")]]}).encode()
    np.testing.assert_array_equal(_reader().read(payload)[0], [[NAN, 1], [2, NAN]])
    marked = b"\xef\xbb\xbf" + b'{"samples": [1, 2]}'
    np.testing.assert_array_equal(_reader().read(marked)[0], [[1, 2]])


def test_infinite_numbers_of_other_formats_are_missing_samples() -> None:
    taken: list[Window] = []
    config = MqttConfig(topic="x", sample_rate_hz=10, window_samples=2)
    sink = Sink(config, SystemClock(), taken.extend, "main")
    sink.push(
        _reader(channels=("a",), payload="msgpack", samples_key="").read(msgspec.msgpack.encode([math.inf, 1]))[0]
    )
    sink.push(_reader(channels=("a",), payload="float32").read(struct.pack("<2f", -math.inf, 1))[0])
    assert [window.samples[:, 0].tolist()[1] for window in taken] == [1, 1]
    assert all(np.isnan(window.samples[0, 0]) for window in taken)


@pytest.mark.parametrize(
    ("text", "t_s"),
    [
        ('"2026-01-01T00:00:00Z"', 1767225600),
        ('"2026-01-01T02:00:00.250+02:00"', 1767225600.25),
        ('"2026-01-01 00:00:00,5"', 1767225600.5),
        ('"20260101T000000Z"', 1767225600),
        ('"2026-01-01T00:00:00.123456789Z"', 1767225600.123456),
        ('"1767225600.5"', 1767225600.5),
        ("1767225600", 1767225600),
    ],
)
def test_times(text: str, t_s: float) -> None:
    found = _reader(time_key="time").read(f'{{"time": {text}, "samples": [1, 2]}}'.encode())[1]
    assert found == pytest.approx(t_s, abs=1e-6)


@pytest.mark.parametrize(
    ("unit", "number"), [("ms", 1767225600250), ("us", 1767225600250000), ("ns", 1767225600250000000)]
)
def test_units_of_times(unit: str, number: int) -> None:
    found = _reader(time_key="t", time_unit=unit).read(f'{{"t": {number}, "samples": [1, 2]}}'.encode())[1]
    assert found == pytest.approx(1767225600.25, abs=1e-6)


@pytest.mark.parametrize("stamp", ["null", "true", '"now"', "[]", "{}", "NaN", '""'])
def test_what_is_no_time_is_refused(stamp: str) -> None:
    assert "time" in _refusal(f'{{"t": {stamp}, "samples": [1, 2]}}'.encode(), time_key="t")


def test_a_time_of_messagepack() -> None:
    stamp = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    payload = msgspec.msgpack.encode({"t": stamp, "samples": [1, 2]})
    assert _reader(payload="msgpack", time_key="t").read(payload)[1] == 1767225600
    assert "'samples' is missing; there are '5'" in _refusal(msgspec.msgpack.encode({5: 1}), payload="msgpack")


def test_a_time_in_another_unit_is_refused() -> None:
    for number in ("1767225600000", '"1767225600000000"', "-5"):
        assert "check time_unit" in _refusal(f'{{"t": {number}, "samples": [1, 2]}}'.encode(), time_key="t")


def test_each_sample_may_have_its_time() -> None:
    payload = b'{"t": [7, "1970-01-01T00:00:05Z"], "samples": [[1, 2], [3, 4]]}'
    samples, times_s = _reader(time_key="t").read(payload)
    np.testing.assert_array_equal(samples, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(times_s, [7, 5])
    assert "1 times for 2 samples" in _refusal(b'{"t": [1], "samples": [1, 2, 3, 4]}', time_key="t")


@pytest.mark.parametrize(
    ("key", "payload"),
    [
        ("data.x", b'{"data.x": [1, 2]}'),
        ("data.x", b'{"data": {"x": [1, 2]}}'),
        ("data.x", b'{"data.x": [1, 2], "data": {"x": [8, 9]}}'),
        ("a.b.c", b'{"a.b": {"c": [1, 2]}}'),
        ("a.b.c", b'{"a": {"b.c": [1, 2]}}'),
        ("a.b.c", b'{"a.b": {"d": 1}, "a": {"b": {"c": [1, 2]}}}'),
        ("Messages.0.Payload", b'{"Messages": [{"Payload": [1, 2]}]}'),
    ],
)
def test_dotted_keys(key: str, payload: bytes) -> None:
    np.testing.assert_array_equal(_reader(samples_key=key).read(payload)[0], [[1, 2]])


def test_channels_may_lie_deeper() -> None:
    reader = _reader(samples_key="", channels=("acc.x", "acc.y"), time_key="meta.t")
    samples, t_s = reader.read(b'{"acc": {"x": [1, 2], "y": [3, 4]}, "meta.t": 9}')
    np.testing.assert_array_equal(samples, [[1, 3], [2, 4]])
    assert t_s == 9


def test_a_missing_key_names_what_is_there() -> None:
    assert _refusal(b'{"values": [1], "at": 5}').endswith("'samples' is missing; there are 'at', 'values'")


def test_numbers_as_text() -> None:
    payload = b'{"samples": ["1.5", " -2e3", "", "NaN", 7, null]}'
    assert "set numbers_as_text = true" in _refusal(payload)
    found = _reader(numbers_as_text=True).read(payload)[0]
    np.testing.assert_array_equal(found, [[1.5, -2000], [NAN, NAN], [7, NAN]])
    for text in ("1,5", "1_000", "0x10", "off", "\u0661", "AAECAw=="):
        assert "not a number" in _refusal(json.dumps({"samples": [text, "1"]}).encode(), numbers_as_text=True)
    assert "not bool" in _refusal(b'{"samples": ["1", true]}', numbers_as_text=True)
    assert "base64" in _refusal(b'{"samples": "AAECAwQFBgcICQ=="}')


@pytest.mark.parametrize(
    "payload",
    [
        b'{"samples": [1, 2], "samples": [3, 4]}',
        b'{"t": 1, "samples": [1, 2], "t":2}',
        b'{"samples": {"a": 1, "b": 2, "a" : 3}}',
        b'{"samples": [{"a": 1, "b": 2, "b": 3}]}',
    ],
)
def test_a_key_that_comes_twice_is_refused(payload: bytes) -> None:
    assert "comes twice" in _refusal(payload, time_key="" if b'"t"' not in payload else "t")


def test_the_same_key_in_two_objects_does_not_come_twice() -> None:
    payload = b'{"samples": {"a": 1, "b": 2}, "other": {"a": 5, "note": "\\"a\\" a"}, "name": "a"}'
    np.testing.assert_array_equal(_reader().read(payload)[0], [[1, 2]])


@pytest.mark.parametrize(
    "numbers",
    ["[[[1]], 2]", "[[1, 2], [3]]", '{"a": [1, 2], "b": [3]}', "[true, 1]", '{"a": {}, "b": 1}', "[1, [2, 3]]"],
)
def test_what_has_no_shape_is_refused(numbers: str) -> None:
    _refusal(f'{{"samples": {numbers}}}'.encode())


def test_no_samples_are_no_samples() -> None:
    for empty in (b'{"samples": []}', b'{"samples": {"a": [], "b": []}}'):
        assert _reader().read(empty)[0].shape == (0, 2)


def test_objects_one_a_sample() -> None:
    rows = b'{"rows": [{"t": 2, "a": 3, "b": 4}, {"t": 1, "a": 1}, {"t": 3, "c": 9}]}'
    samples, times_s = _reader(samples_key="rows", time_key="t").read(rows)
    np.testing.assert_array_equal(samples, [[1, NAN], [3, 4]])
    np.testing.assert_array_equal(times_s, [1, 2])
    samples, t_s = _reader(samples_key="rows").read(rows)
    assert t_s is None
    assert "'b' is missing; there are 'a', 't'" in _refusal(b'[{"t": 1, "a": 1}]', samples_key="")
    assert "no 't'" in _refusal(b'[{"t": 1, "a": 1, "b": 1}, {"a": 1, "b": 1}]', samples_key="", time_key="t")


def test_a_batch_of_telegraf() -> None:
    metrics = [
        {"name": "press", "fields": {"a": 1.5}, "tags": {"host": "x"}, "timestamp": 1767225600},
        {"name": "press", "fields": {"b": -1}, "tags": {"host": "x"}, "timestamp": 1767225600},
        {"name": "cpu", "fields": {"usage_idle": 99}, "tags": {}, "timestamp": 1767225600},
        {"name": "press", "fields": {"a": 2.5, "b": -2}, "tags": {"host": "x"}, "timestamp": 1767225601},
    ]
    reader = _reader(samples_key="metrics", time_key="timestamp")
    samples, times_s = reader.read(json.dumps({"metrics": metrics}).encode())
    np.testing.assert_array_equal(samples, [[1.5, -1], [2.5, -2]])
    np.testing.assert_array_equal(times_s, [1767225600, 1767225601])


def test_senml() -> None:
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "bt": 1767225600.0, "bv": 10, "bu": "Cel", "n": "a", "v": 1},
        {"n": "b", "v": 2},
        {"n": "a", "t": 5, "v": 3},
        {"n": "hum", "u": "%RH", "vs": "dry"},
        {"n": "b", "t": 5},
    ]
    samples, times_s = _reader(samples_key="").read(json.dumps(pack).encode())
    np.testing.assert_array_equal(samples, [[11, 12], [13, NAN]])
    np.testing.assert_array_equal(times_s, [1767225600, 1767225605])
    full = _reader(samples_key="", channels=("urn:dev:ow:10e2073a01080063:a",), time_unit="ns")
    np.testing.assert_array_equal(full.read(json.dumps(pack[:2]).encode())[0], [[11]])
    samples, t_s = _reader(samples_key="", channels=("a",)).read(b'[{"n": "a", "t": -1, "v": 1}, {"n": "a", "v": 2}]')
    assert (samples.tolist(), t_s) == ([[1], [2]], None)


@pytest.mark.parametrize(
    ("pack", "why"),
    [
        ('[{"n": "c", "v": 1}]', "there are 'c'"),
        ('[{"n": "a", "vs": "on"}, {"n": "b", "v": 1}]', "not a number"),
        ('[{"bver": 11, "n": "a", "v": 1}, {"n": "b", "v": 1}]', "RFC 8428"),
        ('[{"n": "a", "v": 1, "new_": 2}, {"n": "b", "v": 1}]', "RFC 8428"),
        ('[{"n": "a", "v": 1}, {"n": "b", "v": 1}]', "absolute times"),
    ],
)
def test_senml_that_is_not_understood_is_refused(pack: str, why: str) -> None:
    assert why in _refusal(pack.encode(), samples_key="")


@pytest.mark.parametrize(
    ("payload", "form", "named"),
    [
        (b"press,host=a vib=1.5,temp=20 1767225600000000000", "json", "InfluxDB line protocol"),
        (zlib.compress(b"{}"), "json", "zlib"),
        (b"\x1f\x8b\x08\x00", "json", "gzip"),
        (b"\x28\xb5\x2f\xfd\x00", "json", "zstd"),
        (b"\xff\xfe{\x00}\x00", "json", "UTF-16"),
        (b"\xa2\x61t\x01\x67samples\x81\xf9\x3c\x00", "json", "CBOR"),
        (b"\x08\xc0\xc5\xfb\xe9\xbc\x32\x12\x08\x0a\x03vib", "json", "Sparkplug"),
        (msgspec.msgpack.encode({"samples": [1, 2]}), "json", "set payload = 'msgpack'"),
        (b"1.5,2.5,3.5", "json", "plain text"),
        (b"AAECAwQFBgcICQoLDA0ODw==", "json", "base64"),
        (b"", "json", "empty"),
        (b'{"samples": [1, 2]}', "msgpack", "JSON"),
        (b'{"samples": [1, 2]} ', "float32", "JSON"),
        (b"1.5,2.5,3.5,4.25", "float32", "plain text"),
        (b"[1, 2]", "int16", "JSON"),
    ],
)
def test_another_format_is_named(payload: bytes, form: str, named: str) -> None:
    channels = ("a",) if form == "int16" else ("a", "b")
    assert named in _refusal(payload, payload=form, channels=channels)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=1, max_size=20))
def test_whatever_python_writes_is_the_same_number_or_missing(numbers: list[float]) -> None:
    found = _reader(channels=("a",), samples_key="").read(json.dumps(numbers).encode())[0][:, 0]
    np.testing.assert_array_equal(found, [number if math.isfinite(number) else NAN for number in numbers])


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=40))
def test_raw_numbers_are_not_taken_for_text(numbers: list[int]) -> None:
    payload = np.array(numbers, "<i2").tobytes()
    assert _reader(channels=("a",), payload="int16").read(payload)[0][:, 0].tolist() == numbers
