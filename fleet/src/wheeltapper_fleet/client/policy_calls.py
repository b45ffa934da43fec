"""Calls about policies and candidates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.client.requests import Requests, quoted
from wheeltapper_fleet.ground.errors import FleetError

__all__ = [
    "act_on_policy",
    "apply_policy",
    "candidate",
    "candidates",
    "event_causes",
    "policies",
    "policy",
    "policy_events",
    "publish_candidate",
    "reject_candidate",
]


def apply_policy(client: Requests, text: str) -> dict[str, Any]:
    """Take a policy's file."""
    return dict(client.call("POST", "/policies", {"text": text}))


def policies(client: Requests, model: str | None = None) -> list[dict[str, Any]]:
    """The policies of a model, or all, by name."""
    return list(client.items("/policies", {} if model is None else {"model": model}))


def policy(client: Requests, name: str) -> dict[str, Any]:
    """One policy, and where it is."""
    return dict(client.call("GET", f"/policies/{quoted(name)}"))


def policy_events(client: Requests, name: str, limit: int, cycle: int | None = None) -> list[dict[str, Any]]:
    """The newest things that happened to a policy; ``limit`` of them at most."""
    found: Iterator[dict[str, Any]] = client.items(
        f"/policies/{quoted(name)}/events", {} if cycle is None else {"cycle": cycle}
    )
    return list(itertools.islice(found, limit))


def event_causes(client: Requests, name: str, event: int) -> list[dict[str, Any]]:
    """An event and its causes, one after the other."""
    return list(client.call("GET", f"/policies/{quoted(name)}/events/{event}/causes")["chain"])


def act_on_policy(client: Requests, name: str, action: str, why: str = "") -> dict[str, Any]:
    """``pause``, ``resume`` or ``remove`` a policy; what it is then, nothing where it was removed."""
    return dict(client.call("POST", f"/policies/{quoted(name)}/{action}", {"why": why}) or {})


def candidates(client: Requests, state: str | None = None, model: str | None = None) -> list[dict[str, Any]]:
    """Candidates, newest first."""
    asked = {name: value for name, value in (("state", state), ("model", model)) if value is not None}
    return list(client.items("/candidates", asked))


def candidate(client: Requests, name: str) -> dict[str, Any]:
    """One candidate, with what its run measured."""
    return dict(client.call("GET", f"/candidates/{quoted(name)}"))


def reject_candidate(client: Requests, name: str, why: str = "") -> dict[str, Any]:
    """Reject a candidate."""
    return dict(client.call("POST", f"/candidates/{quoted(name)}/reject", {"why": why}))


def publish_candidate(
    client: FleetClient,
    name: str,
    key: str,
    folder: Path,
    *,
    test: Callable[[Path], object],
    rollback_floor: int | None = None,
    why: str = "",
) -> dict[str, Any]:
    """Approve a candidate: fetch its bundle, test it, sign it here, publish it, and say so.

    Where an approval was broken off after the release was published, that release is taken.

    Args:
        client: of the service.
        name: the candidate.
        key: the team's key, a PEM file or a securesystemslib URI. It is not sent anywhere.
        folder: where the bundle is put; it must not be there.
        test: raises where the bundle must not be signed.
        rollback_floor: devices that commit this release never run an older one than this again.
        why: the reason, for the record.

    Returns:
        The candidate.

    Raises:
        FleetError: ``candidate.*``, ``run.*``, ``release.*``, ``keys.*``, ``tuf.*``, and what ``test`` raises.
    """
    found = candidate(client, name)
    if found["state"] != "WAITING":
        raise FleetError("candidate.decided", f"{name} is {found['state']}; nothing can be changed of it", 409)
    release = found["published"]
    if release is None:
        client.fetch_run_bundle(found["run"], folder)
        _check_manifest(folder, found["sha256"])
        test(folder)
        _add_lineage(folder, found)
        release = client.publish_bundle(folder, key, rollback_floor)["release"]
    body = {"release": release, "why": why}
    return dict(client.call("POST", f"/candidates/{quoted(name)}/approve", body))


def _check_manifest(folder: Path, sha256: str) -> None:
    """Refuse a manifest that is not the one that was looked at."""
    import hashlib

    from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE

    if hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest() != sha256:
        raise FleetError("candidate.damaged", "the bundle is not the one that the candidate names; fetch it again", 502)


def _add_lineage(folder: Path, found: dict[str, Any]) -> None:
    """Have the manifest say which candidate it was, and which policy asked for it."""
    import msgspec

    from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, decode_manifest, encode_manifest

    file = folder / MANIFEST_FILE
    manifest = decode_manifest(file.read_bytes())
    known = {"candidate": found["id"], "run": found["run"]}
    if found["policy"]:
        known |= {"policy": found["policy"], "policy_cycle": str(found["cycle"])}
    file.write_bytes(encode_manifest(msgspec.structs.replace(manifest, lineage={**manifest.lineage, **known})))
