"""Servers beside the machine: a Modbus and an OPC UA server, which can die and come back, and a scripted Modbus one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager
from cryptography.x509.oid import ExtendedKeyUsageOID
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.agent.servers import free_port


class Loop:
    """An event loop in a thread, for servers that want one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any], seconds: float = 20.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def close(self) -> None:
        async def cancel() -> None:
            mine = asyncio.current_task()
            for task in asyncio.all_tasks():
                if task is not mine:
                    task.cancel()
            await asyncio.sleep(0)

        self.do(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


class ModbusServer:
    """A pymodbus server; device 1 with holding and input registers from 0 on, some of them readable only in part."""

    def __init__(self, holding: list[int], inputs: list[int]) -> None:
        self.port = free_port()
        self._loop = Loop()
        self._holding, self._inputs = holding, inputs
        self.start()

    def start(self) -> None:
        async def start() -> None:
            blocks = [
                [SimData(0, values=values, datatype=DataType.REGISTERS)] for values in (self._holding, self._inputs)
            ]
            off = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
            device = SimDevice(1, simdata=(off, off, blocks[0], blocks[1]))
            self._server: Any = ModbusTcpServer(device, address=("127.0.0.1", self.port))
            await self._server.serve_forever(background=True)

        self._loop.do(start())

    def write(self, address: int, values: list[int]) -> None:
        self._loop.do(self._server.async_setValues(1, 16, address, values))

    def kill(self) -> None:
        self._loop.do(self._server.shutdown())

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.kill()
        self._loop.close()


class ScriptedModbusServer:
    """A Modbus TCP server in which the test says how each request is answered.

    Args:
        answer: gets unit, function, address and count; returns the answer's bytes from the function code on, a pair of
            unit and bytes for another unit, an exception code, or None for no answer.
        closes: end the connection after each answer, as servers do that nobody asked for a while.
    """

    def __init__(
        self, answer: Callable[[int, int, int, int], bytes | tuple[int, bytes] | int | None], closes: bool = False
    ) -> None:
        self._closes = closes
        self.requests: list[tuple[int, int, int]] = []
        """Unit, address and count of each."""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while len(head := connection.recv(12, socket.MSG_WAITALL)) == 12:
                transaction, _, _, unit, function, address, count = struct.unpack(">HHHBBHH", head)
                self.requests.append((unit, address, count))
                found = self._answer(unit, function, address, count)
                if found is None:
                    continue
                if isinstance(found, int):
                    found = bytes([function | 0x80, found])
                unit, body = found if isinstance(found, tuple) else (unit, found)
                connection.sendall(struct.pack(">HHHB", transaction, 0, len(body) + 1, unit) + body)
                if self._closes:
                    return

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> ScriptedModbusServer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _Users(UserManager):  # type: ignore[misc]  # asyncua is not followed
    def get_user(
        self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        known = username is None or (username, password) == ("agent", "swordfish")
        return User(role=UserRole.User) if known else None


class OpcuaServer:
    """An asyncua server with the numbers ``a`` and ``b``, a list ``wave`` and a text; with and without encryption;
    for anybody, or for ``agent`` with the password ``swordfish``. Its certificate and one for the client are in
    ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"opc.tcp://127.0.0.1:{self.port}"
        self._loop = Loop()
        self.nodes: dict[str, Any] = {}
        self._server = Server(user_manager=_Users())

        async def make() -> None:
            await self._server.init()
            self._server.set_endpoint(self.url)
            policies = [ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
            self._server.set_security_policy(policies)
            for name, uri in (("server", self._server.get_application_uri()), ("client", "urn:test:agent")):
                usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
                await setup_self_signed_certificate(
                    folder / f"{name}.pem",
                    folder / f"{name}.der",
                    uri,
                    socket.gethostname(),
                    usage,
                    {"commonName": name},
                )
                (folder / f"{name}.pem").chmod(0o600)
            await self._server.load_certificate(str(folder / "server.der"))
            await self._server.load_private_key(str(folder / "server.pem"))
            objects = self._server.nodes.objects
            for name, value in (("a", 1.0), ("b", 2.0), ("wave", [0.0, 0.0]), ("text", "cheese")):
                self.nodes[name] = await objects.add_variable(ua.NodeId(name, 1), name, value)

        self._loop.do(make(), 60)
        self.start()

    def start(self) -> None:
        self._loop.do(self._server.start())

    def write(self, name: str, value: ua.DataValue | float) -> None:
        self._loop.do(self.nodes[name].write_value(value))

    def forget_subscriptions(self) -> None:
        """Drop all without a word, as a server does that ran out of memory."""
        service = self._server.iserver.subscription_service
        self._loop.do(service.delete_subscriptions(list(service.subscriptions)))

    def end_subscriptions(self, code: int) -> None:
        """Say of all that they are over."""

        async def say() -> None:
            for found in self._server.iserver.subscription_service.subscriptions.values():
                status = ua.StatusChangeNotification(Status=ua.StatusCode(code))
                await found.enqueue_statuschange(status.Status)

        self._loop.do(say())

    def kill(self) -> None:
        self._loop.do(self._server.stop())

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.kill()
        self._loop.close()
