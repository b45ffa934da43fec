"""Requests to the admin API: what the calls of every room stand on.

Invariants:
    * Every refusal of the server is raised as :class:`FleetError` with the server's own code.
    * A server that cannot be reached is raised as ``client.unreachable``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["PREFIX", "Requests", "quoted", "refusal", "unreachable"]

_TIMEOUT_SECONDS: Final = 30.0
_ATTEMPTS: Final = 6
_LONGEST_WAIT_SECONDS: Final = 10
PREFIX: Final = "/api/v1"


class Requests:
    """A connection to the admin API. Use it in a ``with`` statement, or close it.

    Args:
        base_url: e.g. ``http://127.0.0.1:8080``.
        token: the API token.
        verify: whether to verify the server's TLS certificate, or the path of the CA to verify it with.
    """

    def __init__(self, base_url: str, token: str, *, verify: str | bool = True) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_SECONDS,
            verify=verify,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def items(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page.

        Args:
            path: of the list, below ``/api/v1``, e.g. ``/devices``.
            query: what the list takes besides ``after``. ``limit`` is the length of a page, 1000 by default.
        """
        asked = {"limit": MAX_LIMIT, **(query or {})}
        while True:
            page = self._get(path, asked)
            yield from page["items"]
            if page["next"] is None:
                return
            asked["after"] = page["next"]

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Any:
        """What the service answers to a request; ``path`` is below ``/api/v1``. Query values of None are left out."""
        asked = {name: value for name, value in query.items() if value is not None}
        response = self._send(method, PREFIX + path, json=body, params=asked)
        return response.json() if response.content else None

    def _change(self, path: str, body: Mapping[str, Any] | None, if_match: str | None, method: str = "PATCH") -> Any:
        """Change something, if it is still as the tag ``if_match`` says."""
        headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
        response = self._send(method, PREFIX + path, json=body, headers=headers)
        return response.json() if response.content else None

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self._send("GET", PREFIX + path, params=query).json()

    def _post(self, path: str, body: Mapping[str, Any] | None) -> Any:
        return self._send("POST", PREFIX + path, json=body).json()

    def _send(self, method: str, path: str, *, ok: tuple[int, ...] = (), **options: Any) -> httpx.Response:
        """Ask; where the service says that it is asked too fast, wait as long as it says, and ask again."""
        for attempt in range(_ATTEMPTS):
            try:
                response = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                raise unreachable(error) from error
            wait = response.headers.get("Retry-After", "")
            again = response.status_code == 429 and wait.isdigit() and int(wait) <= _LONGEST_WAIT_SECONDS
            if not again or attempt == _ATTEMPTS - 1 or "content" in options:
                break
            time.sleep(max(1, int(wait)))
        if not response.is_success and response.status_code not in ok:
            raise refusal(response)
        return response


def quoted(text: str) -> str:
    """``text`` quoted as one segment of a URL's path."""
    return quote(text, safe="")


def unreachable(error: Exception) -> FleetError:
    return FleetError("client.unreachable", f"cannot reach the fleet service: {error or type(error).__name__}", 503)


def refusal(response: httpx.Response) -> FleetError:
    """The error that the server's answer describes."""
    try:
        body = response.json()
        return FleetError(str(body["code"]), str(body["detail"]), response.status_code)
    except (ValueError, KeyError, TypeError):
        message = f"the server answered with status {response.status_code}"
        return FleetError("client.answer", message, response.status_code)
