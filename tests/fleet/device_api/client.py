"""A client of the devices' API, with real TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
from urllib3.response import BaseHTTPResponse

from tests.fleet.trust.world import World


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


@dataclass
class Client:
    """Makes requests with one device's certificate, or without a certificate."""

    url: str
    pool: urllib3.PoolManager

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        response = self.pool.request(method, self.url + path, body=body, headers=headers, retries=False, timeout=10)
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, response.data)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers=headers)

    def updater(self, cache: Path, root: bytes) -> Updater:
        """A TUF client with the options that the agent uses."""
        cache.mkdir()
        config = UpdaterConfig(prefix_targets_with_hash=False)
        return Updater(str(cache), f"{self.url}/v1/tuf", fetcher=_Fetcher(self.pool), config=config, bootstrap=root)


@dataclass
class Listener:
    """The running devices' API, and the clients of it."""

    url: str
    port: int
    world: World
    ahead_seconds: float = 0.0
    """By how much the server's monotonic clock is ahead of the real one."""
    _count: int = field(default=0)

    def context(self, certificate: bytes | None = None, key: bytes | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.world.ca.pem.decode())
        if certificate is not None and key is not None:
            self._count += 1
            path = self.world.folder / f"client-{self._count}.pem"
            path.write_bytes(certificate + key)
            context.load_cert_chain(path)
        return context

    def client(self, certificate: bytes | None = None, key: bytes | None = None) -> Client:
        return Client(self.url, urllib3.PoolManager(ssl_context=self.context(certificate, key)))

    def enrolled(self, device: str) -> Client:
        return self.client(*self.world.enrol(device))


class _Fetcher(FetcherInterface):
    def __init__(self, pool: urllib3.PoolManager) -> None:
        self._pool = pool

    def _fetch(self, url: str) -> Iterator[bytes]:
        response = self._pool.request("GET", url, preload_content=False, retries=False, timeout=10)
        if response.status >= 400:
            response.close()  # not back to the pool: its body has not been read
            raise DownloadHTTPError(f"status {response.status}", response.status)
        return _chunks(response)


def _chunks(response: BaseHTTPResponse) -> Iterator[bytes]:
    yield from response.stream(65536)
    response.release_conn()
