"""Alerts as the ingest stores them, and triage with a clock that stands still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, insert

from wheeltapper_fleet.alerts.intake import Triage
from wheeltapper_fleet.alerts.schemas import CaseView
from wheeltapper_fleet.alerts.service import Cases
from wheeltapper_fleet.alerts.store import store_alerts
from wheeltapper_fleet.alerts.views import list_cases
from wheeltapper_fleet.assets.schemas import ImportedAsset
from wheeltapper_fleet.assets.service import import_assets
from wheeltapper_fleet.notify.occurrence import Occurrence
from wheeltapper_fleet.tables import releases
from wheeltapper_protocols.wire.messages import Alert, Reason, Severity

EPOCH = "00112233445566aa"
TREE: list[dict[str, Any]] = [
    {"id": "works", "kind": "site"},
    {"id": "press", "kind": "machine", "parent": "works"},
    {"id": "front", "kind": "point", "parent": "press", "mapping": {"device": "gw-1", "channel": "x"}},
    {"id": "rear", "kind": "point", "parent": "press", "mapping": {"device": "gw-1", "channel": "y"}},
    {"id": "fan", "kind": "machine", "parent": "works", "criticality": "high"},
    {"id": "hub", "kind": "point", "parent": "fan", "mapping": {"device": "gw-2"}},
]


class Works:
    """Two machines, alerts of their gateways, and what was told."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.told: list[Occurrence] = []
        self.triage = Triage(engine, self._announce)
        self.cases = Cases(engine, self._announce)
        self._seq = 0
        import_assets(engine, [ImportedAsset.model_validate(each) for each in TREE], False, 0.0)

    def _announce(self, connection: Connection, occurrences: Sequence[Occurrence]) -> None:
        self.told += occurrences

    def alert(
        self, at: float, device: str = "gw-1", *, moved: str = "x.rms", now: float | None = None, **changes: Any
    ) -> None:
        """Store an alert that happened at ``at`` and came at ``now``."""
        self._seq += 1
        fields: dict[str, Any] = {"epoch": EPOCH, "oldest": 1, "seq": self._seq, "pipeline": "main", "window": 1}
        fields |= {"t_s": at, "at": at, "model": "m", "release": 1, "score": 2.0, "severity": Severity.WARNING}
        fields |= {"reasons": [Reason(feature=moved, value=2.0, usual=1.0, share=1.0)]}
        message = Alert(**{**fields, **changes})
        with self.engine.begin() as connection:
            store_alerts(connection, [(device, message)], at if now is None else now)

    def turn(self, now: float) -> None:
        """Triage until there is nothing more to do."""
        while self.triage.turn(now):
            pass
        self.triage.turn(now)

    def open(self) -> list[CaseView]:
        return list_cases(self.engine).items

    def all(self) -> list[CaseView]:
        return list_cases(self.engine, newest=True).items[::-1]

    def publish(self, release: int, at: float) -> None:
        """A release as the registry has it."""
        row = {"model": "m", "release": release, "path": "p", "sha256": "0" * 64, "length": 1, "manifest": {}}
        with self.engine.begin() as connection:
            connection.execute(insert(releases).values(**row, published_at=at, published_by="ann"))
