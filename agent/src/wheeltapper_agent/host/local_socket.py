"""The local socket: a Unix socket on which a request, one line of JSON, gets an answer, one line of JSON.

Invariants:
    * It has a thread of its own: a slow or hostile client takes a bounded time, a bounded memory and one of
      :data:`MAX_CLIENTS` places; the agent never waits for it.
    * While the process has no file descriptor left, no connection is accepted for a second; the thread does not spin.
    * A request is at most :data:`MAX_REQUEST_BYTES`, an answer at most :data:`MAX_ANSWER_BYTES`; the connection of a
      client that has not finished after :data:`CLIENT_SECONDS` is closed.
    * The socket appears by one rename, with its mode already set. What a killed agent left is replaced; the socket of
      an agent that still answers is not.

The modes of the folder and of the socket decide who may ask. Not done here: what the answers say
(:mod:`wheeltapper_agent.host.status`).

Example:
    >>> from pathlib import Path
    >>> from wheeltapper_agent.host.local_socket import ask
    >>> ask(Path("/var/lib/wheeltapper/agent.sock"), {"ask": "status"})["connected"]
    True
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
_ACCEPT_AGAIN_SECONDS: Final = 1.0
_MAX_PATH_BYTES: Final = 100  # sun_path has 108, unix(7)


@contextlib.contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits into ``sun_path`` (``unix(7)``); a long one uses the folder's descriptor."""
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
    """One connection."""

    connection: socket.socket
    deadline: float
    """When the connection is closed (monotonic seconds)."""
    received: bytearray = field(default_factory=bytearray)
    answer: memoryview = field(default_factory=lambda: memoryview(b""))
    """What is still to be sent."""


class LocalServer:
    """Answers requests at ``path`` in a thread of its own.

    Args:
        path: of the socket.
        answer: makes the answer to a request, in this thread; what it raises is answered as an error.
    """

    def __init__(self, path: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._path = path
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._wake, self._woken = socket.socketpair()  # a byte sent into the first ends the wait of the thread
        self._listener: socket.socket | None = None
        self._inode = 0
        self._accept_again_at: float | None = None
        """When connections are accepted again (monotonic seconds); None: they are now."""
        self._accept_failed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-socket", daemon=True)

    def start(self) -> None:
        """Make the socket and begin to answer. May be called again after it failed.

        Raises:
            AgentError: ``local.in_use``: an agent answers there; ``local.socket``: the socket cannot be made.
        """
        if _answers(self._path):
            raise AgentError("local.in_use", f"another agent answers at {self._path}: stop it first")
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise AgentError("local.socket", f"{self._path} cannot be made: {error}") from error
        try:
            temporary.unlink(missing_ok=True)
            with _short_name(temporary) as name:
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
        """Close all connections and remove the socket, unless another agent has replaced it."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        with contextlib.suppress(OSError):
            if self._listener is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for client in list(self._clients.values()):
            self._close(client)
        for one in (self._listener, self._wake, self._woken):
            if one is not None:
                one.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._serve_once()
            except Exception:  # noqa: BLE001  # logged; one client must not end the service for the others
                _LOG.exception("local socket: a request failed; the next ones are answered")
                self._stopping.wait(1.0)

    def _serve_once(self) -> None:
        """Wait for the next event or deadline, and handle what is due."""
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            self._close(client)
        if self._listener is not None and self._accept_again_at is not None and self._accept_again_at <= now:
            self._accept_again_at = None
            self._selector.register(self._listener, selectors.EVENT_READ)
        times = [client.deadline for client in self._clients.values()]
        times += [] if self._accept_again_at is None else [self._accept_again_at]
        for key, events in self._selector.select(max(0.0, min(times) - now) if times else None):
            if key.fileobj is self._listener:
                self._accept_clients()
            elif key.fileobj is not self._woken:
                found = self._clients.get(key.fd)
                if found is not None and found.connection is key.fileobj:  # else it was closed for another event before
                    self._serve(found, events)

    def _accept_clients(self) -> None:
        assert self._listener is not None
        try:
            for _ in range(MAX_CLIENTS):  # then those that were accepted are served
                self._add_client(self._listener.accept()[0])
                self._accept_failed = False
        except BlockingIOError:
            pass  # nobody else is waiting
        except (
            OSError
        ) as error:  # often: no file descriptor is left. Whoever waits would wake this thread again and again
            if not self._accept_failed:
                _LOG.warning("local socket: no connection can be accepted: %s; tried again every second", error)
            self._accept_failed = True
            self._selector.unregister(self._listener)
            self._accept_again_at = time.monotonic() + _ACCEPT_AGAIN_SECONDS

    def _add_client(self, connection: socket.socket) -> None:
        if len(self._clients) >= MAX_CLIENTS:  # the oldest connection makes room
            self._close(min(self._clients.values(), key=lambda client: client.deadline))
        connection.setblocking(False)
        self._clients[connection.fileno()] = _Client(connection, time.monotonic() + CLIENT_SECONDS)
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve(self, client: _Client, events: int) -> None:
        """Send or receive what is possible without waiting."""
        try:
            if events & selectors.EVENT_WRITE:
                client.answer = client.answer[client.connection.send(client.answer) :]
                if not client.answer:
                    self._close(client)
                return
            piece = client.connection.recv(MAX_REQUEST_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close(client)
            return
        client.received += piece
        line, newline, _ = bytes(client.received).partition(b"\n")
        if not newline and piece and len(client.received) < MAX_REQUEST_BYTES:
            return
        if not newline and not piece and not line:
            self._close(client)
            return
        client.answer = memoryview(self._answer_line(line if len(line) < MAX_REQUEST_BYTES else b""))
        self._selector.modify(client.connection, selectors.EVENT_WRITE)

    def _answer_line(self, line: bytes) -> bytes:
        """The line that answers the request ``line``; an error is a line too."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise AgentError("local.request", "a request must be one line with a JSON object")
            body = self._answer(request)
        except AgentError as error:
            body = {"error": error.code, "message": error.message}
        except (ValueError, RecursionError):
            body = {
                "error": "local.request",
                "message": f"a request must be one line of JSON, shorter than {MAX_REQUEST_BYTES} bytes",
            }
        except Exception:  # noqa: BLE001  # logged and answered
            _LOG.exception("local socket: a request could not be answered")
            body = {"error": "local.internal", "message": "the agent could not answer: see its log"}
        answer = json.dumps(body).encode() + b"\n"
        if len(answer) > MAX_ANSWER_BYTES:
            answer = b'{"error": "local.too_long", "message": "the answer is too long"}\n'
        return answer

    def _close(self, client: _Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        client.connection.close()


def _answers(path: Path) -> bool:
    """Whether a process accepts connections at ``path``."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, _short_name(path) as name:
            probe.settimeout(1.0)
            probe.connect(name)
    except OSError:
        return False
    return True


def _connect(connection: socket.socket, name: str, deadline: float) -> None:
    """Connect to ``name``; try again while the listener's queue is full (``EAGAIN``, ``connect(2)``).

    Raises:
        TimeoutError: not before ``deadline`` (monotonic seconds).
        OSError: nobody listens, or it is not allowed.
    """
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

    Args:
        path: of the socket.
        request: e.g. ``{"ask": "status"}``.
        timeout_seconds: for the whole exchange.

    Raises:
        AgentError: ``local.no_agent``: nobody listens; ``local.denied``: not allowed; ``local.answer``: no answer that
            can be read came in time; or the code with which the agent refused.
    """
    deadline = time.monotonic() + timeout_seconds
    received = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_seconds)
            with _short_name(path) as name:
                _connect(connection, name, deadline)
            connection.sendall(json.dumps(request).encode() + b"\n")
            while not received.endswith(b"\n") and len(received) <= MAX_ANSWER_BYTES:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
    except PermissionError as error:
        text = f"{path} is open only to root and to members of its group: use sudo"
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
