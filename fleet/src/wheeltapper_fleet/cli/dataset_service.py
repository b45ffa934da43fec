"""What the commands of datasets take from a fleet: recordings, history, and which releases were trained on what."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheeltapper_fleet.cli.support import DATA_DIR

if TYPE_CHECKING:
    from wheeltapper_fleet.client.fleet_client import FleetClient
    from wheeltapper_fleet.learning.datasets.importing import Incoming
    from wheeltapper_fleet.learning.datasets.store import DatasetStore
    from wheeltapper_protocols.signal.recording import Recording

__all__ = ["captures_of", "history_of", "show_trained"]


def captures_of(
    client: FleetClient, store: DatasetStore, query: str, pipeline: str | None, days: float | None
) -> Iterator[Incoming]:
    """The recordings of the devices that ``query`` means, as a source of a dataset."""
    from wheeltapper_fleet.learning.datasets.from_captures import coming_captures
    from wheeltapper_fleet.learning.schemas import CaptureForDataset

    asked: dict[str, Any] = {"q": query or None, "pipeline": pipeline}
    asked["since"] = None if days is None else max(0.0, time.time() - days * 86_400.0)
    pages = client.items("/dataset-captures", {name: value for name, value in asked.items() if value is not None})

    def fetch(command: str) -> Recording:
        from wheeltapper_protocols.signal.recording import read_recording

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "capture.npz"
            client.fetch_capture(command, path)
            return read_recording(path)

    return coming_captures(store, (CaptureForDataset(**each) for each in pages), fetch)


@contextmanager
def history_of(config: Path, devices: Sequence[str], days: float | None) -> Iterator[Iterator[Incoming]]:
    """The records of some devices in the history that a configuration names, as a source of a dataset."""
    from wheeltapper_fleet.cli.history import opened_history
    from wheeltapper_fleet.learning.datasets.from_history import coming_history

    since = None if days is None else time.time() - days * 86_400.0
    with opened_history(config) as (engine, place):
        yield coming_history(engine, place, devices, since)


def show_trained(
    versions: Sequence[str], url: str | None, token_file: Path | None, data_dir: Path | None
) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
    """The releases and the runs that were trained on some versions; None where no service is named and none runs
    here."""
    import os

    from wheeltapper_fleet.cli.support import open_client
    from wheeltapper_fleet.learning.datasets.manifest import parse_ref

    named = url or os.environ.get("WHEELTAPPER_URL") or data_dir
    if not named and not (Path(DATA_DIR) / "serve.json").is_file():
        return None, None
    found: list[dict[str, Any]] = []
    ran: list[dict[str, Any]] = []
    with open_client(url, token_file, data_dir) as client:
        for version in versions:
            name, number = parse_ref(version)
            found += client.items(f"/datasets/{name}/releases", {"version": number})
            ran += client.items("/runs", {"dataset": version})
    return found, ran
