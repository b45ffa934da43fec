"""Calls about devices: enrolment tokens, list, tags, and their life."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wheeltapper_fleet.client.requests import PREFIX, Requests, quoted
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["DeviceCalls"]


class DeviceCalls(Requests):
    """One method for each route of devices."""

    def create_token(
        self, device: str, ttl_seconds: float = 86_400.0, tags: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Create a one-time enrolment token: ``device``, ``token``, ``expires_at``."""
        return dict(self._post("/tokens", {"device": device, "ttl_seconds": ttl_seconds, "tags": dict(tags or {})}))

    def create_tokens(
        self, devices: Sequence[Mapping[str, Any]], ttl_seconds: float = 86_400.0
    ) -> list[dict[str, Any]]:
        """Create a one-time enrolment token for each of ``devices`` (``device``, ``tags``, ``row``): for all or none.

        Raises:
            FleetError: ``enrol.rows``: which rows are wrong, and why.
        """
        return list(self._post("/device-tokens", {"devices": list(devices), "ttl_seconds": ttl_seconds}))

    def devices(self, q: str = "") -> list[dict[str, Any]]:
        """All devices that a query means, by id."""
        return list(self.iterate_devices(q))

    def iterate_devices(self, q: str = "", page: int | None = None) -> Iterator[dict[str, Any]]:
        """The devices that a query means, by id, read in pages of up to ``page`` devices."""
        asked: dict[str, Any] = {"q": q} if q else {}
        if page is not None:
            asked["limit"] = min(page, MAX_LIMIT)
        return self.items("/devices", asked)

    def device_counts(self, q: str = "") -> dict[str, Any]:
        """Devices in numbers: by state, site, and what they run."""
        return dict(self._get("/device-counts", {"q": q} if q else None))

    def device(self, device: str) -> dict[str, Any]:
        """One device."""
        return dict(self._get(f"/devices/{quoted(device)}"))

    def ask_device(self, device: str, kind: str, **fields: Any) -> dict[str, Any]:
        """Ask a device for ``diagnostics``, or ``restart-pipeline`` or ``reset-baseline`` of a ``pipeline``."""
        return dict(self._post(f"/devices/{quoted(device)}/commands", {"type": kind, **fields}))

    def ask_devices(self, q: str, kind: str, **fields: Any) -> dict[str, Any]:
        """Ask every device that a query means; ``dry`` and ``expected`` as :meth:`edit_devices` has them."""
        return dict(self._post("/device-commands", {"q": q, "type": kind, **fields}))

    def commands(self, device: str | None = None) -> Iterator[dict[str, Any]]:
        """Commands to devices, newest first."""
        return self.items("/device-commands", {} if device is None else {"device": device})

    def command(self, command: str) -> dict[str, Any]:
        """One command, and what became of it."""
        return dict(self._get(f"/device-commands/{quoted(command)}"))

    def bundle(self, command: str) -> dict[str, Any]:
        """The diagnostics bundle that answers a command."""
        return dict(self._get(f"/device-commands/{quoted(command)}/bundle"))

    def settings(self, device: str) -> dict[str, Any]:
        """Which settings are wanted of a device, which are in force, and which differ."""
        return dict(self._get(f"/devices/{quoted(device)}/settings"))

    def change_settings(
        self, device: str, settings: Mapping[str, Any], why: str = "", if_match: str | None = None
    ) -> dict[str, Any]:
        """Want other values of a device's settings, None: what its configuration says; if they are still at the version
        ``if_match``."""
        body = {"settings": dict(settings), "why": why}
        return dict(self._change(f"/devices/{quoted(device)}/settings", body, if_match))

    def connections(self, device: str) -> Iterator[dict[str, Any]]:
        """When a device came and went, newest first."""
        return self.items(f"/devices/{quoted(device)}/connections")

    def device_log(self, device: str) -> Iterator[dict[str, Any]]:
        """What was done to a device, newest first."""
        return self.items(f"/devices/{quoted(device)}/log")

    def tag_device(
        self, device: str, tags: Mapping[str, str | None], why: str = "", if_match: str | None = None
    ) -> dict[str, Any]:
        """Change tags of a device, None removes one; if it is still as its ``etag`` was when it was read.

        Raises:
            FleetError: ``device.conflict``: it has changed since.
        """
        return dict(self._change(f"/devices/{quoted(device)}", {"tags": dict(tags), "why": why}, if_match))

    def edit_devices(self, q: str, **change: Any) -> dict[str, Any]:
        """Change every device that a query means: ``tags``, ``action``, ``why``, ``dry``, ``expected``."""
        return dict(self._post("/device-edits", {"q": q, **change}))

    def move_device(self, device: str, action: str, why: str = "", if_match: str | None = None) -> dict[str, Any]:
        """``quarantine``, ``reinstate``, ``revoke`` or ``retire`` a device."""
        return dict(self._change(f"/devices/{quoted(device)}/{action}", {"why": why}, if_match, "POST"))

    def revoke(self, device: str) -> dict[str, Any]:
        """Revoke a device: from now on it is refused everywhere."""
        return self.move_device(device, "revoke")

    def forget(self, device: str) -> None:
        """Remove a device, so that its id can be enrolled again. Its records stay."""
        self._send("POST", f"{PREFIX}/devices/{quoted(device)}/forget")
