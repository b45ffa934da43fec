"""The counts of a campaign's executions, kept in the transactions that move them. In the caller's transaction.

Whoever moves executions adds the change of the counts to ``tally_changes`` in the same transaction, as rows of their
own: transactions of several processes never wait for each other at a counter. The engine folds the changes of a
campaign into ``campaign_tallies`` before it decides on them. Until then a row of ``tally_changes`` also says that
something has happened to its campaign.

Invariant: the sum of both tables is what counting the executions would give.

Cost: a report adds two rows; a fold reads what has changed since the last one; the counts of a campaign are as many
rows as it has waves and states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, delete, func, select, union_all

from wheeltapper_fleet.campaigns.rules.execution import PENDING, Execution
from wheeltapper_fleet.campaigns.rules.waves import Count, Tallies
from wheeltapper_fleet.campaigns.tables import campaign_tallies, tally_changes
from wheeltapper_fleet.db.engine import upsert_statement

__all__ = ["add_moves", "add_new", "changed_campaigns", "fold_changes", "read_tallies", "tallies_of"]

_FOLDED_AT_ONCE: Final = 5_000
_KEY: Final = ("campaign", "wave", "state")

Key = tuple[str, int, str]
"""Campaign, wave (from 0), state."""


def add_new(connection: Connection, campaign: str, new: Mapping[int, int]) -> None:
    """Count new executions of a campaign: how many by wave (from 0)."""
    rows = [
        {"campaign": campaign, "wave": wave, "state": PENDING, "n": n, "assigned": 0} for wave, n in sorted(new.items())
    ]
    if rows:
        connection.execute(tally_changes.insert(), rows)


def add_moves(connection: Connection, moves: Iterable[tuple[Execution | None, Execution]]) -> None:
    """Add what ``moves`` (an execution before and after; None: it is new) change of the counts."""
    n: dict[Key, int] = defaultdict(int)
    assigned: dict[Key, int] = defaultdict(int)
    for before, after in moves:
        for each, sign in ((before, -1), (after, 1)):
            if each is not None and each.campaign is not None:
                key = (each.campaign, each.wave, each.state)
                n[key] += sign
                assigned[key] += sign * each.assigned
    rows = [
        {**dict(zip(_KEY, key, strict=True)), "n": n[key], "assigned": assigned[key]}
        for key in sorted(n)
        if n[key] or assigned[key]
    ]
    if rows:
        connection.execute(tally_changes.insert(), rows)


def changed_campaigns(connection: Connection) -> list[str]:
    """The campaigns to which something has happened that is not folded yet."""
    return list(connection.execute(select(tally_changes.c.campaign).distinct()).scalars())


def fold_changes(connection: Connection, campaign: str) -> bool:
    """Fold the next changes of a campaign into its counts; returns whether there may be more of them."""
    next_ones = select(tally_changes.c.id).where(tally_changes.c.campaign == campaign).limit(_FOLDED_AT_ONCE)
    taken = delete(tally_changes).where(tally_changes.c.id.in_(next_ones))
    changes = connection.execute(
        taken.returning(*(tally_changes.c[name] for name in ("wave", "state", "n", "assigned")))
    ).all()
    sums: dict[tuple[int, str], tuple[int, int]] = {}
    for wave, state, n, assigned in changes:
        old = sums.get((wave, state), (0, 0))
        sums[wave, state] = (old[0] + n, old[1] + assigned)
    if sums:
        statement = upsert_statement(connection, campaign_tallies)
        added = {name: campaign_tallies.c[name] + statement.excluded[name] for name in ("n", "assigned")}
        rows = [
            {"campaign": campaign, "wave": wave, "state": state, "n": n, "assigned": assigned}
            for (wave, state), (n, assigned) in sums.items()
        ]
        connection.execute(statement.on_conflict_do_update(index_elements=list(_KEY), set_=added), rows)
    return len(changes) == _FOLDED_AT_ONCE


def tallies_of(connection: Connection, campaign: str) -> Tallies:
    """The counts of one campaign."""
    return read_tallies(connection, [campaign])[campaign]


def read_tallies(connection: Connection, campaigns: Sequence[str]) -> Mapping[str, Tallies]:
    """The counts of some campaigns, with the changes that are not folded yet. One query."""
    both = union_all(
        *(
            select(*(table.c[name] for name in (*_KEY, "n", "assigned"))).where(table.c.campaign.in_(campaigns))
            for table in (campaign_tallies, tally_changes)
        )
    ).subquery()
    key = [both.c[name] for name in _KEY]
    query = select(*key, func.sum(both.c.n).label("n"), func.sum(both.c.assigned).label("assigned")).group_by(*key)
    cells: dict[str, dict[tuple[int, str], Count]] = {campaign: {} for campaign in campaigns}
    for row in connection.execute(query) if campaigns else ():
        if row.n:
            cells[row.campaign][row.wave, row.state] = Count(int(row.n), int(row.assigned))
    return {campaign: Tallies(each) for campaign, each in cells.items()}
