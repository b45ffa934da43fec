"""Real servers beside the machine: a broker, a Modbus server, an OPC UA server; each can die and come back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from asyncua import Server, ua
from paho.mqtt.enums import CallbackAPIVersion
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.agent.servers import free_port


class PlainBroker:
    """A Mosquitto without TLS unless ``lines`` says otherwise."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        anonymous = "" if any("password_file" in line for line in lines) else "allow_anonymous true\n"
        self._config.write_text(f"listener {self.port} 127.0.0.1\n{anonymous}user root\n" + "\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["/usr/sbin/mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise AssertionError("mosquitto did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def client(self, username: str = "", password: str = "", ca: Path | None = None) -> paho.Client:
        """A connected publisher."""
        client = paho.Client(CallbackAPIVersion.VERSION2)
        if username:
            client.username_pw_set(username, password)
        if ca:
            client.tls_set(str(ca))
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client


class Loop:
    """An event loop in a thread, for servers that want one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any], seconds: float = 20.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def close(self) -> None:
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


class OpcuaServer:
    """An asyncua server with the numbers ``a`` and ``b``, a list ``wave`` and a text."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"opc.tcp://127.0.0.1:{self.port}"
        self._loop = Loop()
        self.nodes: dict[str, Any] = {}
        self._server = Server()

        async def make() -> None:
            await self._server.init()
            self._server.set_endpoint(self.url)
            self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            folder = self._server.nodes.objects
            for name, value in (("a", 1.0), ("b", 2.0), ("wave", [0.0, 0.0]), ("text", "cheese")):
                self.nodes[name] = await folder.add_variable(ua.NodeId(name, 1), name, value)

        self._loop.do(make(), 60)
        self.start()

    def start(self) -> None:
        self._loop.do(self._server.start())

    def write(self, name: str, value: ua.DataValue | float) -> None:
        self._loop.do(self.nodes[name].write_value(value))

    def kill(self) -> None:
        self._loop.do(self._server.stop())

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.kill()
        self._loop.close()
