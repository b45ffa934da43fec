"""Calls about lineage: from an alert back to recordings, and from a recording forward to every device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wheeltapper_fleet.client.requests import Requests, quoted

__all__ = ["LineageCalls"]


class LineageCalls(Requests):
    """One method for each route of lineage."""

    def alert_lineage(self, alert: int) -> dict[str, Any]:
        """The machine and the release that raised an alert, and what that was trained on."""
        return dict(self._get(f"/lineage/alerts/{alert}"))

    def release_lineage(self, model: str, release: int) -> dict[str, Any]:
        """Where a release came from."""
        return dict(self._get(f"/lineage/releases/{quoted(model)}/{release}"))

    def release_devices(self, model: str, release: int) -> Iterator[dict[str, Any]]:
        """The devices that run or ran a release, page after page."""
        return self.items(f"/lineage/releases/{quoted(model)}/{release}/devices")

    def release_recordings(self, model: str, release: int) -> Iterator[dict[str, Any]]:
        """The recordings that a release was trained or judged on, page after page."""
        return self.items(f"/lineage/releases/{quoted(model)}/{release}/recordings")

    def recording_lineage(self, sha256: str) -> dict[str, Any]:
        """Where a recording came from, and which versions of datasets hold it."""
        return dict(self._get(f"/lineage/recordings/{quoted(sha256)}"))

    def recording_releases(self, sha256: str) -> Iterator[dict[str, Any]]:
        """The releases that were trained on a recording, page after page."""
        return self.items(f"/lineage/recordings/{quoted(sha256)}/releases")

    def recording_runs(self, sha256: str) -> Iterator[dict[str, Any]]:
        """The runs on a version that holds a recording, newest first, page after page."""
        return self.items(f"/lineage/recordings/{quoted(sha256)}/runs")

    def run_lineage(self, run: str) -> dict[str, Any]:
        """A run with its data and its cause, and what became of its bundle."""
        return dict(self._get(f"/lineage/runs/{quoted(run)}"))

    def recording_devices(self, sha256: str) -> Iterator[dict[str, Any]]:
        """The devices that run or ran a release which was trained on a recording, page after page."""
        return self.items(f"/lineage/recordings/{quoted(sha256)}/devices")
