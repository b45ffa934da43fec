"""Signs with offline keys after the first day: new lives for the offline roles, and new models.

Runs where both the offline keys and the service's data folder are; the service may run meanwhile, and serves what was
signed from the next request on.

Invariants:
    * Every key is found and every signature made and checked before a file of the repository changes.
    * No key is overwritten or changed; a new one has mode 0600 from the moment it exists.
    * Metadata that have expired are renewed like any other: a device walks from root to root and looks at the expiry of
      the newest only (TUF specification, 5.3).

What this module does not do: change the keys or the threshold of a role.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.keys import (
    DIRECTOR,
    Lifetimes,
    check_models,
    delegate,
    expiry,
    load_signer,
    new_key,
    sign,
    team_key,
)
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["add_model", "renew_roles"]

_ROOT: Final = "root"
_TARGETS: Final = "targets"
_ONLINE: Final = ("snapshot", "timestamp", DIRECTOR)


def renew_roles(
    keys_dir: Path,
    data_dir: Path,
    roles: Collection[str],
    *,
    clock: Callable[[], float],
    lifetimes: Lifetimes | None = None,
) -> list[str]:
    """Sign the next version of offline roles' metadata, valid from now for a whole life.

    Args:
        keys_dir: holds the roles' keys as PEM files; which key is whose is told by the keys, not by the files' names.
        data_dir: the service's data folder.
        roles: ``root``, ``targets`` and names of models; empty for all of them.
        clock: Unix seconds.
        lifetimes: how long the metadata are valid.

    Returns:
        The roles that were renewed.

    Raises:
        FleetError: ``keys.role``, ``keys.missing``, ``tuf.*``.
    """
    life = lifetimes or Lifetimes()
    repository = Repository.open(data_dir, clock, life)
    known = (_ROOT, _TARGETS, *repository.models())
    for role in roles:
        if role not in known:
            reason = "the running service signs it anew by itself" if role in _ONLINE else "there is no such role"
            raise FleetError("keys.role", f"{role[:80]!r}: {reason}; the offline roles are: {', '.join(known)}")
    wanted = [role for role in known if not roles or role in roles]
    signers = _signers(keys_dir)
    root, targets = repository.newest_root().signed, repository.targets()
    documents: dict[str, bytes] = {}
    for role in wanted:
        delegator, signed, seconds = _offline_role(repository, root, targets, role, life)
        found = _of_role(signers, delegator, role, keys_dir)
        signed.version += 1
        signed.expires = expiry(clock(), seconds)
        documents[role] = sign(signed, found)
    repository.install(documents.pop(_ROOT, None), documents.pop(_TARGETS, None), documents)
    return wanted


def add_model(
    keys_dir: Path,
    data_dir: Path,
    model: str,
    *,
    clock: Callable[[], float],
    lifetimes: Lifetimes | None = None,
) -> Path:
    """Let releases be made of one more model: make its team's key, and delegate its releases to it.

    A key ``team-<model>.pem`` that is there already is used and not changed: one that the team made, or that an attempt
    which broke off left.

    Args:
        keys_dir: holds the targets role's keys; receives the team's key.
        data_dir: the service's data folder.
        model: the new model's name.
        clock: Unix seconds.
        lifetimes: how long the metadata are valid.

    Returns:
        Path of the team's key.

    Raises:
        FleetError: ``keys.models``, ``keys.model_exists``, ``keys.missing``, ``keys.unreadable``, ``trust.expired``,
            ``tuf.*``.
        WireError: ``id.invalid``.
    """
    check_models([model])
    life = lifetimes or Lifetimes()
    repository = Repository.open(data_dir, clock, life)
    if model in repository.models():
        raise FleetError("keys.model_exists", f"releases of {model} can be published already; nothing was changed", 409)
    root, targets = repository.newest_root().signed, repository.targets()
    found = _of_role(_signers(keys_dir), root, _TARGETS, keys_dir)
    path = team_key(keys_dir, model)
    signer = load_signer(path) if path.exists() else new_key(path)
    delegate(targets, model, signer.public_key)
    targets.version += 1
    end = expiry(clock(), life.targets_seconds)
    targets.expires = max(targets.expires, end)
    repository.install(None, sign(targets, found), {model: sign(Targets(version=1, expires=end), [signer])})
    return path


def _offline_role(
    repository: Repository, root: Root, targets: Targets, role: str, life: Lifetimes
) -> tuple[Root | Targets, Root | Targets, float]:
    """Who delegates to the role, the role's present metadata, and how many seconds new ones live."""
    if role == _ROOT:
        return root, root, life.root_seconds
    if role == _TARGETS:
        return root, targets, life.targets_seconds
    return targets, Metadata[Targets].from_bytes(repository.role_metadata(role)).signed, life.targets_seconds


def _signers(keys_dir: Path) -> dict[str, Signer]:
    """The signers of the keys in ``keys_dir``, by key id. A file that is no key is not looked at further."""
    found: dict[str, Signer] = {}
    for path in sorted(keys_dir.glob("*.pem")):
        with contextlib.suppress(FleetError):
            signer = load_signer(path)
            found[signer.public_key.keyid] = signer
    return found


def _of_role(signers: Mapping[str, Signer], delegator: Root | Targets, role: str, keys_dir: Path) -> list[Signer]:
    """The signers that may sign for ``role``: at least as many as its threshold.

    Raises:
        FleetError: ``keys.missing``.
    """
    entry = delegator.get_delegated_role(role)
    found = [signers[keyid] for keyid in entry.keyids if keyid in signers]
    if len(found) < entry.threshold:
        raise FleetError(
            "keys.missing",
            f"{role} needs {entry.threshold} of its {len(entry.keyids)} keys and {keys_dir} holds {len(found)}: "
            "mount the folder with the offline keys, or name with --role the roles whose keys it holds",
        )
    return found
