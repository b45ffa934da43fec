"""The wire: golden vectors, arbitrary bytes, and limits."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors.make_vectors import EPOCH, RECORD, VALID, read
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest import manifest
from wheeltapper_protocols.manifest.manifest import BundleFile
from wheeltapper_protocols.wire import assignment, codec, messages, topics
from wheeltapper_protocols.wire import messages as m
from wheeltapper_protocols.wire.ids import device_id, manifest_path, parse_manifest_path
from wheeltapper_protocols.wire.topics import Up

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


def vectors(name: str) -> list[dict[str, str]]:
    loaded: list[dict[str, str]] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    assert loaded
    return loaded


@pytest.mark.parametrize("vector", vectors("messages_valid"), ids=lambda vector: vector["name"])
def test_valid_vectors_keep_their_bytes_and_their_meaning(vector: dict[str, str]) -> None:
    payload = base64.b64decode(vector["payload"])
    topic, message = VALID[vector["name"]]
    assert topic == vector["topic"]
    assert read(topic, payload) == message
    assert codec.encode(message) == payload


@pytest.mark.parametrize(
    ("kind", "good"),
    [(m.Name, "press-1"), (m.Epoch, "0" * 16), (m.Identifier, "c-1"), (BundleFile, "model.onnx")],
)
def test_a_name_ends_where_it_ends(kind: Any, good: str) -> None:
    def read(text: str) -> object:
        return msgspec.convert({"name": text, "sha256": "0" * 64, "length": 1} if kind is BundleFile else text, kind)

    assert read(good)
    for text in (f"{good}\n", f"\n{good}", f"{good}\n\n"):
        with pytest.raises(msgspec.ValidationError):
            read(text)


def test_every_pattern_of_the_protocol_covers_the_whole_text() -> None:
    structs = [
        kind
        for module in (messages, manifest, assignment)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ]
    patterns = set(re.findall(r"pattern='([^']*)'", repr(msgspec.inspect.multi_type_info(structs))))
    assert len(patterns) >= 5
    assert [one for one in patterns if not (one.startswith("^") and one.endswith(r"\\Z"))] == []


def test_every_message_has_a_vector() -> None:
    assert {vector["name"] for vector in vectors("messages_valid")} == set(VALID)


@pytest.mark.parametrize("vector", vectors("messages_invalid"), ids=lambda vector: vector["name"])
def test_invalid_vectors_keep_their_code(vector: dict[str, str]) -> None:
    with pytest.raises(WireError) as caught:
        read(vector["topic"], base64.b64decode(vector["payload"]))
    assert caught.value.code == vector["code"]


@given(st.sampled_from(list(Up)), st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else_escapes(kind: Up, payload: bytes) -> None:
    with contextlib.suppress(WireError):
        codec.decode(kind, payload)


@pytest.mark.parametrize("kind", list(Up))
def test_too_much_is_refused_before_it_is_read(kind: Up) -> None:
    with pytest.raises(WireError) as caught:
        codec.decode(kind, b"1" * (10 * 1024 * 1024))
    assert caught.value.code == "wire.too_large"


def test_unknown_fields_are_ignored() -> None:
    assert codec.decode(Up.STATUS, b'{"online":true,"from_the_future":{"x":[1]}}') == m.Status(online=True)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_a_number_never_leaves(score: float) -> None:
    with pytest.raises(ValueError, match="score must be a finite number"):
        m.TelemetryRecord(seq=1, pipeline="main", window=0, t_s=0.0, score=score)


def test_large_batches_are_compressed_and_come_back() -> None:
    batch = m.Telemetry(epoch=EPOCH, oldest=1, records=[RECORD] * 1000)
    payload = codec.encode(batch)
    assert payload[:4] == b"\x28\xb5\x2f\xfd"
    assert codec.decode(Up.TELEMETRY, payload) == batch


@pytest.mark.parametrize("vector", vectors("names"), ids=lambda vector: vector["name"])
def test_device_ids_and_topics_keep_their_verdict(vector: dict[str, str]) -> None:
    read_text = device_id if vector["what"] == "device" else topics.parse_up_topic
    if vector["code"] == "ok":
        read_text(vector["text"])
        return
    with pytest.raises(WireError) as caught:
        read_text(vector["text"])
    assert caught.value.code == vector["code"]


def test_topics_and_paths_go_both_ways() -> None:
    for kind in Up:
        assert topics.parse_up_topic(topics.up_topic("press-1", kind)) == ("press-1", kind)
    assert parse_manifest_path(manifest_path("bearing-anomaly", 12)) == ("bearing-anomaly", 12)


@pytest.mark.parametrize(
    "body",
    [
        m.ExecutionReport(execution="e1", state=m.ExecutionState.COMMITTED, metrics={"a": math.nan}),
        m.ExecutionReport(execution="e1", state=m.ExecutionState.COMMITTED, detail="x" * 5000),
        m.ShadowReport(execution="e1", pipeline="main", model="m", release=1, quantiles=[math.nan]),
    ],
)
def test_what_no_reader_would_accept_is_not_sent(body: m.ReportBody) -> None:
    with pytest.raises(WireError) as caught:
        codec.encode(m.Report(epoch="0" * 16, oldest=1, seq=1, at=0.0, body=body))
    assert caught.value.code == "wire.invalid"


@pytest.mark.parametrize(("depth", "refused"), [(190, False), (210, True), (900, True), (9_000, True), (100_000, True)])
def test_how_deep_json_may_be_nested_does_not_depend_on_python(depth: int, refused: bool) -> None:
    payload = b'{"online":true,"at":1.0,"x":' + b"[" * depth + b"]" * depth + b"}"
    if not refused:
        assert codec.decode(Up.STATUS, payload) == m.Status(online=True, at=1.0)
        return
    with pytest.raises(WireError) as caught:
        codec.decode(Up.STATUS, payload)
    assert caught.value.code == "wire.malformed"


def test_brackets_in_texts_and_beside_each_other_are_not_nested() -> None:
    beside = b"[" + b",".join([b"{}"] * 500) + b"]"
    payload = b'{"online":true,"at":1.0,"x":"' + b"[" * 500 + rb"\"[[\\" + b'","y":' + beside + b"}"
    assert codec.decode(Up.STATUS, payload) == m.Status(online=True, at=1.0)
