"""Releases that hang, take all memory or crash their process: each ends a child, with its code, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.agent import tflite_writer as tflite
from tests.agent.bundles import gain_model, make_bundle, write_bundle
from tests.agent.device import Device
from tests.agent.servers import DeviceServer, until
from tests.legacy import needs_onnx
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.model.bundle import Bundle, Evaluation, load_bundle
from wheeltapper_agent.model.sandbox import measure_in_child, try_candidate
from wheeltapper_agent.model.self_test import self_test
from wheeltapper_protocols.manifest.manifest import Budget

BOARD = Profile(name="test", memory_cap_mb=512)


def never_interrupted() -> bool:
    return False


def refused(folder: Path, files: dict[str, bytes], seconds: float = 60.0, sha256: str = "") -> AgentError:
    with pytest.raises(AgentError) as raised:
        measure_in_child(write_bundle(folder, files), BOARD, sha256, seconds, never_interrupted)
    assert not psutil.Process().children(recursive=True)
    return raised.value


@pytest.mark.parametrize("runtime", [pytest.param("onnx", marks=needs_onnx), "tflite"])
def test_a_good_release(tmp_path: Path, runtime: Any) -> None:
    folder = write_bundle(tmp_path, make_bundle(runtime=runtime))
    found = try_candidate(folder, BOARD, "", 60.0)
    assert found is not None
    bundle, metrics = found
    assert bundle.manifest.release == 1
    assert metrics["output_error"] < 1e-4
    assert 0.0 < metrics["rss_growth_mb"] < 64.0


def test_the_busy_process_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's figures count; here the golden vectors are compared in one call, however slow this process is."""
    calls = []
    real = Bundle.evaluate

    def slow(self: Bundle, samples: Any) -> Evaluation:
        calls.append(len(samples))
        time.sleep(0.6)  # more than the budget, as where other threads have the processor
        return real(self, samples)

    monkeypatch.setattr(Bundle, "evaluate", slow)
    found = try_candidate(write_bundle(tmp_path, make_bundle()), BOARD, "", 60.0)
    assert found is not None
    assert calls == [8]
    assert found[1]["latency_p95_ms"] < 500.0
    assert {"processor_p95_ms", "rss_growth_mb", "score_error"} <= found[1].keys()


def test_golden_vectors_that_differ_here_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Bundle.evaluate
    monkeypatch.setattr(Bundle, "evaluate", lambda self, samples: real(self, samples * np.float32(2.0)))
    with pytest.raises(AgentError) as raised:
        try_candidate(write_bundle(tmp_path, make_bundle()), BOARD, "", 60.0)
    assert raised.value.code == "self_test.features"


def test_processor_time_beyond_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(write_bundle(tmp_path, make_bundle()))
    spent = iter(range(10**6))
    monkeypatch.setattr(time, "process_time", lambda: next(spent) * 1.1)  # 1.1 s a window; the budget is 0.5 s
    with pytest.raises(AgentError) as raised:
        self_test(bundle)
    assert raised.value.code == "self_test.latency"
    assert self_test(bundle, threads=4)["processor_p95_ms"] == pytest.approx(275.0)


def test_the_wrong_manifest(tmp_path: Path) -> None:
    assert refused(tmp_path, make_bundle(), sha256="ab" * 8).code == "bundle.hash"


def test_golden_outputs_that_differ(tmp_path: Path) -> None:
    assert refused(tmp_path, make_bundle(golden_error=0.5)).code == "self_test.output"


@needs_onnx
def test_a_truncated_file_and_an_unknown_operator(tmp_path: Path) -> None:
    from tests.agent.onnx_nets import unknown_net

    for number, content in enumerate((gain_model()[:-30], unknown_net(), tflite.gain_net(8))):
        files = make_bundle(runtime="onnx", content=content)
        assert refused(tmp_path / str(number), files).code == "runtime.load"


@needs_onnx
def test_a_model_that_hangs(tmp_path: Path) -> None:
    from tests.agent.onnx_nets import endless_net

    found = refused(tmp_path, make_bundle(runtime="onnx", content=endless_net()), seconds=5.0)
    assert found.code == "self_test.timeout"


@needs_onnx
def test_a_model_that_takes_all_memory(tmp_path: Path) -> None:
    from tests.agent.onnx_nets import greedy_net

    found = refused(tmp_path, make_bundle(runtime="onnx", content=greedy_net(gigabytes=6)))
    assert found.code == "self_test.memory"


@needs_onnx
def test_more_memory_than_the_budget(tmp_path: Path) -> None:
    files = make_bundle(runtime="onnx", budget=Budget(latency_p95_ms=500.0, rss_growth_mb=0.01))
    assert refused(tmp_path, files).code == "self_test.memory"


@needs_onnx
def test_as_many_windows_as_may_come_together_are_tried(tmp_path: Path) -> None:
    """8 MB a window: one golden window is within the budget, the windows of one call are not."""
    from onnx import helper

    from tests.agent.onnx_nets import FLOAT, net, value
    from tests.agent.task_bundles import RAW_INPUT, task_bundle
    from wheeltapper_protocols.manifest.manifest import Anomaly, RawInput

    nodes = [
        helper.make_node("Unsqueeze", ["input", "axes"], ["tall"]),
        helper.make_node("ConstantOfShape", ["wide"], ["ones"], value=helper.make_tensor("v", FLOAT, [1], [1.0])),
        helper.make_node("Mul", ["tall", "ones"], ["large"]),
        helper.make_node("ReduceMean", ["large"], ["rows"], axes=[2], keepdims=0),
        helper.make_node("ReduceMean", ["rows"], ["output"], axes=[1], keepdims=1),
    ]
    constants = {"axes": np.array([2]), "wide": np.array([1, 1, 1 << 17])}
    content = net(nodes, [value("input", [None, 16])], [value("output", [None, 1])], **constants)
    fields: dict[str, Any] = {
        "input": RAW_INPUT,
        "raw": RawInput(channels=[0], center=[0.0], scale=[1.0], layout="flat"),
        "anomaly": Anomaly(output="score", threshold=1.0),
        "budget": Budget(latency_p95_ms=5000.0, rss_growth_mb=128.0),
    }
    files = task_bundle(content, np.ones((1, 16, 1), np.float32), **fields)
    error = refused(tmp_path, files)
    assert error.code == "self_test.memory"
    assert "32 windows in a call" in error.message


def test_a_model_that_crashes_its_process(tmp_path: Path) -> None:
    """The branch of its only operator is the model itself: the runtime follows it to the end of the stack."""
    found = refused(tmp_path, make_bundle(runtime="tflite", content=tflite.bottomless_net(4)))
    assert found.code == "self_test.crashed"
    assert f"signal {int(signal.SIGSEGV)}" in found.message


def test_a_child_that_is_killed(tmp_path: Path) -> None:
    """As the kernel does when memory runs out."""
    folder = write_bundle(tmp_path, make_bundle())

    def kill() -> bool:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(child.pid, signal.SIGKILL)
        return False

    with pytest.raises(AgentError) as raised:
        measure_in_child(folder, BOARD, "", 60.0, kill)
    assert raised.value.code == "self_test.crashed"
    assert f"signal {int(signal.SIGKILL)}" in raised.value.message


def test_interrupted(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, make_bundle())
    assert try_candidate(folder, BOARD, "", 60.0, lambda: True) is None
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "self_test.crashed"),
        (b"[]", "self_test.crashed"),
        (b'{"metrics": 3}', "self_test.crashed"),
        (b'{"code": "DROP TABLE", "message": ""}', "self_test.crashed"),
        (b'{"code": "runtime.run", "message": "std::bad_alloc"}', "self_test.memory"),
        (b"[" * 60_000, "self_test.crashed"),
        (b"x" * 10_000_000, "self_test.crashed"),
    ],
)
def test_what_a_child_may_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, code: str) -> None:
    said = tmp_path / "said"
    said.write_bytes(answer)
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def other(_command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(real(["cat", str(said)], **options))
        return started[-1]

    monkeypatch.setattr("wheeltapper_agent.model.sandbox.subprocess.Popen", other)
    with pytest.raises(AgentError) as raised:
        measure_in_child(tmp_path, BOARD, "", 20.0, never_interrupted)
    assert raised.value.code == code
    assert started[0].poll() is not None


def test_figures_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = json.dumps({"metrics": {"a": 1.5, "b": "x", "c": float("nan"), "d": None}}).encode()
    real = subprocess.Popen
    monkeypatch.setattr(
        "wheeltapper_agent.model.sandbox.subprocess.Popen",
        lambda _command, **rest: real(["printf", "%s", body], **rest),
    )
    assert measure_in_child(tmp_path, BOARD, "", 20.0, never_interrupted) == {"a": 1.5}


@needs_onnx
def test_the_child_is_confined_and_ends_with_its_parent(tmp_path: Path) -> None:
    from tests.agent.onnx_nets import endless_net

    folder = write_bundle(tmp_path, make_bundle(runtime="onnx", content=endless_net()))
    code = (
        "from pathlib import Path; from wheeltapper_agent.ground.profile import Profile;"
        "from wheeltapper_agent.model.sandbox import measure_in_child;"
        f"measure_in_child(Path({str(folder)!r}), Profile(name='test'), '', 60.0, lambda: False)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "WHEELTAPPER_TOKEN": "secret"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        try:
            until(lambda: psutil.Process(parent.pid).children(), 20, "the child")
            child = psutil.Process(parent.pid).children()[0]
            until(
                lambda: (
                    child.rlimit(psutil.RLIMIT_CORE) == (0, 0) and child.nice() == min(19, psutil.Process().nice() + 10)
                ),
                20,
                "its limits",
            )
            assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
            assert 0 < child.rlimit(psutil.RLIMIT_DATA)[0] < 2**31
            assert os.getsid(child.pid) == child.pid
            assert "WHEELTAPPER_TOKEN" not in child.environ()
            assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"
        finally:
            parent.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10, "the end of the child")


def test_the_agent_outlives_a_release_that_crashes(tmp_path: Path, server: DeviceServer) -> None:
    device = Device(tmp_path / "device", server)
    try:
        good = server.repository.publish(1, make_bundle(1))
        device.updater.assign(server.repository.assign(good, 1))
        until(lambda: "COMMITTED" in device.states("e1"), 30, "release 1")
        bad = make_bundle(2, runtime="tflite", content=tflite.bottomless_net(4))
        device.updater.assign(server.repository.assign(server.repository.publish(2, bad), 2))
        until(lambda: "REJECTED" in device.states("e2"), 30, "the refusal")
        assert device.last() == ("REJECTED", "self_test.crashed")
        until(lambda: device.scores_with() == 1, 10, "windows scored by release 1")
    finally:
        device.close()


@needs_onnx
def test_a_cancelled_self_test_ends_at_once(tmp_path: Path, server: DeviceServer) -> None:
    from tests.agent.onnx_nets import endless_net

    device = Device(tmp_path / "device", server)
    try:
        files = make_bundle(1, runtime="onnx", content=endless_net())
        device.updater.assign(server.repository.assign(server.repository.publish(1, files), 1))
        until(lambda: "SELF_TEST" in device.states("e1"), 20, "the self-test")
        until(lambda: psutil.Process().children(), 20, "the child")
        device.updater.cancel("e1")
        until(lambda: "CANCELLED" in device.states("e1"), 20, "the end")
        assert not psutil.Process().children(recursive=True)
    finally:
        device.close()


def test_threads_do_not_share_an_interpreter_at_once(tmp_path: Path) -> None:
    """Two pipelines may run one release."""
    import numpy as np

    from wheeltapper_agent.model.bundle import load_bundle

    bundle = load_bundle(write_bundle(tmp_path, make_bundle(runtime="tflite")), BOARD)
    width = len(bundle.task.names)
    wrong: list[int] = []
    stop = time.monotonic() + 0.5

    def work(number: int) -> None:
        values = np.full((1, width), float(number), np.float32)
        while time.monotonic() < stop:
            if not np.allclose(bundle.model.run(values), values * 0.5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
