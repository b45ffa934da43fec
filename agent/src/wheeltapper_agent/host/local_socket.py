"""The agent's door on this machine: a Unix socket on which a request of one JSON line gets an answer of one JSON line.

Invariants:
    * Its thread is its own: a slow or hostile client costs a bounded time, a bounded memory and one of
      :data:`MAX_CLIENTS` places; the agent never waits for it.
    * Where the process has no descriptor left, nobody is let in for a second, rather than asked for in a loop.
    * A request is at most :data:`MAX_REQUEST_BYTES`, an answer at most :data:`MAX_ANSWER_BYTES`; a client that has not
      finished after :data:`CLIENT_SECONDS` is hung up on.
    * The socket appears by one rename with its mode already set; what a killed agent left is replaced, but the socket
      of an agent that still answers is not.

Who may ask is decided by the modes of the folder and of the socket. Not done here: what the answers say.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wheeltapper_agent.ground.errors import AgentError

__all__ = [
    "CLIENT_SECONDS",
    "MAX_ANSWER_BYTES",
    "MAX_CLIENTS",
    "MAX_REQUEST_BYTES",
    "SOCKET_FILE",
    "LocalServer",
    "ask",
]

_LOG = logging.getLogger(__name__)
SOCKET_FILE: Final = "agent.sock"
MAX_REQUEST_BYTES: Final = 4096
MAX_ANSWER_BYTES: Final = 1 << 20
MAX_CLIENTS: Final = 8
CLIENT_SECONDS: Final = 5.0
_MODE: Final = 0o660
_BACKLOG: Final = 64
_RETRY_SECONDS: Final = 0.02
_CLOSED_SECONDS: Final = 1.0
_MAX_PATH_BYTES: Final = 100  # sun_path has 108, unix(7)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of ``path`` that fits into ``sun_path``, through the folder's descriptor where it is too long."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    handle = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{path.name}"
    finally:
        os.close(handle)


@dataclass(slots=True)
class _Client:
    """One connection: what it sent, what it still gets, until when it may stay."""

    connection: socket.socket
    until: float
    received: bytearray = field(default_factory=bytearray)
    answer: memoryview = field(default_factory=lambda: memoryview(b""))


class LocalServer:
    """Answers at ``path`` in a thread of its own.

    Args:
        path: of the socket.
        answer: the body for a request; what it raises is answered as an error.
    """

    def __init__(self, path: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._path = path
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._wake, self._woken = socket.socketpair()
        self._listener: socket.socket | None = None
        self._inode = 0
        self._closed_until: float | None = None
        """When the listener is looked at again; None: it is looked at."""
        self._refused = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-socket", daemon=True)

    def start(self) -> None:
        """Listen.

        Raises:
            AgentError: ``local.in_use`` (an agent answers there), ``local.socket``.
        """
        if _answers(self._path):
            raise AgentError("local.in_use", f"another agent answers at {self._path}; does it run twice?")
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise AgentError("local.socket", f"{self._path} cannot be made: {error}") from error
        try:
            temporary.unlink(missing_ok=True)
            with _short(temporary) as name:
                listener.bind(name)
            os.chmod(temporary, _MODE)
            listener.listen(_BACKLOG)
            self._inode = temporary.stat().st_ino
            os.replace(temporary, self._path)
        except OSError as error:
            listener.close()
            raise AgentError("local.socket", f"{self._path} cannot be made: {error}") from error
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Hang up on everybody and remove the socket, if it is still ours."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        with contextlib.suppress(OSError):
            if self._listener is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for client in list(self._clients.values()):
            self._hang_up(client)
        for one in (self._listener, self._wake, self._woken):
            if one is not None:
                one.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception:  # noqa: BLE001  # logged; a client must not take the door away from the others
                _LOG.exception("local socket: a turn failed")
                self._stopping.wait(1.0)

    def _turn(self) -> None:
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.until <= now]:
            self._hang_up(client)
        if self._listener is not None and self._closed_until is not None and self._closed_until <= now:
            self._closed_until = None
            self._selector.register(self._listener, selectors.EVENT_READ)
        times = [client.until for client in self._clients.values()]
        times += [] if self._closed_until is None else [self._closed_until]
        for key, events in self._selector.select(max(0.0, min(times) - now) if times else None):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is not self._woken:
                found = self._clients.get(key.fd)
                if found is not None and found.connection is key.fileobj:  # else it was hung up on in this turn
                    self._serve(found, events)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            for _ in range(MAX_CLIENTS):  # then the others are served
                self._take(self._listener.accept()[0])
                self._refused = False
        except BlockingIOError:
            pass  # all have been taken
        except OSError as error:  # no descriptor is left, perhaps: who waits would wake this thread for ever
            if not self._refused:
                _LOG.warning("local socket: nobody can be let in: %s", error)
            self._refused = True
            self._selector.unregister(self._listener)
            self._closed_until = time.monotonic() + _CLOSED_SECONDS

    def _take(self, connection: socket.socket) -> None:
        if len(self._clients) >= MAX_CLIENTS:  # the oldest has had its time
            self._hang_up(min(self._clients.values(), key=lambda client: client.until))
        connection.setblocking(False)
        self._clients[connection.fileno()] = _Client(connection, time.monotonic() + CLIENT_SECONDS)
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                client.answer = client.answer[client.connection.send(client.answer) :]
                if not client.answer:
                    self._hang_up(client)
                return
            piece = client.connection.recv(MAX_REQUEST_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._hang_up(client)
            return
        client.received += piece
        line, newline, _ = bytes(client.received).partition(b"\n")
        if not newline and piece and len(client.received) < MAX_REQUEST_BYTES:
            return
        if not newline and not piece and not line:
            self._hang_up(client)
            return
        client.answer = memoryview(self._body(line if len(line) < MAX_REQUEST_BYTES else b""))
        self._selector.modify(client.connection, selectors.EVENT_WRITE)

    def _body(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise AgentError("local.request", "a request is one line with a JSON object")
            body = self._answer(request)
        except AgentError as error:
            body = {"error": error.code, "message": error.message}
        except (ValueError, RecursionError):
            body = {
                "error": "local.request",
                "message": f"a request is one line of JSON below {MAX_REQUEST_BYTES} bytes",
            }
        except Exception:  # noqa: BLE001  # logged and answered
            _LOG.exception("local socket: a request could not be answered")
            body = {"error": "local.internal", "message": "the agent could not answer; see its log"}
        answer = json.dumps(body).encode() + b"\n"
        if len(answer) > MAX_ANSWER_BYTES:
            answer = b'{"error": "local.too_long", "message": "the answer is too long"}\n'
        return answer

    def _hang_up(self, client: _Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        client.connection.close()


def _answers(path: Path) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, _short(path) as name:
            probe.settimeout(1.0)
            probe.connect(name)
    except OSError:
        return False
    return True


def _connect(connection: socket.socket, name: str, deadline: float) -> None:
    """Connect; while the queue of the listener is full (``EAGAIN``, ``connect(2)``), try again."""
    while True:
        try:
            connection.connect(name)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            time.sleep(_RETRY_SECONDS)
        else:
            return


def ask(path: Path, request: dict[str, Any], timeout_seconds: float = 5.0) -> dict[str, Any]:
    """Ask the agent that listens at ``path``.

    Raises:
        AgentError: ``local.no_agent`` (nobody listens), ``local.denied``, ``local.answer``, or the code of its refusal.
    """
    deadline = time.monotonic() + timeout_seconds
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_seconds)
            with _short(path) as name:
                _connect(connection, name, deadline)
            connection.sendall(json.dumps(request).encode() + b"\n")
            while not received.endswith(b"\n") and len(received) <= MAX_ANSWER_BYTES:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
    except PermissionError as error:
        text = f"{path} may be asked by root and by members of its group"
        raise AgentError("local.denied", text) from error
    except TimeoutError as error:
        raise AgentError(
            "local.answer", f"the agent at {path} did not answer within {timeout_seconds:.0f} s"
        ) from error
    except OSError as error:
        raise AgentError("local.no_agent", f"no agent listens at {path}") from error
    try:
        body = json.loads(received)
    except ValueError as error:
        raise AgentError("local.answer", f"the answer of {path} cannot be read") from error
    if not isinstance(body, dict):
        raise AgentError("local.answer", f"the answer of {path} cannot be read")
    if "error" in body:
        raise AgentError(str(body["error"]), str(body.get("message", "")))
    return body
