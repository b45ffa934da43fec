"""Resumable uploads over real TLS: resuming after a kill, hostile offsets, limits, expiry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fleet.broker.rig import until
from tests.fleet.captures.test_captures import ask, recording_bytes
from tests.fleet.device_api.client import Answer, Client, Listener
from tests.fleet.trust.world import World, sha256
from wheeltapper_fleet.captures import service
from wheeltapper_fleet.captures.partial_uploads import MAX_UPLOADS_PER_DEVICE

AUTO = "auto-0123456789abcdef"


def piece(client: Client, name: str, content: bytes, offset: int, end: int, **headers: str) -> Answer:
    head = {
        "Upload-Offset": str(offset),
        "Upload-Length": str(len(content)),
        "X-Content-SHA256": sha256(content),
        "Content-Type": "application/partial-upload",
        "X-Pipeline": "main",
    }
    return client.ask(
        "PATCH",
        f"/v1/captures/{name}",
        content[offset:end],
        head | {k.replace("_", "-"): v for k, v in headers.items()},
    )


def state(client: Client, name: str) -> tuple[str, str]:
    answer = client.ask("HEAD", f"/v1/captures/{name}")
    assert answer.status == 204
    return answer.headers["upload-offset"], answer.headers["upload-complete"]


@pytest.mark.parametrize("name", ["c-1", AUTO])
def test_upload_in_pieces_and_once_more(listener: Listener, world: World, name: str) -> None:
    client = listener.enrolled("dev-1")
    ask(world, "c-1")
    content = recording_bytes(40, 4096)
    assert state(client, name) == ("0", "?0")
    first = piece(client, name, content, 0, 100_000)
    assert (first.status, first.headers["upload-offset"], first.headers["upload-complete"]) == (204, "100000", "?0")
    assert state(client, name) == ("100000", "?0")
    again = piece(client, name, content, 0, 100_000)
    assert (again.status, again.code) == (409, "capture.offset")
    last = piece(client, name, content, 100_000, len(content))
    assert (last.status, last.headers["upload-complete"], last.json["snapshots"]) == (200, "?1", 40)
    assert state(client, name) == (str(len(content)), "?1")
    assert piece(client, name, content, 0, 10).json == last.json  # the answer was lost
    assert piece(client, name, recording_bytes(3), 0, 10).code == "capture.conflict"
    assert world.captures.path(sha256(content)).read_bytes() == content
    assert not list((world.data_dir / "captures-partial").iterdir())
    assert [kept.command for kept in world.stored_captures()] == [name]


def test_hostile_pieces_change_nothing(listener: Listener, world: World) -> None:
    client, other = listener.enrolled("dev-1"), listener.enrolled("dev-2")
    ask(world, "c-1")
    content = recording_bytes(4, 4096)
    assert piece(client, "c-1", content, 0, 1000).status == 204
    cases = [
        (piece(client, "c-1", content, 2000, 3000), 409, "capture.offset"),
        (piece(client, "c-1", content, 999, 1500), 409, "capture.offset"),
        (piece(client, "c-1", content, 1000, 2000, Upload_Offset="-1"), 400, "api.bad_request"),
        (piece(client, "c-1", content, 1000, 2000, Upload_Offset="9" * 30), 400, "api.bad_request"),
        (piece(client, "c-1", content, 1000, 2000, Upload_Offset="1e3"), 400, "api.bad_request"),
        (piece(client, "c-1", content, 1000, 2000, Upload_Length="99999999999"), 413, "capture.too_large"),
        (piece(client, "c-1", content, 1000, 2000, Upload_Length="1001"), 409, "capture.changed"),
        (piece(client, "c-1", content, 1000, 2000, X_Content_SHA256="0" * 64), 409, "capture.changed"),
        (piece(client, "c-1", content, 1000, 2000, X_Content_SHA256="x"), 400, "api.bad_request"),
        (piece(client, "c-1", content, 1000, 2000, Content_Type="text/plain"), 400, "api.bad_request"),
        (piece(client, "c-1", content, 1000, 2000, X_Pipeline="../x"), 400, "api.bad_request"),
        (piece(other, "c-1", content, 1000, 2000), 403, "capture.device_mismatch"),
        (piece(client, "c-9", content, 0, 1000), 404, "capture.command_unknown"),
        (piece(client, "auto-..%2f..%2fetc", content, 0, 1000), 404, "api.not_found"),
        (listener.client().ask("PATCH", "/v1/captures/c-1", b"x"), 401, "api.unauthorized"),
    ]
    for answer, status, code in cases:
        assert (answer.status, answer.code) == (status, code)
    assert state(client, "c-1") == ("1000", "?0")
    more = content + b"more than was said"
    answer = client.ask(
        "PATCH",
        "/v1/captures/c-1",
        more[1000:],
        {
            "Upload-Offset": "1000",
            "Upload-Length": str(len(content)),
            "X-Content-SHA256": sha256(content),
            "Content-Type": "application/partial-upload",
        },
    )
    assert (answer.status, answer.code) == (413, "capture.too_large")
    assert piece(client, "c-1", content, int(state(client, "c-1")[0]), len(content)).status == 200


def test_an_upload_with_a_wrong_hash_starts_over(listener: Listener, world: World) -> None:
    client = listener.enrolled("dev-1")
    content = recording_bytes(4, 4096)
    damaged = bytes([content[0] ^ 1]) + content[1:]
    answer = piece(client, AUTO, damaged, 0, len(content), X_Content_SHA256=sha256(content))
    assert (answer.status, answer.code) == (400, "capture.hash")
    assert state(client, AUTO) == ("0", "?0")
    assert piece(client, AUTO, content, 0, len(content)).status == 200
    garbage = b"not a recording"
    answer = piece(client, "auto-00000000000000aa", garbage, 0, len(garbage))
    assert (answer.status, answer.code) == (400, "capture.invalid")
    assert listener.enrolled("dev-2").ask("HEAD", f"/v1/captures/{AUTO}").status == 403


def test_unfinished_uploads_are_limited_and_expire(listener: Listener, world: World) -> None:
    client = listener.enrolled("dev-1")
    content = recording_bytes(4, 4096)
    names = [f"auto-{number:016x}" for number in range(MAX_UPLOADS_PER_DEVICE + 1)]
    for name in names[:-1]:
        assert piece(client, name, content, 0, 1000).status == 204
    answer = piece(client, names[-1], content, 0, 1000)
    assert (answer.status, answer.code) == (429, "capture.too_many")
    assert client.ask("DELETE", f"/v1/captures/{names[0]}").status == 204
    assert piece(client, names[-1], content, 0, 1000).status == 204
    world.clock.now += 8 * 86_400
    assert piece(client, names[0], content, 0, 1000).status == 204
    assert len(list((world.data_dir / "captures-partial").glob("*.part"))) == 1


def test_uploads_by_rule_are_limited_per_day(listener: Listener, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = listener.enrolled("dev-1")
    content = recording_bytes(4, 4096)
    monkeypatch.setattr(service, "MAX_AUTO_BYTES_A_DAY", 1000)
    assert piece(client, AUTO, content, 0, len(content)).status == 200
    answer = piece(client, "auto-00000000000000aa", content, 0, 1000)
    assert (answer.status, answer.code) == (429, "capture.too_many")
    ask(world, "c-1")
    assert piece(client, "c-1", content, 0, len(content)).status == 200  # a person's wish is not counted
    world.clock.now += 86_401
    assert piece(client, "auto-00000000000000aa", content, 0, len(content)).status == 200


def test_concurrent_requests_for_one_upload_do_not_mix(listener: Listener, world: World) -> None:
    client = listener.enrolled("dev-1")
    content = recording_bytes(40, 4096)
    answers: list[Answer] = []
    start = threading.Barrier(4)

    def send() -> None:
        start.wait()
        answers.append(piece(client, AUTO, content, 0, len(content)))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {200, 409}
    if all(answer.status != 200 for answer in answers):
        assert piece(client, AUTO, content, int(state(client, AUTO)[0]), len(content)).status == 200
    assert world.captures.path(sha256(content)).read_bytes() == content


_SERVER = """
import sys, threading
from pathlib import Path
from tests.fleet.trust.world import Clock, World
from wheeltapper_fleet.device_api.app import DeviceApi, device_app
from wheeltapper_fleet.device_api.tls_server import device_server, listening_socket
world = World(Path(sys.argv[1]), Clock())
api = DeviceApi(world.engine, world.ca, world.enrolment, world.repository, world.blobs, world.captures)
with listening_socket("127.0.0.1", int(sys.argv[2])) as bound:
    port = bound.getsockname()[1]
    print(port, flush=True)
    device_server(device_app(api), "127.0.0.1", port, world.ca.server_files()).run(sockets=[bound])
"""


class Process:
    """The devices' API in a process of its own, which tests kill."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(folder), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_an_upload_resumes_after_kill_9_of_the_server(world: World) -> None:
    certificate, key = world.enrol("dev-1")
    content = recording_bytes(200, 2048)
    server = Process(world.folder)
    client = Listener(f"https://127.0.0.1:{server.port}", server.port, world).client(certificate, key)

    def up() -> bool:
        try:
            return client.ask("HEAD", f"/v1/captures/{AUTO}").status == 204
        except Exception:  # noqa: BLE001  # not up yet
            return False

    until(up, 20)
    assert piece(client, AUTO, content, 0, 300_000).status == 204
    server.kill()
    again = Process(world.folder, server.port)
    try:
        until(up, 20)
        assert state(client, AUTO) == ("300000", "?0")
        assert piece(client, AUTO, content, 300_000, len(content)).status == 200
    finally:
        again.kill()
    assert world.captures.path(sha256(content)).read_bytes() == content
