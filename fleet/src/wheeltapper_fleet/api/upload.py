"""Stores an uploaded blob while it arrives: the request's stream is asynchronous, the store writes in a thread.

Invariant: at most 16 chunks of the body are in memory.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

from wheeltapper_fleet.registry.blobs import Blob, BlobStore

__all__ = ["receive_blob"]

_CHUNKS_AHEAD: Final = 16


class _Aborted(Exception):  # noqa: N818  # not an error to report: it tells the storing thread that the upload broke off
    """The client ended the connection before the whole body had arrived."""


async def receive_blob(store: BlobStore, sha256: str, stream: AsyncIterator[bytes]) -> Blob:
    """Store a blob.

    Args:
        store: where the blob goes.
        sha256: the blob's name; the content must hash to it.
        stream: the request's body.

    Raises:
        FleetError: ``blob.*``.
    """
    chunks: queue.Queue[bytes | _Aborted | None] = queue.Queue(_CHUNKS_AHEAD)
    done = threading.Event()

    def pieces() -> Iterator[bytes]:
        while (item := chunks.get()) is not None:
            if isinstance(item, _Aborted):
                raise item
            yield item

    def store_all() -> Blob:
        try:
            return store.put(pieces(), sha256)
        finally:
            done.set()

    async def feed(item: bytes | _Aborted | None) -> None:
        while not done.is_set():
            try:
                chunks.put_nowait(item)
            except queue.Full:
                await asyncio.sleep(0.002)
            else:
                return

    writer = asyncio.create_task(asyncio.to_thread(store_all))
    try:
        async for chunk in stream:
            if chunk:
                await feed(chunk)
        await feed(None)
    except BaseException:
        await feed(_Aborted())
        await asyncio.gather(writer, return_exceptions=True)
        raise
    return await writer
