"""Dispatch: which device is sent which assignment. In the caller's transaction.

Invariants:
    * The broker retains for each device what the fleet wants of it now, whether or not the device is online: whatever
      changes it marks the device (:mod:`wheeltapper_fleet.campaigns.due`), and the engine signs and publishes anew.
    * A device that comes online with an older counter is sent the newest assignment; one whose assignment is due, or
      has expired, is composed before all others instead of being sent what no longer holds.
    * What was stored but not published is published after a restart; all is published again when the broker is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select, tuple_

from wheeltapper_fleet.campaigns.claims import DeviceFacts, told_by
from wheeltapper_fleet.campaigns.default_releases import set_default_releases
from wheeltapper_fleet.campaigns.due import AT_ONCE, due_among, mark_each
from wheeltapper_fleet.campaigns.rules.default_release import DefaultRelease, choose_default_releases
from wheeltapper_fleet.campaigns.tables import assignments
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.wire.messages import Status
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["assignment_publication", "devices_seen", "mark_published", "stored_assignments", "unpublished_assignments"]


def assignment_publication(device: str, envelope: str) -> Publication:
    """The message that gives ``device`` its assignment: the signed envelope, retained."""
    return Publication(down_topic(device, Down.ASSIGNMENT), envelope.encode(), retain=True)


def devices_seen(
    connection: Connection, before: Mapping[str, DeviceFacts], said: Mapping[str, Status], now: float
) -> list[Publication]:
    """What devices are sent after they have said that they are online.

    Cost: a handful of statements, for all of them.

    Args:
        connection: within the caller's transaction, after the messages were stored.
        before: what was known of each device until then; those that are not enrolled are left out.
        said: the status message of each.
        now: Unix seconds.
    """
    seen = {device: told_by(before[device], status, now) for device, status in said.items() if device in before}
    query = select(assignments).where(assignments.c.device.in_(seen)).order_by(assignments.c.device)
    rows = connection.execute(query).all() if seen else ()
    marks = {row.device: AT_ONCE for row in rows if row.counter < seen[row.device].counter}
    lacking = [row for row in rows if row.counter > seen[row.device].counter]
    due = due_among(connection, [row.device for row in lacking], now)
    publications = []
    for row in lacking:
        if row.expires_at <= now or row.device in due:
            marks[row.device] = AT_ONCE
        else:
            publications.append(assignment_publication(row.device, row.envelope))
    changed = [
        after for device, after in seen.items() if not before[device].online or before[device].shown != after.shown
    ]
    defaults = set_default_releases(connection) if changed else ()
    for after in changed if defaults else ():
        if _lacks_default(defaults, after):
            marks.setdefault(after.id, now)
    mark_each(connection, marks)
    return publications


def stored_assignments(connection: Connection, after: str, now: float, most: int) -> list[tuple[str, Publication]]:
    """Up to ``most`` of the newest assignments that are valid at ``now``, of devices after ``after``, by device."""
    query = (
        select(assignments.c.device, assignments.c.envelope)
        .where(assignments.c.device > after, assignments.c.expires_at > now)
        .order_by(assignments.c.device)
        .limit(most)
    )
    return [(row.device, assignment_publication(row.device, row.envelope)) for row in connection.execute(query)]


def unpublished_assignments(connection: Connection, most: int) -> list[tuple[str, int, Publication]]:
    """Up to ``most`` assignments that were not handed to the broker yet, each with its device and counter."""
    query = select(assignments).where(assignments.c.published.is_(False)).order_by(assignments.c.device).limit(most)
    return [
        (row.device, row.counter, assignment_publication(row.device, row.envelope)) for row in connection.execute(query)
    ]


def mark_published(connection: Connection, published: Iterable[tuple[str, int]]) -> None:
    """Remember that assignments, by device and counter, were handed to the broker."""
    pairs = list(published)
    if pairs:
        these = tuple_(assignments.c.device, assignments.c.counter).in_(pairs)
        connection.execute(assignments.update().where(these).values(published=True))


def _lacks_default(defaults: Sequence[DefaultRelease], facts: DeviceFacts) -> bool:
    chosen = choose_default_releases(defaults, facts.id, facts.tags)
    return any(
        pipeline in facts.shown and facts.shown[pipeline] != (default.model, default.release)
        for pipeline, default in chosen.items()
    )
