"""Make the golden vectors of the wire: exact bytes and error codes, valid and invalid, nothing random in them.

Run by hand when a message is added: ``python -m tests.vectors.make_vectors``. It never rewrites a vector that is there:
one that no longer holds means that the wire changed, and old devices are still out there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from wheeltapper_protocols import messages as m
from wheeltapper_protocols.assignment import Assignment, PipelineTarget, encode_assignment
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.ids import device_id
from wheeltapper_protocols.topics import Down, Up, parse_up_topic

FOLDER = Path(__file__).parent
EPOCH = "00112233445566aa"
RECORD = m.TelemetryRecord(
    seq=7, pipeline="main", window=6, t_s=60.0, model="bearing-anomaly", release=1, score=0.25, latency_ms=1.5
)
VALID: dict[str, tuple[str, m.Message]] = {
    "status": (
        "up/status",
        m.Status(online=True, at=1.7e9, epoch=EPOCH, seq=9, acked=7, agent_version="0.1.0", counter=2),
    ),
    "status_will": ("up/status", m.Status(online=False)),
    "status_pipelines": (
        "up/status",
        m.Status(
            online=True,
            at=1.7e9,
            execution="c1-d1",
            execution_state=m.ExecutionState.PROBATION,
            pipelines={"main": m.PipelineStatus(model="bearing-anomaly", release=3, windows=17)},
        ),
    ),
    "status_runtime": (
        "up/status",
        m.Status(
            online=True,
            at=1.7e9,
            pipelines={
                "main": m.PipelineStatus(model="bearing-anomaly", release=3, runtime="ai-edge-litert/XNNPACK"),
            },
        ),
    ),
    "telemetry": ("up/telemetry", m.Telemetry(epoch=EPOCH, oldest=7, records=[RECORD])),
    "telemetry_unscored": (
        "up/telemetry",
        m.Telemetry(epoch=EPOCH, oldest=1, records=[m.TelemetryRecord(seq=1, pipeline="main", window=0, t_s=0.0)]),
    ),
    "alert": (
        "up/alert",
        m.Alert(
            epoch=EPOCH,
            oldest=7,
            seq=8,
            pipeline="main",
            window=6,
            t_s=60.0,
            at=1.7e9,
            model="bearing-anomaly",
            release=1,
            score=1.75,
            severity=m.Severity.WARNING,
            reasons=[m.Reason(feature="x.rms", value=2.5, usual=0.5, share=0.75)],
        ),
    ),
    "report_execution": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=7,
            seq=9,
            at=1.7e9,
            body=m.ExecutionReport(
                execution="c1-d1", state=m.ExecutionState.REJECTED, code="self_test.output", metrics={"latency_ms": 0.5}
            ),
        ),
    ),
    "report_refused": (
        "up/report",
        m.Report(epoch=EPOCH, oldest=7, seq=10, at=1.7e9, body=m.AssignmentRefused(code="assignment.signature")),
    ),
    "report_capture": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=7,
            seq=11,
            at=1.7e9,
            body=m.CaptureReport(command="k1", pipeline="main", sha256="ab" * 32, length=4096, snapshots=8),
        ),
    ),
    "command_capture": (
        "down/command",
        m.Command(id="k1", expires_at=1.7e9, body=m.CaptureCommand(pipeline="main", snapshots=8)),
    ),
    "command_cancel": ("down/command", m.Command(id="k2", expires_at=1.7e9, body=m.CancelCommand(execution="c1-d1"))),
    "ack": ("down/ack", m.Ack(epoch=EPOCH, seq=11)),
}


def invalid() -> dict[str, tuple[str, bytes]]:
    """Payloads that must be refused; the code is what :func:`decode` says when the vector is made."""
    record = msgspec.to_builtins(RECORD)
    telemetry = {"epoch": EPOCH, "oldest": 7, "records": [record]}

    def packed(**changes: Any) -> bytes:
        return msgspec.msgpack.encode(telemetry | changes)

    bomb = zstandard.ZstdCompressor().compress(bytes(m.MAX_DECOMPRESSED_BYTES + 1))
    return {
        "empty": ("up/status", b""),
        "not_json": ("up/status", b"\xff\xfe\x00"),
        "not_an_object": ("up/status", b"[1,2,3]"),
        "missing_field": ("up/status", b'{"at":1.0}'),
        "wrong_type": ("up/status", b'{"online":"yes"}'),
        "bad_name": ("up/status", b'{"online":true,"pipelines":{"../x":{}}}'),
        "huge_number": ("up/status", b'{"online":true,"seq":99999999999999999999}'),
        "nan_literal": ("up/status", b'{"online":true,"at":NaN}'),
        "deep": ("up/status", b'{"online":true,"x":' + b"[" * 5000 + b"]" * 5000 + b"}"),
        "telemetry_no_records": ("up/telemetry", packed(records=[])),
        "telemetry_nan_score": ("up/telemetry", packed(records=[record | {"score": float("nan")}])),
        "telemetry_infinite_time": ("up/telemetry", packed(records=[record | {"t_s": float("inf")}])),
        "telemetry_seq_zero": ("up/telemetry", packed(records=[record | {"seq": 0}])),
        "telemetry_bad_epoch": ("up/telemetry", packed(epoch="xyz")),
        "telemetry_truncated": ("up/telemetry", packed()[:-5]),
        "telemetry_not_zstd": ("up/telemetry", b"\x28\xb5\x2f\xfd\x00\x00"),
        "telemetry_bomb": ("up/telemetry", bomb),
        "alert_unknown_severity": ("up/alert", b'{"severity":"terrible"}'),
        "report_unknown_body": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,"body":{"type":"dance"}}',
        ),
        "report_terminal_unknown": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,'
            b'"body":{"type":"execution","execution":"e","state":"DONE"}}',
        ),
        "capture_not_defined": ("up/capture", b"{}"),
        "command_expired_type": ("down/command", b'{"id":"k","expires_at":"soon","body":{"type":"cancel"}}'),
        "ack_negative": ("down/ack", b'{"epoch":"00112233445566aa","seq":-1}'),
    }


def read(topic: str, payload: bytes) -> m.Message:
    """Decode what came on ``up/<kind>`` or ``down/<kind>``."""
    way, _, kind = topic.partition("/")
    return m.decode(Up(kind), payload) if way == "up" else m.decode_down(Down(kind), payload)


def assignment_vector() -> dict[str, str]:
    target = PipelineTarget(
        model="bearing-anomaly",
        release=3,
        path="releases/bearing-anomaly/3/manifest.json",
        length=1234,
        sha256="cd" * 32,
    )
    assignment = Assignment(
        device="press-1",
        counter=5,
        issued_at=1.7e9,
        expires_at=1.7e9 + 3600,
        campaign="c1",
        execution="c1-press-1",
        pipelines={"main": target},
    )
    return {"name": "assignment", "payload": base64.b64encode(encode_assignment(assignment)).decode("ascii")}


GOOD_NAMES = ["a", "press-1", "0", "a" * 63]
BAD_NAMES = ["", "A", "a/b", "a+", "#", "../x", "a" * 64, "-a", "a\n", "é", "a.b", "a_b", "a b"]
TOPICS = [
    *(f"wt/v1/press-1/up/{kind.value}" for kind in Up),
    "",
    "wt/v1/press-1/up",
    "wt/v1/press-1/up/status/more",
    "wt/v2/press-1/up/status",
    "wt/v1/Press/up/status",
    "wt/v1/press-1/down/ack",
    "wt/v1/press-1/up/dance",
    "/wt/v1/press-1/up/status",
    "wt/v1/+/up/status",
]


def name_vectors() -> list[dict[str, str]]:
    """Device ids and topics, each with ``ok`` or the code with which it is refused."""
    vectors = []
    for what, read_text, texts in (("device", device_id, GOOD_NAMES + BAD_NAMES), ("topic", parse_up_topic, TOPICS)):
        for text in texts:
            try:
                read_text(text)
            except WireError as error:
                code = error.code
            else:
                code = "ok"
            vectors.append({"name": f"{what} {text}", "what": what, "text": text, "code": code})
    return vectors


def add_new(path: Path, vectors: Sequence[Mapping[str, Any]]) -> None:
    """Append the vectors whose name is not in the file yet."""
    kept: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    names = {vector["name"] for vector in kept}
    kept += [vector for vector in vectors if vector["name"] not in names]
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    good = [
        {"name": name, "topic": topic, "payload": base64.b64encode(m.encode(message)).decode("ascii")}
        for name, (topic, message) in VALID.items()
    ]
    bad = []
    for name, (topic, payload) in invalid().items():
        try:
            read(topic, payload)
        except WireError as error:
            bad.append(
                {"name": name, "topic": topic, "payload": base64.b64encode(payload).decode("ascii"), "code": error.code}
            )
        else:
            raise SystemExit(f"{name} is accepted; it should not be")
    add_new(FOLDER / "messages_valid.json", good)
    add_new(FOLDER / "messages_invalid.json", bad)
    add_new(FOLDER / "assignment.json", [assignment_vector()])
    add_new(FOLDER / "names.json", name_vectors())


if __name__ == "__main__":
    main()
