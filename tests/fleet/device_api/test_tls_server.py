"""What the servers' listening socket is."""

from __future__ import annotations

import asyncio
import socket
import threading

from wheeltapper_fleet.device_api.tls_server import listening_socket


def test_small_parts_of_an_answer_are_sent_at_once() -> None:
    """An answer whose head and body are two parts does not wait for a delayed acknowledgement."""
    found: list[int] = []
    done = threading.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        done.set()
        writer.close()

    async def serve(bound: socket.socket) -> None:
        server = await asyncio.start_server(answer, sock=bound)
        async with server:
            with socket.create_connection(bound.getsockname(), timeout=10):
                await asyncio.to_thread(done.wait, 10)

    with listening_socket("127.0.0.1", 0) as bound:
        asyncio.run(serve(bound))
    assert len(found) == 1
    assert found[0] != 0
