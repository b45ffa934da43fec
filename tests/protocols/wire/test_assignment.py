"""The assignment: golden vectors of both formats, what is refused, and how large it may become."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from tests.vectors.make_vectors import assignments, invalid_assignments, order, target
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.assignment import (
    MAX_ENVELOPE_BYTES,
    MAX_PIPELINES,
    Assignment,
    ExecutionOrder,
    PipelineTarget,
    decode_assignment,
    encode_assignment,
)
from wheeltapper_protocols.wire.ids import manifest_path

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


def vectors(name: str) -> dict[str, bytes]:
    loaded = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    assert loaded
    return {vector["name"]: base64.b64decode(vector["payload"]) for vector in loaded}


VALID = vectors("assignment")


def refused(payload: bytes) -> str:
    with pytest.raises(WireError) as caught:
        decode_assignment(payload)
    return caught.value.code


@pytest.mark.parametrize("name", assignments())
def test_the_assignment_keeps_its_bytes(name: str) -> None:
    assert VALID[name] == assignments()[name]
    assert encode_assignment(decode_assignment(VALID[name])) == VALID[name]


@pytest.mark.parametrize("name", ["assignment", "assignment_deadline"])
def test_format_1_is_one_execution_for_all_its_pipelines(name: str) -> None:
    deadline = 1.7e9 + 1800 if name == "assignment_deadline" else UNSET
    assert b'"format":1' in VALID[name]
    assert decode_assignment(VALID[name]) == Assignment(
        device="press-1",
        counter=5,
        issued_at=1.7e9,
        expires_at=1.7e9 + 3600,
        pipelines={"main": target()},
        executions=[order("c1-press-1", "main", deadline=deadline)],
    )


def test_format_1_covers_every_pipeline_that_it_names() -> None:
    document = json.loads(VALID["assignment"])
    document["pipelines"]["spare"] = document["pipelines"]["main"]
    del document["format"]  # a device that was made before took 1 for granted
    found = decode_assignment(json.dumps(document).encode())
    assert found.executions == [order("c1-press-1", "main", "spare")]
    assert found.targets(found.executions[0]) == {"main": target(), "spare": target()}


def test_every_vector_has_its_payload_and_its_code() -> None:
    assert set(VALID) == {"assignment", "assignment_deadline", *assignments()}
    assert vectors("assignment_invalid") == invalid_assignments()


@pytest.mark.parametrize("payload", vectors("assignment_invalid").values(), ids=list(vectors("assignment_invalid")))
def test_invalid_vectors_are_refused(payload: bytes) -> None:
    assert refused(payload) == "assignment.malformed"


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[" * 100_000, b'{"format":2}', b'{"format":null}', b"\xff", b'{"format":1,"device":"A"}'],
)
def test_an_assignment_that_cannot_be_read_is_refused(payload: bytes) -> None:
    assert refused(payload) == "assignment.malformed"


@pytest.mark.parametrize("name", ["assignment", "assignment_2"])
def test_an_assignment_cannot_point_at_another_models_release(name: str) -> None:
    payload = VALID[name].replace(b"releases/bearing-anomaly/3", b"releases/bearing-anomaly/2")
    assert payload != VALID[name]
    assert refused(payload) == "assignment.malformed"


@given(st.binary(max_size=300) | st.dictionaries(st.text(max_size=12), st.none() | st.integers() | st.text()))
def test_garbage_is_refused_and_nothing_else_escapes(document: Any) -> None:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    assert refused(payload) == "assignment.malformed"


def test_the_largest_assignment_fits_into_an_envelope() -> None:
    names = [f"{index:063d}" for index in range(MAX_PIPELINES)]
    release = 999_999_999
    largest = PipelineTarget(
        model="m" * 63, release=release, path=manifest_path("m" * 63, release), length=1024 * 1024, sha256="f" * 64
    )
    assignment = Assignment(
        device="d" * 63,
        counter=2**53,
        issued_at=1234567890.123456,
        expires_at=1234567890.123456,
        pipelines=dict.fromkeys(names, largest),
        executions=[
            ExecutionOrder(execution=f"e{name}", campaign="c" * 64, pipelines=[name], deadline=1234567890.123456)
            for name in names
        ],
    )
    payload = encode_assignment(assignment)
    assert decode_assignment(payload) == assignment
    signatures = 16 * 300  # each an Ed25519 signature and its key's id, in hex, with their names
    assert len(base64.b64encode(payload)) + signatures < MAX_ENVELOPE_BYTES
