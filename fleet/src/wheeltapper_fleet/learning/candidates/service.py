"""What changes candidates.

Invariants:
    * A candidate is approved only as a release whose signed manifest says what the candidate's says: the same files,
      features, decision and gates; only the number, the rollback floor and the lineage may differ.
    * A candidate is decided once; the same decision again changes nothing.

Example:
    >>> made = add_candidate(connection, run, policy="fan-speed", cycle=3, now=time.time())
    >>> approve_candidate(engine, blobs, made, 7, who="ann", why="seen in hall 3", now=time.time())
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace
from sqlalchemy import Connection, Engine, Row, select, update

from wheeltapper_fleet.db.engine import insert_ignore, reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.candidates.tables import candidates
from wheeltapper_fleet.learning.policies.tables import policies
from wheeltapper_fleet.learning.runs.schemas import RunView
from wheeltapper_fleet.learning.runs.tables import runs
from wheeltapper_fleet.learning.runs.views import detail_of
from wheeltapper_fleet.promotion.service import set_alias
from wheeltapper_fleet.registry.blobs import BlobStore
from wheeltapper_fleet.registry.published import published_release
from wheeltapper_fleet.registry.tables import releases
from wheeltapper_protocols.manifest.manifest import Manifest, decode_manifest

__all__ = ["ALIAS", "add_candidate", "approve_candidate", "candidate_of", "expire_candidate", "reject_candidate"]

ALIAS: Final = "candidate"
"""The alias that names what was approved last."""
_WHO_CHARACTERS: Final = 128
_WHY_CHARACTERS: Final = 500


def add_candidate(connection: Connection, run: RunView, *, policy: str, cycle: int, now: float) -> str:
    """Keep the bundle of a run that succeeded as a candidate; returns its id. Once a run, however often it is called.

    Raises:
        FleetError: ``candidate.no_bundle``.
    """
    if run.result is None:
        raise FleetError("candidate.no_bundle", f"the run {run.id} made no bundle: it is {run.state}", 409)
    candidate = f"k-{run.id.removeprefix('r-')}"
    row: dict[str, Any] = {"id": candidate, "run": run.id, "model": run.model, "sha256": run.result}
    row |= {"dataset": run.dataset, "policy": policy, "cycle": cycle, "made_at": now, "state": "WAITING", "why": ""}
    insert_ignore(connection, candidates, [row])
    return candidate


def candidate_of(engine: Engine, run: str, *, now: float) -> str:
    """Keep the bundle of a run that a person asked for as a candidate; returns its id.

    Raises:
        TrainingError: ``run.not_found``.
        FleetError: ``candidate.no_bundle``; ``candidate.policy``: a policy asked for the run, and makes it itself.
    """
    with engine.begin() as connection:
        row = connection.execute(select(runs).where(runs.c.id == run).with_for_update()).one_or_none()
        if row is None:
            raise FleetError("run.not_found", f"there is no run {run[:80]!r}", 404)
        found = detail_of(row)
        _check_cause(found)
        return add_candidate(connection, found, policy="", cycle=0, now=now)


def _check_cause(found: RunView) -> None:
    if found.cause_kind == "policy":
        message = f"{found.id} is of the policy {found.cause_id}, which makes the candidate itself; see `policy show`"
        raise FleetError("candidate.policy", message, 409)


def approve_candidate(
    engine: Engine, blobs: BlobStore, candidate: str, release: int, *, who: str, why: str, now: float
) -> None:
    """Note that a candidate was signed and published as ``release``; the alias ``candidate`` names it from now on.

    Raises:
        FleetError: ``candidate.not_found``, ``candidate.decided``, ``candidate.other_release``, ``release.not_found``,
            ``alias.*``, ``blob.not_found``.
    """
    with engine.begin() as connection:
        row = _undecided(connection, candidate, "APPROVED", release)
    if row is None:
        return
    _check_same(engine, blobs, row, release)
    set_alias(engine, row.model, ALIAS, release, who=who, why=why or f"candidate {candidate}", now=now)
    _decide(engine, candidate, "APPROVED", release, who, why, now)


def reject_candidate(engine: Engine, candidate: str, *, who: str, why: str, now: float) -> None:
    """Reject a candidate.

    Raises:
        FleetError: ``candidate.not_found``, ``candidate.decided``.
    """
    _decide(engine, candidate, "REJECTED", None, who, why, now)


def expire_candidate(connection: Connection, candidate: str, why: str, now: float) -> bool:
    """Let nobody approve a candidate any more, in the caller's transaction; False: it was decided meanwhile."""
    waiting = (candidates.c.id == candidate, candidates.c.state == "WAITING")
    values = {"state": "EXPIRED", "decided_at": now, "why": why[:_WHY_CHARACTERS]}
    return connection.execute(update(candidates).where(*waiting).values(values)).rowcount == 1


def _decide(engine: Engine, candidate: str, state: str, release: int | None, who: str, why: str, now: float) -> None:
    """Decide a candidate that waits, and have its policy look at once."""
    with engine.begin() as connection:
        row = _undecided(connection, candidate, state, release)
        if row is None:
            return
        values = {"state": state, "release": release, "decided_at": now, "decided_by": who[:_WHO_CHARACTERS]}
        values["why"] = why[:_WHY_CHARACTERS]
        connection.execute(update(candidates).where(candidates.c.id == candidate).values(values))
        waits = (policies.c.name == row.policy, policies.c.due_at > now)
        connection.execute(update(policies).where(*waits).values(due_at=now))


def _undecided(connection: Connection, candidate: str, state: str, release: int | None) -> Row[Any] | None:
    """The candidate, if it waits; None if it was decided the same way already.

    Raises:
        FleetError: ``candidate.not_found``, ``candidate.decided``.
    """
    row = connection.execute(select(candidates).where(candidates.c.id == candidate).with_for_update()).one_or_none()
    if row is None:
        raise FleetError("candidate.not_found", f"there is no candidate {candidate[:80]!r}", 404)
    if (row.state, row.release) == (state, release):
        return None
    if row.state != "WAITING":
        by = f" by {row.decided_by}" if row.decided_by else ""
        raise FleetError("candidate.decided", f"{candidate} is {row.state}{by}; nothing can be changed of it", 409)
    return row


def _check_same(engine: Engine, blobs: BlobStore, candidate: Row[Any], release: int) -> None:
    """Refuse a release that is something else than the candidate.

    Raises:
        FleetError: ``release.not_found``, ``candidate.other_release``, ``blob.not_found``.
    """
    with reading(engine) as connection:
        sha256 = published_release(connection, candidate.model, release, releases.c.sha256).sha256
    mine, theirs = (_essence(decode_manifest(blobs.path(each).read_bytes())) for each in (candidate.sha256, sha256))
    if mine != theirs:
        message = f"release {release} of {candidate.model} was not made of {candidate.id}: approve it by its own name"
        raise FleetError("candidate.other_release", message, 409)


def _essence(manifest: Manifest) -> Manifest:
    """A manifest without what signing may add."""
    return replace(manifest, release=None, rollback_floor=None, lineage={})
