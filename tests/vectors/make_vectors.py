"""Make the golden vectors of the wire: exact bytes and error codes of valid and invalid messages.

Run by hand when a message is added: ``python -m tests.vectors.make_vectors``. It only appends vectors. A
vector that no longer holds means that the wire changed, which breaks the devices in the field. Nothing in it is random.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from wheeltapper_protocols.drift.sketch import Bins, encode_sketches
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.signal.quality import DataQuality
from wheeltapper_protocols.wire import codec
from wheeltapper_protocols.wire import messages as m
from wheeltapper_protocols.wire.assignment import (
    Assignment,
    ExecutionOrder,
    PipelineTarget,
    decode_assignment,
    encode_assignment,
)
from wheeltapper_protocols.wire.commands import (
    DiagnosticsCommand,
    ResetBaselineCommand,
    RestartPipelineCommand,
    SettingsCommand,
)
from wheeltapper_protocols.wire.ids import device_id
from wheeltapper_protocols.wire.topics import Down, Up, parse_up_topic

FOLDER = Path(__file__).parent
EPOCH = "00112233445566aa"
RECORD = m.TelemetryRecord(
    seq=7, pipeline="main", window=6, t_s=60.0, model="bearing-anomaly", release=1, score=0.25, latency_ms=1.5
)
VALUES = np.array([[0.0, -2.0], [0.5, 1.0], [1.5, 7.0], [2.5, np.nan]], dtype=np.float32)
SKETCHES = encode_sketches(Bins([[0.25, 1.0, 2.0], [0.0, 4.0]]).sketch(VALUES))
SCORE = encode_sketches(Bins([[0.5, 1.0]]).sketch(np.array([[0.25], [0.25], [0.75], [1.5]])))
SKETCHES_M2 = 3.6875
"""The first feature's m2 in :data:`SKETCHES`."""
DRIFT = m.DriftReport(
    pipeline="main",
    model="bearing-anomaly",
    release=3,
    why="change",
    first_window=96,
    last_window=100,
    first_t_s=960.0,
    last_t_s=1000.0,
    windows=4,
    unscored=1,
    sketches=SKETCHES,
    score=SCORE,
    quality=DataQuality(windows=5, values=20, missing=1, incomplete=1),
    level=0.25,
    stable_windows=64,
    events=[
        m.DriftEvent(kind="level", window=100, before=0.25, after=0.5),
        m.DriftEvent(kind="feature", window=100, before=0.5, after=1.0, feature="x.rms", psi=0.75),
    ],
    more_events=2,
)
BASELINE = m.BaselineStatus(
    phase="learned",
    learned=300,
    windows=300,
    outside=2,
    limited=1,
    features=[
        m.BaselineFeature(feature="x.rms", shift=3.0, ratio=1.25, limited=True),
        m.BaselineFeature(feature="x.kurtosis", shift=-0.5, ratio=0.75),
    ],
)
VALID: dict[str, tuple[str, m.Message]] = {
    "status": (
        "up/status",
        m.Status(online=True, at=1.7e9, epoch=EPOCH, seq=9, acked=7, agent_version="0.1.0", counter=2),
    ),
    "status_troubled": (
        "up/status",
        m.Status(
            online=True,
            at=1.7e9,
            instance="00112233aabbccdd",
            disconnects={"mqtt.taken_over": 3, "mqtt.lost": 1},
            pipelines={"main": m.PipelineStatus(source="source.failed", detail="OSError: [Errno 5]", faults=12)},
        ),
    ),
    "status_captures": (
        "up/status",
        m.Status(
            online=True, at=1.7e9, captures=m.CaptureShare(sent_bytes=7_340_032, limit_bytes=268_435_456, waiting=3)
        ),
    ),
    "status_will_instance": ("up/status", m.Status(online=False, instance="00112233aabbccdd")),
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
    "status_quality": (
        "up/status",
        m.Status(
            online=True,
            at=1.7e9,
            pipelines={
                "main": m.PipelineStatus(
                    windows=17,
                    dropped_windows=3,
                    source="source.unreachable",
                    quality=DataQuality(
                        windows=17,
                        values=139_264,
                        missing=6,
                        incomplete=1,
                        stuck=64,
                        clipped=9,
                        late=2,
                        gaps=1,
                        gap_samples=4096,
                        dropped=3,
                    ),
                )
            },
        ),
    ),
    "status_quality_late": (
        "up/status",
        m.Status(
            online=True,
            at=1.7e9,
            pipelines={
                "main": m.PipelineStatus(
                    windows=2,
                    source="running",
                    quality=DataQuality(windows=2, values=512, late_samples=40, malformed=3),
                )
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
    "telemetry_label": (
        "up/telemetry",
        m.Telemetry(epoch=EPOCH, oldest=7, records=[msgspec.structs.replace(RECORD, label="inner race", zone="B")]),
    ),
    "telemetry_value": (
        "up/telemetry",
        m.Telemetry(epoch=EPOCH, oldest=7, records=[msgspec.structs.replace(RECORD, value=41.5)]),
    ),
    "alert_value": (
        "up/alert",
        m.Alert(
            epoch=EPOCH,
            oldest=7,
            seq=8,
            pipeline="main",
            window=6,
            t_s=60.0,
            at=1.7e9,
            model="bearing-life",
            release=2,
            score=1.25,
            severity=m.Severity.WARNING,
            value=41.5,
            unit="hours",
            zone="C",
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
    "report_drift": ("up/report", m.Report(epoch=EPOCH, oldest=7, seq=12, at=1.7e9, body=DRIFT)),
    "report_drift_nothing_seen": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=7,
            seq=13,
            at=1.7e9,
            body=m.DriftReport(
                pipeline="main",
                model="bearing-anomaly",
                release=3,
                why="end",
                first_window=101,
                last_window=101,
                first_t_s=1010.0,
                last_t_s=1010.0,
                windows=0,
                unscored=1,
                sketches=encode_sketches(Bins([]).empty()),
                score=encode_sketches(Bins([[0.5, 1.0]]).empty()),
            ),
        ),
    ),
    "telemetry_after_a_hole": (
        "up/telemetry",
        m.Telemetry(epoch=EPOCH, oldest=2, after=2, records=[RECORD]),
    ),
    "report_after_a_hole": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=2,
            seq=12,
            at=1.7e9,
            after=7,
            body=m.LossReport(why="spool.full,spool.age", counts={"telemetry": 40, "alert": 1}),
        ),
    ),
    "report_lost_epoch": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=1,
            seq=1,
            at=1.7e9,
            body=m.LossReport(
                why="spool.corrupt",
                counts={"telemetry": 3},
                lost_epoch="ffeeddccbbaa9988",
                first=5,
                last=7,
                detail="database disk image is malformed",
            ),
        ),
    ),
    "report_capture_by_rule": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=7,
            seq=13,
            at=1.7e9,
            body=m.CaptureReport(
                pipeline="main",
                sha256="ab" * 32,
                length=4096,
                snapshots=8,
                reason="alert",
                upload="auto-0011223344556677",
            ),
        ),
    ),
    "report_shadow": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=7,
            seq=12,
            at=1.7e9,
            body=m.ShadowReport(
                execution="c1-d1",
                pipeline="main",
                model="bearing-anomaly",
                release=3,
                active_model="bearing-anomaly",
                active_release=2,
                windows=64,
                skipped=2,
                mean_difference=-0.125,
                sd_difference=0.0625,
                correlation=0.5,
                active_quantiles=[0.125, 0.25, 0.375, 0.5, 0.75],
                quantiles=[0.0625, 0.125, 0.25, 0.375, 0.5],
                agreement=1.0,
                active_latency_p95_ms=1.5,
                latency_p95_ms=1.25,
            ),
        ),
    ),
    "report_shadow_empty": (
        "up/report",
        m.Report(epoch=EPOCH, oldest=7, seq=13, at=1.7e9, body=m.ShadowReport(code="shadow.timeout")),
    ),
    "command_capture": (
        "down/command",
        m.Command(id="k1", expires_at=1.7e9, body=m.CaptureCommand(pipeline="main", snapshots=8)),
    ),
    "command_cancel": ("down/command", m.Command(id="k2", expires_at=1.7e9, body=m.CancelCommand(execution="c1-d1"))),
    "command_diagnostics": (
        "down/command",
        m.Command(id="k3", expires_at=1.7e9, body=DiagnosticsCommand(log_lines=200)),
    ),
    "command_restart_pipeline": (
        "down/command",
        m.Command(id="k4", expires_at=1.7e9, body=RestartPipelineCommand(pipeline="main")),
    ),
    "command_reset_baseline": (
        "down/command",
        m.Command(id="k5", expires_at=1.7e9, body=ResetBaselineCommand(pipeline="main")),
    ),
    "telemetry_partial": (
        "up/telemetry",
        m.Telemetry(epoch=EPOCH, oldest=7, records=[msgspec.structs.replace(RECORD, partial=True)]),
    ),
    "status_partly_scored": (
        "up/status",
        m.Status(online=True, at=1.7e9, pipelines={"main": m.PipelineStatus(windows=17, partly_scored=3)}),
    ),
    "status_unknown_conditions": (
        "up/status",
        m.Status(online=True, at=1.7e9, pipelines={"main": m.PipelineStatus(windows=17, unknown_conditions=4)}),
    ),
    "status_baseline": (
        "up/status",
        m.Status(online=True, at=1.7e9, pipelines={"main": m.PipelineStatus(windows=400, baseline=BASELINE)}),
    ),
    "report_baseline": (
        "up/report",
        m.Report(
            epoch=EPOCH,
            oldest=7,
            seq=15,
            at=1.7e9,
            body=m.BaselineReport(
                pipeline="main", model="bearing-anomaly", release=3, event="learned", baseline=BASELINE
            ),
        ),
    ),
    "alert_slowly": (
        "up/alert",
        m.Alert(
            epoch=EPOCH,
            oldest=1,
            seq=16,
            pipeline="main",
            window=15,
            t_s=150.0,
            at=1.7e9,
            model="bearing-anomaly",
            release=3,
            score=0.625,
            severity=m.Severity.WARNING,
            slowly=True,
        ),
    ),
    "command_settings": (
        "down/command",
        m.Command(
            id="settings-3",
            expires_at=1.7e9,
            body=SettingsCommand(version=3, settings=m.Settings(log_level="DEBUG", batch_seconds=30.0)),
        ),
    ),
    "report_command": (
        "up/report",
        m.Report(epoch=EPOCH, oldest=7, seq=14, at=1.7e9, body=m.CommandReport(command="k3", bundle=b"x\x9c\x03\x00")),
    ),
    "status_with_attributes": (
        "up/status",
        m.Status(
            online=True,
            at=1.7e9,
            attributes={"os": "Linux 6.1", "runtimes.onnxruntime": "1.30.0"},
            settings_version=3,
            settings=m.Settings(log_level="DEBUG"),
        ),
    ),
    "telemetry_undated": (
        "up/telemetry",
        m.Telemetry(
            epoch=EPOCH,
            oldest=1,
            records=[m.TelemetryRecord(seq=1, pipeline="main", window=0, t_s=42.5, undated=True)],
        ),
    ),
    "alert_undated": (
        "up/alert",
        m.Alert(
            epoch=EPOCH,
            oldest=1,
            seq=2,
            pipeline="main",
            window=1,
            t_s=43.5,
            at=44.0,
            model="bearing-anomaly",
            release=3,
            score=1.5,
            severity=m.Severity.WARNING,
            undated=True,
        ),
    ),
    "report_undated": (
        "up/report",
        m.Report(epoch=EPOCH, oldest=1, seq=3, at=50.0, body=m.ShadowReport(code="shadow.timeout"), undated=True),
    ),
    "ack": ("down/ack", m.Ack(epoch=EPOCH, seq=11)),
}


def invalid() -> dict[str, tuple[str, bytes]]:
    """{name: (topic, payload)} of payloads that must be refused; the code is added when a vector is made."""
    record = msgspec.to_builtins(RECORD)
    telemetry = {"epoch": EPOCH, "oldest": 7, "records": [record]}

    def packed(**changes: Any) -> bytes:
        return msgspec.msgpack.encode(telemetry | changes)

    report = msgspec.to_builtins(VALID["report_drift"][1])

    def drift(**changes: Any) -> tuple[str, bytes]:
        return "up/report", msgspec.json.encode(report | {"body": report["body"] | changes})

    negative = SKETCHES.replace(np.float64(SKETCHES_M2).tobytes(), np.float64(-1.0).tobytes())
    bomb = zstandard.ZstdCompressor().compress(bytes(codec.MAX_DECOMPRESSED_BYTES + 1))
    return {
        "empty": ("up/status", b""),
        "not_json": ("up/status", b"\xff\xfe\x00"),
        "not_an_object": ("up/status", b"[1,2,3]"),
        "missing_field": ("up/status", b'{"at":1.0}'),
        "wrong_type": ("up/status", b'{"online":"yes"}'),
        "bad_name": ("up/status", b'{"online":true,"pipelines":{"../x":{}}}'),
        "huge_number": ("up/status", b'{"online":true,"seq":99999999999999999999}'),
        "nan_literal": ("up/status", b'{"online":true,"at":NaN}'),
        "negative_quality": ("up/status", b'{"online":true,"pipelines":{"main":{"quality":{"missing":-1}}}}'),
        "deep": ("up/status", b'{"online":true,"x":' + b"[" * 5000 + b"]" * 5000 + b"}"),
        "telemetry_no_records": ("up/telemetry", packed(records=[])),
        "telemetry_nan_score": ("up/telemetry", packed(records=[record | {"score": float("nan")}])),
        "telemetry_infinite_time": ("up/telemetry", packed(records=[record | {"t_s": float("inf")}])),
        "telemetry_seq_zero": ("up/telemetry", packed(records=[record | {"seq": 0}])),
        "telemetry_bad_epoch": ("up/telemetry", packed(epoch="xyz")),
        "telemetry_truncated": ("up/telemetry", packed()[:-5]),
        "telemetry_not_zstd": ("up/telemetry", b"\x28\xb5\x2f\xfd\x00\x00"),
        "telemetry_bomb": ("up/telemetry", bomb),
        "telemetry_nan_value": ("up/telemetry", packed(records=[record | {"value": float("nan")}])),
        "telemetry_empty_label": ("up/telemetry", packed(records=[record | {"label": ""}])),
        "telemetry_unknown_zone": ("up/telemetry", packed(records=[record | {"zone": "E"}])),
        "alert_unknown_severity": ("up/alert", b'{"severity":"terrible"}'),
        "report_unknown_body": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,"body":{"type":"dance"}}',
        ),
        "report_shadow_nan": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,"body":{"type":"shadow","kappa":NaN}}',
        ),
        "report_shadow_negative_windows": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,"body":{"type":"shadow","windows":-1}}',
        ),
        "report_terminal_unknown": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,'
            b'"body":{"type":"execution","execution":"e","state":"DONE"}}',
        ),
        "drift_sketches_cut_short": drift(sketches=SKETCHES[:-1]),
        "drift_sketches_too_long": drift(sketches=SKETCHES + b"\0"),
        "drift_sketches_version": drift(sketches=b"\2" + SKETCHES[1:]),
        "drift_sketches_empty": drift(sketches=b""),
        "drift_sketches_no_base64": drift(sketches="*"),
        "drift_sketches_too_many": drift(sketches=b"\1\xff\xff\xff\xff\x0f"),
        "drift_count_too_great": drift(score=b"\1\1\2\0\xff\xff\xff\xff\x7f\0"),
        "drift_moments_negative": drift(sketches=negative),
        "drift_moments_nan": drift(score=SCORE[:-24] + b"\xff" * 24),
        "drift_two_scores": drift(score=SKETCHES),
        "drift_windows_backwards": drift(last_window=95),
        "drift_too_many_events": drift(events=[{"kind": "level", "window": 1, "before": 0, "after": 1}] * 17),
        "telemetry_negative_after": ("up/telemetry", packed(after=-1)),
        "loss_without_why": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,"body":{"type":"loss","counts":{"alert":1}}}',
        ),
        "loss_negative_count": (
            "up/report",
            b'{"epoch":"00112233445566aa","oldest":1,"seq":1,"at":1.0,'
            b'"body":{"type":"loss","why":"spool.full","counts":{"alert":-1}}}',
        ),
        "capture_not_defined": ("up/capture", b"{}"),
        "command_settings_level": (
            "down/command",
            b'{"id":"k","expires_at":1.0,"body":{"type":"settings","version":1,"settings":{"log_level":"LOUD"}}}',
        ),
        "command_unknown": ("down/command", b'{"id":"k","expires_at":1.0,"body":{"type":"reboot"}}'),
        "command_expired_type": ("down/command", b'{"id":"k","expires_at":"soon","body":{"type":"cancel"}}'),
        "ack_negative": ("down/ack", b'{"epoch":"00112233445566aa","seq":-1}'),
    }


def read(topic: str, payload: bytes) -> m.Message:
    """Decode what came on ``up/<kind>`` or ``down/<kind>``."""
    way, _, kind = topic.partition("/")
    return (
        codec.decode(parse_up_topic(f"wt/v1/press-1/{topic}")[1], payload)
        if way == "up"
        else codec.decode_down(Down(kind), payload)
    )


def target(release: int = 3) -> PipelineTarget:
    """A target of the model ``bearing-anomaly``."""
    path = f"releases/bearing-anomaly/{release}/manifest.json"
    return PipelineTarget(model="bearing-anomaly", release=release, path=path, length=1234, sha256="cd" * 32)


def order(execution: str, *pipelines: str, **changes: Any) -> ExecutionOrder:
    """An execution of the campaign ``c1``."""
    return ExecutionOrder(execution=execution, campaign="c1", pipelines=list(pipelines), **changes)


def assignment(**changes: Any) -> bytes:
    """The payload of an assignment to ``press-1``, with the fields ``changes``."""
    fields: dict[str, Any] = {
        "device": "press-1",
        "counter": 5,
        "issued_at": 1.7e9,
        "expires_at": 1.7e9 + 3600,
        "pipelines": {"main": target()},
        "executions": [order("c1-press-1", "main")],
    }
    return encode_assignment(Assignment(**(fields | changes)))


def assignments() -> dict[str, bytes]:
    """By name: the payloads of assignments. Those of format 1 in the file are no longer made here."""
    two = {"main": target(), "spare": target(4)}
    return {
        "assignment_2": assignment(),
        "assignment_2_deadline": assignment(executions=[order("c1-press-1", "main", deadline=1.7e9 + 1800)]),
        "assignment_2_one_for_two_pipelines": assignment(pipelines=two, executions=[order("e1", "main", "spare")]),
        "assignment_2_two_executions": assignment(
            pipelines=two | {"third": None}, executions=[order("e2", "spare"), order("e1", "main")]
        ),
        "assignment_2_nothing_to_do": assignment(pipelines=two | {"third": None}, executions=[]),
        "assignment_2_empty": assignment(pipelines={}, executions=[]),
    }


def invalid_assignments() -> dict[str, bytes]:
    """By name: payloads of format 2 that are refused."""
    two = {"main": target(), "spare": target(4)}
    good = assignment(pipelines=two | {"third": None}, executions=[order("e1", "main"), order("e2", "spare")])
    document = json.loads(good)

    def changed(**changes: Any) -> bytes:
        return json.dumps(document | changes).encode()

    def orders(*executions: tuple[str, list[str]]) -> bytes:
        return changed(
            executions=[{"execution": one, "campaign": "c1", "pipelines": names} for one, names in executions]
        )

    return {
        "two_executions_for_one_pipeline": orders(("e1", ["main"]), ("e2", ["spare", "main"])),
        "pipeline_twice_in_one_execution": orders(("e1", ["main", "main"])),
        "one_id_twice": orders(("e1", ["main"]), ("e1", ["spare"])),
        "execution_of_an_unknown_pipeline": orders(("e1", ["fourth"])),
        "execution_of_a_pipeline_without_target": orders(("e1", ["third"])),
        "execution_of_no_pipeline": orders(("e1", [])),
        "execution_id_invalid": orders(("e 1", ["main"])),
        "without_executions": json.dumps({k: v for k, v in document.items() if k != "executions"}).encode(),
        "without_pipelines": json.dumps({k: v for k, v in document.items() if k != "pipelines"}).encode(),
        "executions_null": changed(executions=None),
        "format_3": changed(format=3),
        "format_0": changed(format=0),
        "format_text": changed(format="2"),
        "format_1_with_fields_of_2": changed(format=1),
        "format_2_with_fields_of_1": json.dumps(
            {k: v for k, v in document.items() if k != "executions"} | {"execution": "e1", "campaign": "c1"}
        ).encode(),
        "counter_0": changed(counter=0),
        "too_many_pipelines": changed(pipelines={f"p{index}": None for index in range(65)}, executions=[]),
        "path_of_another_release": good.replace(b"releases/bearing-anomaly/4", b"releases/bearing-anomaly/5"),
        "deadline_text": changed(
            executions=[{"execution": "e1", "campaign": "c1", "pipelines": ["main"], "deadline": "soon"}]
        ),
    }


def assignment_vectors(payloads: Mapping[str, bytes], **more: str) -> list[dict[str, str]]:
    """The vectors of ``payloads``, by name, each with the fields ``more``."""
    return [
        {"name": name, "payload": base64.b64encode(payload).decode("ascii"), **more}
        for name, payload in payloads.items()
    ]


GOOD_NAMES = ["a", "press-1", "0", "a" * 63]
BAD_NAMES = ["", "A", "a/b", "a+", "#", "../x", "a" * 64, "-a", "a\n", "é", "a.b", "a_b", "a b"]
TOPICS = [
    *(f"wt/v1/press-1/up/{kind.value}" for kind in Up),
    "wt/v1/press-1/up/capture",
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
    """Append the vectors whose names are not in the file."""
    kept: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    names = {vector["name"] for vector in kept}
    kept += [vector for vector in vectors if vector["name"] not in names]
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    good = [
        {"name": name, "topic": topic, "payload": base64.b64encode(codec.encode(message)).decode("ascii")}
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
    for name, payload in invalid_assignments().items():
        try:
            decode_assignment(payload)
        except WireError:
            continue
        raise SystemExit(f"{name} is accepted; it should not be")
    add_new(FOLDER / "assignment.json", assignment_vectors(assignments()))
    add_new(FOLDER / "assignment_invalid.json", assignment_vectors(invalid_assignments(), code="assignment.malformed"))
    add_new(FOLDER / "names.json", name_vectors())


if __name__ == "__main__":
    main()
