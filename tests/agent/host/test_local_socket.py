"""The local socket: slow and hostile clients on real sockets, and what a killed agent leaves."""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.agent.servers import until
from wheeltapper_agent.cli import app
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.host import local_socket
from wheeltapper_agent.host.local_socket import MAX_CLIENTS, MAX_REQUEST_BYTES, SOCKET_FILE, LocalServer, ask
from wheeltapper_agent.host.status import STATUS_FILE


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("ask") == "refuse":
        raise AgentError("local.unknown", "no")
    if request.get("ask") == "crash":
        raise ZeroDivisionError
    if request.get("ask") == "much":
        return {"much": "x" * local_socket.MAX_ANSWER_BYTES}
    return {"you": request.get("ask")}


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "agent.sock"


@pytest.fixture
def server(path: Path) -> Iterator[LocalServer]:
    made = LocalServer(path, _answer)
    made.start()
    yield made
    made.stop()


def _connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.connect(str(path))
    made.settimeout(10)
    return made


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except (ConnectionError, BrokenPipeError):
        return True


def test_a_question_and_its_answer(server: LocalServer, path: Path) -> None:
    assert ask(path, {"ask": "who"}) == {"you": "who"}
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("question", "code"), [("refuse", "local.unknown"), ("crash", "local.internal"), ("much", "local.too_long")]
)
def test_a_refusal_has_a_code(server: LocalServer, path: Path, question: str, code: str) -> None:
    with pytest.raises(AgentError) as refused:
        ask(path, {"ask": question})
    assert refused.value.code == code
    assert ask(path, {"ask": "still"}) == {"you": "still"}


@pytest.mark.parametrize(
    "sent",
    [
        b"not json\n",
        b"[1]\n",
        b"\n",
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
        b"x" * MAX_REQUEST_BYTES,
        b'{"ask": "' + b"y" * (8 * MAX_REQUEST_BYTES) + b'"}\n',
    ],
)
def test_a_bad_request_is_answered_once_and_the_connection_closed(server: LocalServer, path: Path, sent: bytes) -> None:
    with _connect(path) as connection:
        try:
            connection.sendall(sent)
            received = connection.makefile("rb").readline()
        except (ConnectionError, BrokenPipeError):
            received = b""
        if received:  # where the kernel did not throw it away with the rest of an endless request
            assert json.loads(received)["error"] == "local.request"
    assert ask(path, {"ask": "still"}) == {"you": "still"}


def test_a_request_in_pieces_and_one_without_newline(server: LocalServer, path: Path) -> None:
    with _connect(path) as connection:
        for byte in b'{"ask": "slow"}\n':
            connection.sendall(bytes([byte]))
        assert json.loads(connection.makefile("rb").readline()) == {"you": "slow"}
    with _connect(path) as connection:
        connection.sendall(b'{"ask": "end"}')
        connection.shutdown(socket.SHUT_WR)
        assert json.loads(connection.makefile("rb").readline()) == {"you": "end"}


def test_slow_clients_cost_a_bounded_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More silent clients than there are places: others are served at once, the silent ones are disconnected."""
    monkeypatch.setattr(local_socket, "CLIENT_SECONDS", 0.3)
    server = LocalServer(path, _answer)
    server.start()
    silent = [_connect(path) for _ in range(MAX_CLIENTS + 3)]
    try:
        assert ask(path, {"ask": "quick"}) == {"you": "quick"}
        assert all(_is_closed(connection) for connection in silent)
        until(lambda: not server._clients, 5, "the end of all connections")
    finally:
        for connection in silent:
            connection.close()
        server.stop()


def test_a_client_that_does_not_read_is_disconnected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_socket, "CLIENT_SECONDS", 0.3)
    server = LocalServer(path, lambda _: {"much": "x" * (local_socket.MAX_ANSWER_BYTES - 100)})
    server.start()
    with _connect(path) as connection:
        connection.sendall(b"{}\n")  # the answer is larger than the buffer of the socket
        until(lambda: len(server._clients) == 1, 5, "the connection")
        until(lambda: not server._clients, 5, "its end")
        assert len(ask(path, {})["much"]) > 1e6
    server.stop()


def test_what_a_killed_agent_left_is_replaced(path: Path) -> None:
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()
    with pytest.raises(AgentError) as refused:
        ask(path, {})
    assert refused.value.code == "local.no_agent"
    server = LocalServer(path, _answer)
    server.start()
    assert ask(path, {"ask": "a"}) == {"you": "a"}
    server.stop()
    assert not path.exists()


def test_the_socket_of_a_living_agent_is_not_taken(server: LocalServer, path: Path) -> None:
    second = LocalServer(path, lambda _: {"you": "second"})
    with pytest.raises(AgentError) as refused:
        second.start()
    assert refused.value.code == "local.in_use"
    second.stop()
    assert ask(path, {"ask": "first"}) == {"you": "first"}


def test_a_path_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    server = LocalServer(folder / "agent.sock", _answer)
    server.start()
    assert ask(folder / "agent.sock", {"ask": "far"}) == {"you": "far"}
    server.stop()
    assert list(folder.iterdir()) == []


def test_without_descriptors_it_waits_rather_than_spins(
    server: LocalServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listener:
        """As in a process that has no file descriptor left."""

        def __init__(self, real: socket.socket) -> None:
            self.real, self.asked = real, 0

        def accept(self) -> tuple[socket.socket, Any]:
            self.asked += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        def fileno(self) -> int:
            return self.real.fileno()

        def close(self) -> None:
            self.real.close()

    assert server._listener is not None
    listener = Listener(server._listener)
    server._selector.unregister(server._listener)
    server._selector.register(listener, selectors.EVENT_READ)
    real, server._listener = server._listener, listener  # type: ignore[assignment]  # as a socket, here
    with _connect(path) as waiting:
        until(lambda: listener.asked > 0, 5, "the first refusal")
        used = time.process_time()
        time.sleep(1.5)
        assert time.process_time() - used < 0.5
        assert listener.asked <= 3
        monkeypatch.setattr(listener, "accept", real.accept)
        waiting.sendall(b'{"ask": "late"}\n')
        assert json.loads(waiting.makefile("rb").readline()) == {"you": "late"}


def test_a_client_whose_connection_was_closed_for_an_earlier_event_is_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ninth client takes the place of the first, which sends something at the same moment."""
    server = LocalServer(path, _answer)
    monkeypatch.setattr(server._thread, "start", lambda: None)
    server.start()
    crowd = [_connect(path) for _ in range(MAX_CLIENTS)]
    server._serve_once()
    assert len(server._clients) == MAX_CLIENTS
    crowd.append(_connect(path))
    crowd[0].sendall(b'{"ask": "first"}\n')
    server._serve_once()
    assert _is_closed(crowd[0])
    assert len(server._clients) == MAX_CLIENTS
    for client in crowd:
        client.close()
    server.stop()


def test_asking_an_agent_that_hangs_ends_with_an_error(path: Path) -> None:
    release = threading.Event()
    server = LocalServer(path, lambda _: {"late": release.wait(30)})
    server.start()
    with pytest.raises(AgentError) as refused:
        ask(path, {}, timeout_seconds=0.2)
    assert refused.value.code == "local.answer"
    release.set()
    server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_others_on_the_machine_may_not_ask(server: LocalServer, path: Path) -> None:
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            ask(path, {"ask": "nobody"})
        except AgentError as error:
            os._exit(7 if error.code == "local.denied" else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_status_asks_the_agent_and_says_if_it_does_not_run(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('[device]\nstate_dir = "."\n')
    (tmp_path / STATUS_FILE).write_text(json.dumps({"device": "d", "connected": False}))

    def status() -> tuple[dict[str, Any], str]:
        done = CliRunner().invoke(app, ["status", "--config", str(config), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout), done.stderr

    running = LocalServer(
        tmp_path / SOCKET_FILE, lambda request: {"device": "d", "connected": request == {"ask": "status"}}
    )
    running.start()
    body, said = status()
    running.stop()
    assert (body["running"], body["connected"], said) == (True, True, "")
    body, said = status()
    assert (body["running"], body["connected"]) == (False, False)
    assert "local.no_agent" in said
    (tmp_path / STATUS_FILE).unlink()
    done = CliRunner().invoke(app, ["status", "--config", str(config)])
    assert done.exit_code == 2
    assert "status.missing" in done.output
