"""A warm process that forks agents: one JSON line in names a run, one JSON line out says how it ended.

Importing numpy, onnxruntime and the rest takes a second; a fork takes some milliseconds. Each run is a process of its
own that really is killed. What it sends to its fleet goes to a ledger, a file outside of its state folder: every
record that left the device, as often as it left. Every window that the source gave is in a file beside it.

    python -m tests.sim.zygote
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.agent.device import Device
from tests.sim import faults
from tests.sim.disk import Disk
from wheeltapper_agent.link.identity import Fleet, Identity
from wheeltapper_agent.source.base import Window
from wheeltapper_agent.source.simulator import SimulatorConfig, SimulatorSource
from wheeltapper_protocols.wire.messages import Alert, ExecutionReport, ExecutionState, Report, TelemetryRecord

_WARM = (
    "encodings.idna", "numpy.fft", "numpy.ma", "numpy.random", "onnxruntime", "stringprep",
    "tuf.api.serialization.json", "wheeltapper_agent.link.https_pool", "wheeltapper_agent.model.onnx",
)  # fmt: skip
"""What an agent imports when it first needs it: here once, not in each fork."""
SOURCE = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=100.0)
_RUN_SECONDS = 40
_WINDOWS_AFTER = 3
_ENOUGH = ("THEN", *(state.value for state in ExecutionState if state.terminal))
"""From here on what ends the execution may come, too."""


@dataclass(frozen=True)
class Elsewhere:
    """The server of another process, and an identity for it."""

    url: str
    folder: Path

    def identity(self, _folder: Path) -> Identity:
        fleet = Fleet(device="device-1", https_url=self.url, mqtt_host="localhost", mqtt_port=1)
        names = ("device-1.key", "device-1.crt", "ca.pem", "root.json")
        return Identity(fleet, *(self.folder / name for name in names))


def _line(epoch: str, item: Any) -> dict[str, Any]:
    line: dict[str, Any] = {"epoch": epoch, "seq": item.seq, "kind": type(item).__name__}
    if isinstance(item, TelemetryRecord):
        line |= {"window": item.window, "t_s": item.t_s, "release": item.release, "score": item.score}
    elif isinstance(item, Alert):
        line |= {"window": item.window}
    elif isinstance(item, Report) and isinstance(item.body, ExecutionReport):
        line |= {"execution": item.body.execution, "state": item.body.state.value, "code": item.body.code}
    return line


class ToldSource(SimulatorSource):
    """The simulator, which tells the file ``told`` of each window that it gives."""

    told = -1

    def windows(self, first: int) -> Iterator[Window]:
        """See :class:`~wheeltapper_agent.source.base.Source`."""
        for window in super().windows(first):
            os.write(self.told, f"{window.wire_t_s!r}\n".encode())
            yield window


class Sender(threading.Thread):
    """Delivery and fleet in one: writes what is in the spool to the ledger, then acks it."""

    def __init__(self, device: Device, ledger: Path) -> None:
        super().__init__(daemon=True)
        self._device, self._ledger = device, _append(ledger)
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.02):
            self.send()

    def send(self) -> None:
        spool = self._device.spool
        held = spool.peek(0, 500, ("telemetry", "alert", "report"))
        if held:
            text = "".join(json.dumps(_line(spool.epoch, each.item)) + "\n" for each in held)
            os.write(self._ledger, text.encode())
            spool.ack(spool.epoch, held[-1].seq)


def _over(device: Device, execution: str) -> bool:
    found = device.updater.entry.execution
    return found is not None and found.id == execution and ExecutionState(found.state).terminal


def _append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _wait(what: Callable[[], bool], name: Callable[[], str]) -> None:
    deadline = time.monotonic() + _RUN_SECONDS
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"this did not come: {name()}")
        time.sleep(0.005)


def _begin(device: Device) -> None:
    """Start the device as the service does, but let the updater go on only after the first window was scored."""
    device.effects.running.load_active("main")
    device.pipeline.start()
    _wait(lambda: device.pipeline.status().windows > 0, lambda: "a window")
    device.updater.start()


def _device(job: dict[str, Any]) -> Device:
    folder = Path(job["folder"])
    faults.plant(job.get("fault", ""))
    ToldSource.told = _append(folder / "told")
    os.write(ToldSource.told, b"life\n")
    server = Elsewhere(job["url"], Path(job["identity"]))
    return Device(folder / "state", server, SOURCE, started=False, make_source=ToldSource, **job.get("update", {}))


def _end(device: Device, sender: Sender, job: dict[str, Any], **found: Any) -> None:
    windows = device.pipeline.status().windows
    _wait(lambda: device.pipeline.status().windows >= windows + _WINDOWS_AFTER, lambda: "windows after the end")
    device.updater.stop()
    device.pipeline.stop()
    sender.stopping.set()
    if sender.is_alive():
        sender.join()
    sender.send()
    status = device.pipeline.status()
    device.spool.close()
    found |= {"release": status.release, "active": device.slots.active("main")}
    Path(job["folder"], "result.json").write_text(json.dumps(found))


def run_attacked(job: dict[str, Any]) -> None:
    """A life in which ``job["attacks"]`` must be refused: assignments, of which the first has outdated metadata."""
    device = _device(job)
    sender = Sender(device, Path(job["folder"]) / "ledger")
    _begin(device)
    answers: list[tuple[str, str]] = []
    for number, envelope in enumerate(job["attacks"], 1):
        device.client.base_url = job["outdated_url"] if number == 1 else job["url"]
        before = len(device.bodies())
        device.updater.assign(base64.b64decode(envelope))

        def answered(before: int = before) -> bool:
            if len(device.bodies()) == before:
                return False
            state, _ = device.last()
            return state == "refused" or ExecutionState(state).terminal

        _wait(answered, lambda number=number: f"an answer to attack {number}")  # type: ignore[misc]
        answers.append(device.last())
        # With the metadata of now, the first is no attack: it would be judged again, and accepted.
        device.updater._inbox.remove(base64.b64decode(envelope))
    _end(device, sender, job, answers=answers)


def run(job: dict[str, Any]) -> None:
    """One life of the agent, to the end of the execution ``job["last"]`` or to its kill."""
    folder = Path(job["folder"])
    state, devices = folder / "state", list[Device]()

    def current_state() -> str:
        if not devices:
            return "START"
        found = devices[0].updater.entry.execution
        if found is None or found.id not in (job["execution"], job["last"]):
            return "IDLE"
        return found.state if found.id == job["execution"] else f"THEN {found.state}"

    state.mkdir(exist_ok=True)
    disk = Disk(
        state, folder / "calls", folder / "backups", current_state, job.get("kill_at", 0), job.get("before", False)
    )
    if not job.get("child_test"):
        faults.self_test_without_child()
    faults.die_in_sqlite(job.get("kill_sqlite_at", 0), folder / "sqlite-calls")
    disk.install()
    device = _device(job)
    devices.append(device)
    sender = Sender(device, folder / "ledger")
    _begin(device)
    sender.start()
    device.updater.assign(base64.b64decode(job["envelope"]))
    if job["then"]:
        _wait(lambda: current_state().startswith((job["then_in"], *_ENOUGH)), current_state)
        if job["then"] == "cancel":
            device.updater.cancel(job["execution"])
        else:
            device.updater.assign(base64.b64decode(job["then"]))
    _wait(lambda: _over(device, job["last"]), current_state)
    _end(device, sender, job)


def _forked(job: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.alarm(_RUN_SECONDS + 10)
        log = _append(Path(job["folder"]) / "log")
        os.dup2(log, 1)
        os.dup2(log, 2)
        (run_attacked if "attacks" in job else run)(job)
        code = 0
    except SystemExit as ended:
        os.write(2, f"{ended}\n".encode())
    except BaseException:  # noqa: BLE001  # said in the log; the parent sees the code
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(levelname)s %(message)s")
    for name in _WARM:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps({"code": _forked(json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
