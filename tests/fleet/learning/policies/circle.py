"""The fleet around a policy, without processes: a real database, store of datasets and blobs; devices that drift."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Engine, Row, Select, insert, select

from tests.fleet.learning.rig import coming, vibration
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import PASSED
from wheeltapper_fleet import tables
from wheeltapper_fleet.campaigns.service import abort_campaign
from wheeltapper_fleet.captures.rules import Capture
from wheeltapper_fleet.captures.store import insert_capture
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_fleet.learning.candidates.service import approve_candidate, reject_candidate
from wheeltapper_fleet.learning.candidates.views import list_candidates
from wheeltapper_fleet.learning.datasets.importing import import_version
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.policies.acting import Acting
from wheeltapper_fleet.learning.policies.engine import PolicyEngine
from wheeltapper_fleet.learning.policies.schemas import PolicyDetail, PolicyEventView
from wheeltapper_fleet.learning.policies.service import apply_policy
from wheeltapper_fleet.learning.policies.views import get_policy, list_events
from wheeltapper_fleet.learning.runs.rules import Outcome, State
from wheeltapper_fleet.learning.runs.service import claim_run, finish_run
from wheeltapper_fleet.notify.occurrence import Occurrence
from wheeltapper_fleet.registry.aliases import set_alias
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_protocols.drift.drift import fit_drift_spec
from wheeltapper_protocols.drift.sketch import Bins, encode_sketches
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest, encode_manifest
from wheeltapper_protocols.signal.recording import recording_bytes
from wheeltapper_protocols.wire.messages import DriftReport, Report

MODEL = "fan-anomaly"
POLICY = """
name = "fan-speed"
model = "fan-anomaly"
look_seconds = 10
cool_down_seconds = 1000

[when.drift]
devices = 0.5
windows = 50

[captures]
devices = 2
snapshots = 6
at_least = 2
within_seconds = 600

[dataset]
name = "fans"

[run]
recipe = "anomaly"
parameters = { healthy_fraction = 1.0 }

[campaign]
execution_deadline_seconds = 100

[budget]
runs = 2
campaigns = 2
"""
TRAINED = np.random.default_rng(0).normal(1.0, 0.5, (1000, 1)).astype(np.float32)
SCORES = np.random.default_rng(1).normal(0.3, 0.05, 1000)


class Circle:
    """The fleet around a policy. ``now`` is set by tests."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.now = 1.7e9
        self.blobs = BlobStore(folder / "blobs")
        self.datasets = DatasetStore(folder / "datasets")
        self.recordings = folder / "captures"
        self.recordings.mkdir(exist_ok=True)
        self.told: list[Occurrence] = []
        self.seq = 0
        self.again()

    def again(self) -> None:
        """The process that leads is another one from now on."""
        acting = Acting(self.engine, lambda: self.datasets, self.recordings)
        self.policies = PolicyEngine(acting, lambda _, occurrences: self.told.extend(occurrences))

    def begin(self, devices: Sequence[str] = ("fan-1", "fan-2", "fan-3"), text: str = POLICY) -> None:
        """Devices that run release 1, the champion, which was trained on a dataset; and the policy."""
        for device in devices:
            row: dict[str, Any] = {"id": device, "tags": {}, "enrolled_at": 0.0}
            row |= {"certificate_sha256": "0" * 64, "certificate_expires_at": 1e12}
            with self.engine.begin() as connection:
                connection.execute(insert(tables.devices).values(row))
                row = {"device": device, "pipeline": "main", "model": MODEL, "release": 1}
                connection.execute(insert(tables.device_pipelines).values(row))
        import_version(self.datasets, "fans", [coming(vibration(1), "fan-1")])
        self.publish(1, self.bundle(1))
        set_alias(self.engine, MODEL, "champion", 1, who="ann", why="", now=self.now)
        apply_policy(self.engine, text, who="ann", now=self.now)

    def bundle(self, number: int) -> str:
        """A small bundle in the blob store, with a reference of drift; the SHA-256 of its manifest."""
        folder = self.folder / f"bundle-{number}"
        write_bundle(folder, MODEL, number, (PASSED,))
        file = folder / "manifest.json"
        manifest = msgspec.structs.replace(decode_manifest(file.read_bytes()), drift=fit_drift_spec(TRAINED, SCORES))
        file.write_bytes(encode_manifest(manifest))
        for each in folder.iterdir():
            self.blobs.put_bytes(each.read_bytes())
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def manifest(self, sha256: str) -> Manifest:
        return decode_manifest(self.blobs.path(sha256).read_bytes())

    def publish(self, number: int, sha256: str, **lineage: str) -> None:
        """Have a bundle be a release, as the registry would."""
        made = msgspec.structs.replace(self.manifest(sha256), release=number, lineage=lineage)
        content = encode_manifest(made)
        blob = self.blobs.put_bytes(content)
        row = {"model": MODEL, "release": number, "path": f"releases/{MODEL}/{number}/manifest.json"}
        row |= {"sha256": blob.sha256, "length": blob.length, "manifest": msgspec.json.decode(content)}
        with self.engine.begin() as connection:
            connection.execute(insert(tables.releases).values(**row, published_at=self.now, published_by="ann"))

    def report(self, device: str, shift: float, windows: int = 200, release: int = 1) -> None:
        """A device reports the features of some windows; in training their mean was 1."""
        with reading(self.engine) as connection:
            query = select(tables.releases.c.manifest).where(tables.releases.c.release == release)
            stored = connection.execute(query).scalar_one()
        drift = decode_manifest(msgspec.json.encode(stored)).drift
        assert drift is not None
        values = (np.random.default_rng(self.seq).normal(1.0, 0.5, (windows, 1)) + shift).astype(np.float32)
        features = Bins([one.edges for one in drift.features]).sketch(values)
        scores = np.random.default_rng(self.seq).normal(0.3, 0.05, (windows, 1))
        score = Bins([drift.score.edges]).sketch(scores)
        self.seq += 1
        body = DriftReport(
            pipeline="main",
            model=MODEL,
            release=release,
            why="period",
            first_window=0,
            last_window=windows - 1,
            first_t_s=0.0,
            last_t_s=1.0,
            windows=windows,
            unscored=0,
            sketches=encode_sketches(features),
            score=encode_sketches(score),
        )
        report = Report(epoch="0123456789abcdef", oldest=1, seq=self.seq, at=self.now, body=body)
        with self.engine.begin() as connection:
            apply_batch(connection, [DeviceMessage(device, report)], [], self.now)

    def turn(self, seconds: float = 0.0) -> PolicyDetail:
        """Let time pass, and the engine take its steps; gives the policy."""
        self.now += seconds
        self.policies.turn(self.now)
        return get_policy(self.engine, "fan-speed")

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """What a query gives."""
        with reading(self.engine) as connection:
            return connection.execute(query).all()

    def asked(self) -> dict[str, str]:
        """The device of each command."""
        return {row.id: row.device for row in self.rows(select(tables.commands.c.id, tables.commands.c.device))}

    def record(self, command: str, device: str, seed: int) -> None:
        """A device answers a command with a recording."""
        content = recording_bytes(vibration(seed))
        sha256 = hashlib.sha256(content).hexdigest()
        (self.recordings / f"{sha256}.npz").write_bytes(content)
        with self.engine.begin() as connection:
            insert_capture(connection, Capture(command, device, "main", sha256, len(content), 6, self.now))

    def record_all(self) -> None:
        for number, (command, device) in enumerate(sorted(self.asked().items())):
            self.record(command, device, 100 + number)

    def train(self, number: int, error: str = "") -> str:
        """A trainer takes the queued run, and it succeeds, or fails with ``error``; gives the run."""
        run = claim_run(self.engine, "bench", now=self.now)
        assert run is not None
        if error:
            outcome = Outcome(state=State.FAILED, error_code=error, error_detail="the gate auroc is 0.5")
        else:
            outcome = Outcome(state=State.SUCCEEDED, result=self.bundle(number))
        finish_run(self.engine, self.blobs, run.id, run.attempt, outcome, now=self.now)
        return run.id

    def candidate(self) -> str:
        """The candidate that waits."""
        [found] = list_candidates(self.engine, state="WAITING").items
        return found.id

    def approve(self, number: int) -> None:
        """A person signs the candidate as a release."""
        [waiting] = list_candidates(self.engine, state="WAITING").items
        self.publish(number, waiting.sha256, candidate=waiting.id, dataset=waiting.dataset)
        approve_candidate(self.engine, self.blobs, waiting.id, number, who="bob", why="", now=self.now)

    def reject(self) -> None:
        reject_candidate(self.engine, self.candidate(), who="bob", why="not on my watch", now=self.now)

    def end_campaign(self, campaign: str, *, good: bool = True) -> None:
        """All of a campaign's devices have committed; or a person calls it off."""
        with self.engine.begin() as connection:
            table = tables.campaigns
            if good:
                connection.execute(table.update().where(table.c.id == campaign).values(state="COMPLETED"))
                return
            version = connection.execute(select(table.c.version).where(table.c.id == campaign)).scalar_one()
        abort_campaign(self.engine, campaign, version=version, who="bob", now=self.now, reason="it burns")

    def events(self) -> list[PolicyEventView]:
        """Everything that happened, oldest first."""
        return list_events(self.engine, "fan-speed", limit=1000).items[::-1]

    def to_approval(self) -> None:
        """Drift, recordings, a run that succeeds."""
        for device in ("fan-1", "fan-2"):
            self.report(device, 2.0)
        self.turn(11)
        self.record_all()
        self.turn(5)
        self.train(2)
        self.turn(5)
