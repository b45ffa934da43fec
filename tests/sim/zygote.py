"""A warm process that forks agents: one JSON line in names a run, one JSON line out says how it ended.

Importing numpy, onnxruntime and the rest takes a second; a fork takes some milliseconds. Each run is a process of its
own that really is killed. What it sends to its fleet goes to a ledger, a file outside of its state folder: every
record that left the device, as often as it left.

    python -m tests.sim.zygote
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401  # warm

from tests.agent.inside import Device
from tests.sim import faults
from tests.sim.disk import Disk
from wheeltapper_agent.adapters.identity import Fleet, Identity
from wheeltapper_agent.config import SimulatorConfig
from wheeltapper_protocols.messages import Alert, ExecutionReport, ExecutionState, Report, TelemetryRecord

SOURCE = SimulatorConfig(window_samples=1024, interval_seconds=1.0, time_scale=100.0)
_RUN_SECONDS = 40
_WINDOWS_AFTER = 3


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
        line |= {"window": item.window, "release": item.release, "score": item.score}
    elif isinstance(item, Alert):
        line |= {"window": item.window}
    elif isinstance(item, Report) and isinstance(item.body, ExecutionReport):
        line |= {"execution": item.body.execution, "state": item.body.state.value, "code": item.body.code}
    return line


class Sender(threading.Thread):
    """Delivery and fleet in one: writes what is in the spool to the ledger, then acks it."""

    def __init__(self, device: Device, ledger: Path) -> None:
        super().__init__(daemon=True)
        self._device, self._ledger = device, os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
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


def run(job: dict[str, Any]) -> None:
    """One life of the agent, to the end of the execution ``job["execution"]`` or to its kill."""
    folder = Path(job["folder"])
    state, devices = folder / "state", list[Device]()

    def doing() -> str:
        if not devices:
            return "START"
        found = devices[0].updater.entry.execution
        return found.state if found is not None and found.id == job["execution"] else "IDLE"

    state.mkdir(exist_ok=True)
    disk = Disk(state, folder / "calls", folder / "backups", doing, job.get("kill_at", 0), job.get("before", False))
    faults.plant(job.get("plant", ""))
    if not job.get("child_test"):
        faults.self_test_without_child()
    faults.die_in_sqlite(job.get("kill_sqlite_at", 0), folder / "sqlite-calls")
    disk.install()
    device = Device(state, Elsewhere(job["url"], Path(job["identity"])), SOURCE, started=False, **job.get("update", {}))
    devices.append(device)
    sender = Sender(device, folder / "ledger")
    device.start()
    sender.start()
    device.updater.assign(base64.b64decode(job["envelope"]))
    deadline = time.monotonic() + _RUN_SECONDS
    while not _over(device, job["execution"]):
        if time.monotonic() > deadline:
            raise SystemExit(f"{job['execution']} did not end: {doing()}")
        time.sleep(0.01)
    windows = device.pipeline.status().windows
    while device.pipeline.status().windows < windows + _WINDOWS_AFTER and time.monotonic() < deadline:
        time.sleep(0.01)
    device.updater.stop()
    device.pipeline.stop()
    sender.stopping.set()
    sender.join()
    sender.send()
    status = device.pipeline.status()
    device.spool.close()
    result = {
        "release": status.release,
        "active": device.slots.active("main"),
        "previous": device.slots.previous("main"),
    }
    (folder / "result.json").write_text(json.dumps(result | {"floors": device.marks.marks.floors}))


def _forked(job: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.alarm(_RUN_SECONDS + 10)
        log = os.open(Path(job["folder"]) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run(job)
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
    for line in sys.stdin:
        print(json.dumps({"code": _forked(json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
