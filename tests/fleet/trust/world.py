"""The fleet's parts in a temporary folder (keys, CA, repository, database, services), on a clock that tests set."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import Engine, select

from tests.fleet.trust.bundles import write_bundle
from wheeltapper_fleet.captures.rules import Capture
from wheeltapper_fleet.captures.service import Captures
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.devices.enrolment import Endpoints, Enrolment
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.prepare import prepare_release
from wheeltapper_fleet.registry.releases import Release, Releases
from wheeltapper_fleet.tables import captures
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_fleet.trust.keys import init_keys, load_signer, team_key
from wheeltapper_fleet.trust.repository import Repository, sign_for_team
from wheeltapper_protocols.manifest.manifest import Gate
from wheeltapper_protocols.wire.ids import manifest_path

MODEL = "bearing-anomaly"
PASSED = Gate(name="separation", value=3.0, limit=2.0, passed=True)
FAILED = Gate(name="separation", value=1.0, limit=2.0, passed=False)


class Clock:
    """A clock that stands still until a test changes ``now``."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class World:
    """The fleet's parts, opened from ``folder``, which :meth:`create` fills. Opening it again is a restart."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.clock = clock
        self.keys_dir = folder / "offline"
        self.data_dir = folder / "data"
        self.engine: Engine = open_database(f"sqlite:///{self.data_dir / 'fleet.db'}")
        self.ca = FleetCA(self.data_dir / "ca", clock)
        self.repository = Repository.open(self.data_dir, clock)
        self.blobs = BlobStore(self.data_dir / "blobs")
        self.releases = Releases(self.engine, self.repository, self.blobs, clock)
        self.captures = Captures(self.engine, self.data_dir / "captures", clock, cap_bytes=2_000_000)
        endpoints = Endpoints("127.0.0.1", 8883, "https://127.0.0.1:8443")
        self.enrolment = Enrolment(self.engine, self.ca, self.repository.trusted_root(), endpoints, clock)

    @classmethod
    def create(cls, folder: Path) -> World:
        clock = Clock()
        init_keys(folder / "offline", folder / "data", [MODEL, "pump-anomaly"], clock=clock)
        return cls(folder, clock)

    def restart(self) -> World:
        self.engine.dispose()
        return World(self.folder, self.clock)

    def manifest(self, number: int, gates: tuple[Gate, ...] = (PASSED,), *, upload: bool = True) -> bytes:
        """The manifest of a small bundle whose files are in the blob store."""
        bundle = self.folder / f"bundle-{number}"
        write_bundle(bundle, MODEL, number, gates)
        if upload:
            for file in bundle.iterdir():
                if file.name != "manifest.json":
                    self.blobs.put_bytes(file.read_bytes())
        return prepare_release(bundle, number)

    def signed(self, number: int, manifest: bytes, key: Path | None = None) -> bytes:
        signer = load_signer(key or team_key(self.keys_dir, MODEL))
        current = self.repository.role_metadata(MODEL)
        return sign_for_team(current, manifest_path(MODEL, number), manifest, signer, now=self.clock())

    def stored_captures(self) -> list[Capture]:
        """Every capture in the database, oldest first."""
        with reading(self.engine) as connection:
            rows = connection.execute(select(captures).order_by(captures.c.received_at)).mappings()
            return [Capture(**row) for row in rows]

    def publish(self, number: int) -> Release:
        manifest = self.manifest(number)
        return self.releases.publish(MODEL, manifest, self.signed(number, manifest), "tester")

    def enrol(self, device: str) -> tuple[bytes, bytes]:
        """The certificate and the key (PEM) of a new device."""
        key, csr = make_csr(device)
        answer = self.enrolment.enrol(self.enrolment.create_token(device), csr)
        return answer.certificate.encode(), key


def make_csr(device: str, curve: ec.EllipticCurve | None = None) -> tuple[bytes, bytes]:
    """A key and a CSR (PEM), as a device creates them."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name)
    csr = csr.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, nth: int, *, after: bool) -> Iterator[Callable[[], int]]:
    """Raise :class:`Killed` before or after the nth fsync or rename; gives a function that counts them."""
    count = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth and not after:
                raise Killed
            result = real(*args, **kwargs)
            if count == nth and after:
                raise Killed
            return result

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", wrap(os.fsync))
        patch.setattr(os, "replace", wrap(os.replace))
        yield lambda: count
