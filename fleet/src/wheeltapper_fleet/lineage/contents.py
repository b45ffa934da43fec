"""Follows the store of datasets: which content is in which versions, written down once for each version.

Invariants:
    * Versions of a dataset are taken in their order, each whole, in parts that are committed with the place reached: a
      service that is killed goes on where it was, and nothing is taken twice.
    * A version is immutable, so what was taken stays true.

Cost: a turn lists the versions of each dataset, and takes :data:`PARTS` parts of :data:`PART` items at most, three
statements each. An index of a million contents is some 150 MB, however many versions carry them on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine, select, update

from wheeltapper_fleet.db.engine import insert_ignore, reading, upsert_statement
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.manifest import Ref
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.lineage.tables import dataset_contents, dataset_index

__all__ = ["PART", "PARTS", "index_turn", "not_indexed"]

PART: Final = 500
"""Items of one transaction."""
PARTS: Final = 20
"""Transactions of one turn."""
WHOLE: Final = -1


def index_turn(engine: Engine, store: Callable[[], DatasetStore]) -> Callable[[float], bool]:
    """A duty that takes what is new in the store; its turn says whether there is more to do at once.

    Args:
        engine: the fleet's database.
        store: gives the store of datasets.
    """

    def turn(_now: float) -> bool:
        datasets, budget, failures = store(), [PARTS], list[FleetError]()
        for name in datasets.names():
            try:
                _follow(engine, datasets, name, budget)
            except FleetError as error:  # one dataset that is damaged stays one
                failures.append(error)
        if failures:
            raise failures[0]
        return not budget[0]

    return turn


def not_indexed(engine: Engine, store: DatasetStore) -> list[str]:
    """The datasets whose newest version is not taken yet, by name: what an answer does not know of."""
    with reading(engine) as connection:
        known = {row.dataset: row for row in connection.execute(select(dataset_index))}
    found = []
    for name in store.names():
        versions, row = store.versions(name), known.get(name)
        if versions and (row is None or row.at != WHOLE or row.version < versions[-1]):
            found.append(name)
    return found


def _follow(engine: Engine, store: DatasetStore, name: str, budget: list[int]) -> None:
    """Take the versions of a dataset that are new, in as many parts as are left in ``budget``."""
    versions = store.versions(name)
    with reading(engine) as connection:
        row = connection.execute(select(dataset_index).where(dataset_index.c.dataset == name)).first()
    taken, at = (0, WHOLE) if row is None else (int(row.version), int(row.at))
    for before, version in zip([0, *versions], versions, strict=False):
        if version < taken or (version == taken and at == WHOLE):
            continue
        manifest, _ = store.manifest(Ref(name, version))
        position = at if version == taken else 0
        while position != WHOLE:
            if not budget[0]:
                return
            budget[0] -= 1
            items, following = store.items_page(manifest.items, position, PART) if manifest.items.count else ([], None)
            position = WHOLE if following is None else following
            with engine.begin() as connection:
                _take(connection, name, before, version, {item.sha256 for item in items})
                _reach(connection, name, version, position)


def _take(connection: Connection, name: str, before: int, version: int, contents: set[str]) -> None:
    """Note that ``version``, which follows ``before``, holds ``contents``."""
    mine = (dataset_contents.c.dataset == name, dataset_contents.c.sha256.in_(sorted(contents)))
    newest = select(dataset_contents.c.sha256, dataset_contents.c.last_version)
    known = connection.execute(newest.where(*mine, dataset_contents.c.last_version.in_((before, version)))).all()
    there = {row.sha256 for row in known}
    if any(row.last_version == before for row in known):
        carried = update(dataset_contents).where(*mine, dataset_contents.c.last_version == before)
        connection.execute(carried.values(last_version=version))
    rows = [
        {"sha256": sha256, "dataset": name, "first_version": version, "last_version": version}
        for sha256 in sorted(contents - there)
    ]
    insert_ignore(connection, dataset_contents, rows)


def _reach(connection: Connection, name: str, version: int, at: int) -> None:
    row = {"dataset": name, "version": version, "at": at}
    statement = upsert_statement(connection, dataset_index).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["dataset"], set_={"version": version, "at": at}))
