"""Calls about captures: ask for recordings, list them, fetch one."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, Final

import httpx

from wheeltapper_fleet.client.requests import PREFIX, Requests, quoted, refusal, unreachable
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["CaptureCalls"]

_POLL_SECONDS: Final = 0.5


class CaptureCalls(Requests):
    """One method for each route of captures."""

    def request_capture(self, device: str, pipeline: str, snapshots: int) -> str:
        """Ask a device for a recording of its next ``snapshots`` windows; returns the command's id."""
        answer = self._post(f"/devices/{quoted(device)}/captures", {"pipeline": pipeline, "snapshots": snapshots})
        return str(answer["command"])

    def captures(self, device: str | None = None) -> list[dict[str, Any]]:
        """Recordings that were asked for or received, newest first."""
        return list(self.items("/captures", {"device": device} if device is not None else None))

    def capture(self, command: str) -> dict[str, Any]:
        """One recording that was asked for or received."""
        return dict(self._get(f"/captures/{quoted(command)}"))

    def await_capture(self, command: str) -> dict[str, Any]:
        """Wait until a recording that was asked for is here; a command that nobody answers expires.

        Raises:
            FleetError: the device's own code, where it could not make the recording.
        """
        while True:
            found = self.capture(command)
            if found["state"] == "received":
                return found
            if found["state"] == "failed":
                raise FleetError(found["code"], f"{found['device']} could not make the recording", 409)
            time.sleep(_POLL_SECONDS)

    def fetch_capture(self, command: str, target: Path) -> int:
        """Download a recording. The file appears whole or not at all.

        Args:
            command: the command, or the device's rule, that the recording answers.
            target: the file to write.

        Returns:
            The file's length in bytes.

        Raises:
            FleetError: ``capture.not_found``, ``client.hash``.
        """
        temporary = target.with_name(f".{target.name}.part")
        digest, length = hashlib.sha256(), 0
        try:
            with self._http.stream("GET", f"{PREFIX}/captures/{quoted(command)}/recording") as response:
                if response.status_code != 200:
                    response.read()
                    raise refusal(response)
                with temporary.open("wb") as file:
                    for chunk in response.iter_bytes():
                        digest.update(chunk)
                        length += file.write(chunk)
            if digest.hexdigest() != response.headers.get("X-Content-SHA256"):
                raise FleetError("client.hash", "the recording was damaged in transit; fetch it again", 502)
            temporary.replace(target)
        except httpx.HTTPError as error:
            raise unreachable(error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return length
