"""A small TUF repository with a director key that signs assignments, made with python-tuf's Metadata API."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import UNSET, UnsetType
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from wheeltapper_protocols.wire.assignment import (
    PAYLOAD_TYPE,
    Assignment,
    ExecutionOrder,
    PipelineTarget,
    encode_assignment,
)
from wheeltapper_protocols.wire.ids import manifest_path


class Repository:
    """The roles root, targets, bearing (the model's team), director, snapshot and timestamp, each with one key."""

    def __init__(self) -> None:
        names = ("root", "targets", "snapshot", "timestamp", "bearing", "director")
        self.signers: dict[str, CryptoSigner] = {name: CryptoSigner.generate_ed25519() for name in names}
        self.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        self.timestamp_expires = self.expires
        self.version = 0
        self.team: dict[str, TargetFile] = {}
        self.metadata: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.root = self._root(1)
        self.sign()

    def _root(self, version: int) -> bytes:
        root = Root(version=version, expires=self.expires, consistent_snapshot=True)
        for name in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(self.signers[name].public_key, name)
        self.metadata[f"{version}.root.json"] = self._signed(root, "root")
        return self.metadata[f"{version}.root.json"]

    def rotate(self, version: int) -> None:
        """Write root ``version`` with new keys for all other roles, whose versions start again."""
        for name in ("targets", "snapshot", "timestamp"):
            self.signers[name] = CryptoSigner.generate_ed25519()
        self._root(version)
        self.version = 0
        self.sign()

    def _signed(self, signed: Any, role: str) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(self.signers[role])
        return metadata.to_bytes()

    def sign(self) -> None:
        """Write a new version of all metadata but root."""
        self.version += 1
        version = self.version
        team, director = self.signers["bearing"].public_key, self.signers["director"].public_key
        targets = Targets(version=version, expires=self.expires)
        targets.delegations = Delegations(
            keys={team.keyid: team, director.keyid: director},
            roles={
                "bearing": DelegatedRole("bearing", [team.keyid], 1, True, paths=["releases/bearing/*/*"]),
                "director": DelegatedRole("director", [director.keyid], 1, True, paths=["assignments/*"]),
            },
        )
        bearing = Targets(version=version, expires=self.expires, targets=dict(self.team))
        snapshot = Snapshot(version=version, expires=self.expires)
        for name in ("targets", "bearing"):
            snapshot.meta[f"{name}.json"] = MetaFile(version=version)
        timestamp = Timestamp(version=version, expires=self.timestamp_expires, snapshot_meta=MetaFile(version=version))
        self.metadata[f"{version}.targets.json"] = self._signed(targets, "targets")
        self.metadata[f"{version}.bearing.json"] = self._signed(bearing, "bearing")
        self.metadata[f"{version}.snapshot.json"] = self._signed(snapshot, "snapshot")
        self.metadata["timestamp.json"] = self._signed(timestamp, "timestamp")

    def publish(self, release: int, files: dict[str, bytes]) -> PipelineTarget:
        """Store a bundle's files as blobs and add its manifest to the team's targets; returns its target."""
        for content in files.values():
            self.blobs[hashlib.sha256(content).hexdigest()] = content
        manifest = files["manifest.json"]
        path = manifest_path("bearing", release)
        self.team[path] = TargetFile.from_data(path, manifest, ["sha256"])
        self.sign()
        digest = hashlib.sha256(manifest).hexdigest()
        return PipelineTarget(model="bearing", release=release, path=path, length=len(manifest), sha256=digest)

    def assign(
        self,
        target: PipelineTarget,
        counter: int,
        key: CryptoSigner | None = None,
        execution: str = "",
        deadline: float | UnsetType = UNSET,
        **changes: Any,
    ) -> bytes:
        """A signed assignment of ``target`` to the pipeline ``main`` of ``device-1``, as an envelope.

        Args:
            target: the release.
            counter: of the assignment; its one execution, for every pipeline that has a target, is ``e<counter>``.
            key: who signs; None: the director.
            execution: another id of that execution.
            deadline: of that execution.
            changes: other fields of the assignment, also ``pipelines`` and ``executions``.
        """
        now = time.time()
        pipelines: dict[str, PipelineTarget | None] = changes.pop("pipelines", {"main": target})
        order = ExecutionOrder(
            execution=execution or f"e{counter}", campaign="c1", pipelines=list(pipelines), deadline=deadline
        )
        fields: dict[str, Any] = {
            "device": "device-1",
            "counter": counter,
            "issued_at": now,
            "expires_at": now + 600,
            "pipelines": pipelines,
            "executions": [order],
        }
        envelope = Envelope(encode_assignment(Assignment(**(fields | changes))), PAYLOAD_TYPE, {})
        envelope.sign(key or self.signers["director"])
        return json.dumps(envelope.to_dict()).encode()
