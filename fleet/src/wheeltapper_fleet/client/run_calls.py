"""Calls about runs: queue, watch, cancel; what a trainer says; the bundles and plots that they made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from wheeltapper_fleet.client.bundles import fetch_bundle
from wheeltapper_fleet.client.requests import PREFIX, Requests, quoted
from wheeltapper_fleet.ground.paging import MAX_LIMIT

__all__ = ["RunCalls"]


class RunCalls(Requests):
    """One method for each route of runs."""

    def queue_run(self, recipe: str, seed: int | None = None, against: str | None = None) -> dict[str, Any]:
        """Queue a run of a recipe file's text; ``seed`` counts more than the file's, and so does ``against``, an alias
        or the number of a release."""
        return dict(self._post("/runs", {"recipe": recipe, "seed": seed, "against": against}))

    def runs(self, limit: int = 100, **query: Any) -> list[dict[str, Any]]:
        """The newest ``limit`` runs.

        Args:
            limit: how many.
            query: ``state``, ``model``, ``cause_kind`` with ``cause_id``, ``dataset`` (``NAME@VERSION``).
        """
        return list(islice(self.items("/runs", {"limit": min(limit, MAX_LIMIT), **query}), limit))

    def run(self, run: str) -> dict[str, Any]:
        """One run, with everything that is recorded of it."""
        return dict(self._get(f"/runs/{quoted(run)}"))

    def cancel_run(self, run: str) -> dict[str, Any]:
        """Cancel a run that has not ended."""
        return dict(self._post(f"/runs/{quoted(run)}/cancel", None))

    def make_candidate(self, run: str) -> dict[str, Any]:
        """Let the bundle of a run wait for an approval; gives the candidate."""
        return dict(self._post(f"/runs/{quoted(run)}/candidate", None))

    def claim_run(self, trainer: str, recipes: Sequence[str] | None = None) -> dict[str, Any]:
        """Take the oldest queued run: ``run`` (None: there is none) and ``datasets_url``."""
        body = {"trainer": trainer} | ({} if recipes is None else {"recipes": [*recipes]})
        return dict(self._post("/run-claims", body))

    def report_progress(self, run: str, attempt: int, progress: float | None, text: str) -> None:
        """Say that an execution goes on; ``run.lost``: it is to end."""
        body = {"attempt": attempt, "progress": progress, "text": text}
        self._send("POST", f"{PREFIX}/runs/{quoted(run)}/progress", json=body)

    def put_run_file(self, run: str, attempt: int, sha256: str, content: bytes | IO[bytes]) -> None:
        """Upload a file that an execution made; its content must hash to ``sha256``."""
        path = f"{PREFIX}/runs/{quoted(run)}/files/{quoted(sha256)}"
        self._send("PUT", path, params={"attempt": attempt}, content=content)

    def finish_run(self, run: str, attempt: int, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """End an execution; ``outcome`` holds what :class:`~wheeltapper_fleet.learning.runs.rules.Outcome` does."""
        return dict(self._post(f"/runs/{quoted(run)}/finish", {**outcome, "attempt": attempt}))

    def run_plot(self, run: str, plot: str) -> bytes:
        """A plot of a run, as SVG."""
        return self._send("GET", f"{PREFIX}/runs/{quoted(run)}/plots/{quoted(plot)}").content

    def fetch_run_bundle(self, run: str, out: Path) -> None:
        """Fetch the bundle that a run made into the folder ``out``, which is made and must not be there.

        Raises:
            FleetError: ``run.no_bundle``, ``run.out_exists``; ``run.damaged``: a file is not what the run says.
        """
        path = f"{PREFIX}/runs/{quoted(run)}/bundle/"
        result = self.run(run)["result"]
        fetch_bundle(lambda name: self._send("GET", path + quoted(name)).content, result, out, run, "run")
