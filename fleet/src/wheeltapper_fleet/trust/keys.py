"""Creates and loads the keys of the TUF roles, and creates the first metadata (``wheeltapper keys init``).

Roles: ``root`` and ``targets`` (offline, several keys each), one team role per model (offline, ``team-<model>``), and
the online roles ``snapshot``, ``timestamp`` and ``director``.

Invariants:
    * Offline keys go to ``keys_dir``, online keys to ``data_dir/keys``; the service never needs ``keys_dir``.
    * A key file is Ed25519 in PKCS#8 PEM. It has mode 0600 from the moment it exists, in a folder of mode 0700.
    * No key is ever overwritten.
    * When :func:`init_keys` returns, ``data_dir/tuf`` holds a repository without releases that a TUF client accepts.

What this module does not do: sign again later, or add a model later (:mod:`ceremony`). A key may also be in an HSM or
KMS, by its securesystemslib URI: see :func:`load_signer`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import Error as SecuresystemslibError
from securesystemslib.signer import CryptoSigner, Key, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_protocols.wire.ids import name as valid_name

__all__ = [
    "DIRECTOR",
    "Lifetimes",
    "check_models",
    "delegate",
    "expiry",
    "init_keys",
    "load_signer",
    "meta_file",
    "new_key",
    "online_key",
    "sign",
    "team_key",
    "tuf_folder",
]

DIRECTOR: Final = "director"
_RESERVED: Final = frozenset({"root", "targets", "snapshot", "timestamp", DIRECTOR})
_ONLINE: Final = ("snapshot", "timestamp", DIRECTOR)
_DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class Lifetimes:
    """How long newly signed metadata is valid, per role. Offline roles are long-lived, online roles short-lived."""

    root_seconds: float = 365 * _DAY_SECONDS
    targets_seconds: float = 365 * _DAY_SECONDS
    snapshot_seconds: float = 7 * _DAY_SECONDS
    timestamp_seconds: float = 1 * _DAY_SECONDS


def tuf_folder(data_dir: Path) -> Path:
    """The folder with the TUF metadata that devices fetch."""
    return data_dir / "tuf"


def online_key(data_dir: Path, role: str) -> Path:
    """Path of an online role's key."""
    return data_dir / "keys" / f"{role}.pem"


def team_key(keys_dir: Path, model: str) -> Path:
    """Path of a model team's key."""
    return keys_dir / f"team-{valid_name(model, 'model name')}.pem"


def expiry(now: float, lifetime_seconds: float) -> datetime.datetime:
    """The expiry date of metadata signed at ``now``, in whole seconds as the TUF specification asks."""
    return datetime.datetime.fromtimestamp(int(now + lifetime_seconds), datetime.UTC)


def meta_file(version: int, content: bytes) -> MetaFile:
    """The entry by which snapshot or timestamp refers to a metadata file: version, length and SHA-256."""
    return MetaFile.from_data(version, content, ["sha256"])


def load_signer(where: Path | str, public_keys: Iterable[Key] = ()) -> Signer:
    """Load a signer from a PEM file, or from a securesystemslib URI (``file2:…``, ``hsm:…``, ``awskms:…``).

    Args:
        where: a path, or a URI with a scheme.
        public_keys: needed for a URI only: the keys that may sign for the role. The one that matches is used.

    Raises:
        FleetError: ``keys.missing``, ``keys.unreadable``.
    """
    if isinstance(where, str) and ":" in where:
        return _signer_of_uri(where, public_keys)
    try:
        content = Path(where).read_bytes()
    except OSError as error:
        raise FleetError(
            "keys.missing",
            f"cannot read the key {where}: mount the folder with the key, or for a new fleet make it with "
            "`wheeltapper keys init --keys-dir …`",
        ) from error
    try:
        return CryptoSigner(load_pem_private_key(content, password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FleetError("keys.unreadable", f"{where} is not an unencrypted PKCS#8 PEM key") from error


def _signer_of_uri(uri: str, public_keys: Iterable[Key]) -> Signer:
    failure: Exception | None = None
    for key in public_keys:
        try:
            return Signer.from_priv_key_uri(uri, key)
        except (SecuresystemslibError, ValueError, OSError) as error:
            failure = error
    scheme = uri.partition(":")[0]
    raise FleetError(
        "keys.unreadable", f"the {scheme} signer holds none of this role's keys; check the URI"
    ) from failure


@dataclass(frozen=True)
class _Signers:
    """The signers of every role."""

    root: tuple[CryptoSigner, ...]
    targets: tuple[CryptoSigner, ...]
    teams: dict[str, CryptoSigner]
    online: dict[str, CryptoSigner]


def init_keys(
    keys_dir: Path,
    data_dir: Path,
    models: Sequence[str],
    threshold: int = 2,
    *,
    lifetimes: Lifetimes | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Create every key, the CA, and the first metadata.

    Args:
        keys_dir: receives the offline keys; keep it away from the machine that runs the service.
        data_dir: the service's data folder; receives the online keys, the CA and the metadata.
        models: the models that releases can be published of.
        threshold: how many keys ``root`` and ``targets`` get each; all of them must sign.
        lifetimes: how long the metadata is valid.
        clock: Unix seconds.

    Raises:
        FleetError: ``keys.exists``, ``keys.models``, ``keys.threshold``.
        WireError: ``id.invalid``.
    """
    check_models(models)
    if not 1 <= threshold <= 9:
        raise FleetError("keys.threshold", f"the threshold is {threshold}; choose 1 to 9")
    for folder in (keys_dir, data_dir / "keys", data_dir / "ca", tuf_folder(data_dir)):
        if folder.exists() and any(folder.iterdir()):
            raise FleetError(
                "keys.exists", f"{folder} is not empty and keys are never overwritten; choose another folder"
            )
    files.make_folder(data_dir, private=True)
    files.make_folder(keys_dir, private=True)
    files.make_folder(data_dir / "keys", private=True)
    numbers = range(1, threshold + 1)
    signers = _Signers(
        root=tuple(new_key(keys_dir / f"root-{number}.pem") for number in numbers),
        targets=tuple(new_key(keys_dir / f"targets-{number}.pem") for number in numbers),
        teams={model: new_key(team_key(keys_dir, model)) for model in models},
        online={role: new_key(online_key(data_dir, role)) for role in _ONLINE},
    )
    FleetCA.create(data_dir / "ca", clock)
    _write_first_metadata(tuf_folder(data_dir), signers, lifetimes or Lifetimes(), clock())


def check_models(models: Sequence[str]) -> None:
    """Refuse what cannot be the names of models.

    Raises:
        FleetError: ``keys.models``.
        WireError: ``id.invalid``.
    """
    for model in models:
        if valid_name(model, "model name") in _RESERVED:
            raise FleetError("keys.models", f"{model!r} is the name of a TUF role; give the model another name")
    if not models or len(set(models)) != len(models):
        raise FleetError("keys.models", "name at least one model, and each only once")


def new_key(path: Path) -> CryptoSigner:
    """Make an Ed25519 key in the file ``path``, where there must be none.

    Raises:
        FleetError: ``keys.exists``.
    """
    if path.exists():
        raise FleetError("keys.exists", f"{path} exists and keys are never overwritten; choose another folder")
    signer = CryptoSigner.generate_ed25519()
    files.write_atomic(path, signer.private_bytes, files.PRIVATE)
    return signer


def _write_first_metadata(folder: Path, signers: _Signers, lifetimes: Lifetimes, now: float) -> None:
    files.make_folder(folder)
    offline = expiry(now, lifetimes.targets_seconds)
    documents = {"targets": sign(_first_targets(signers, offline), signers.targets)}
    for model, signer in signers.teams.items():
        documents[model] = sign(Targets(version=1, expires=offline), [signer])
    meta = {f"{role}.json": meta_file(1, content) for role, content in documents.items()}
    snapshot = Snapshot(version=1, expires=expiry(now, lifetimes.snapshot_seconds), meta=meta)
    documents["snapshot"] = sign(snapshot, [signers.online["snapshot"]])
    documents["root"] = sign(_first_root(signers, expiry(now, lifetimes.root_seconds)), signers.root)
    for role, content in documents.items():
        files.write_atomic(folder / f"1.{role}.json", content)
    timestamp = Timestamp(
        version=1,
        expires=expiry(now, lifetimes.timestamp_seconds),
        snapshot_meta=meta_file(1, documents["snapshot"]),
    )
    files.write_atomic(folder / "timestamp.json", sign(timestamp, [signers.online["timestamp"]]))


def _first_root(signers: _Signers, expires: datetime.datetime) -> Root:
    root = Root(version=1, expires=expires, consistent_snapshot=True)
    for role, of_role in (
        ("root", signers.root),
        ("targets", signers.targets),
        ("snapshot", [signers.online["snapshot"]]),
        ("timestamp", [signers.online["timestamp"]]),
    ):
        for signer in of_role:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = len(of_role)
    return root


def _first_targets(signers: _Signers, expires: datetime.datetime) -> Targets:
    keys: dict[str, Key] = {}
    roles: dict[str, DelegatedRole] = {}
    targets = Targets(version=1, expires=expires, delegations=Delegations(keys, roles))
    for model, signer in signers.teams.items():
        delegate(targets, model, signer.public_key)
    director = signers.online[DIRECTOR].public_key
    # The director signs envelopes and has no metadata file. Clients do not look for one, because no release's path
    # matches its pattern.
    roles[DIRECTOR] = DelegatedRole(DIRECTOR, [director.keyid], 1, True, paths=["assignments/*"])
    keys[director.keyid] = director
    return targets


def delegate(targets: Targets, model: str, key: Key) -> None:
    """Let ``key`` sign for the releases of ``model``.

    Args:
        targets: the metadata of the top-level targets role; changed in place, and to be signed.
        model: a model that has no role yet.
        key: its team's public key, which no other role may have: else one team could sign for another.

    Raises:
        FleetError: ``keys.models``.
    """
    delegations = targets.delegations
    if delegations is None or delegations.roles is None or model in delegations.roles:
        raise FleetError("keys.models", f"{model!r} cannot be delegated; it has a role already")
    if key.keyid in delegations.keys:
        raise FleetError("keys.models", f"the key for {model!r} is another role's already; give it one of its own")
    # In TUF a `*` does not match a `/`, so the pattern names every level of a release's path.
    paths = [f"releases/{model}/*/manifest.json"]
    delegations.roles[model] = DelegatedRole(model, [key.keyid], 1, True, paths=paths)
    delegations.keys[key.keyid] = key


def sign(signed: Root | Targets | Snapshot | Timestamp, signers: Sequence[Signer]) -> bytes:
    """Sign a role's metadata with every signer; returns the file's bytes."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()
