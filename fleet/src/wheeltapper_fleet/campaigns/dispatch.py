"""Dispatch: which device is sent which assignment. In the caller's transaction.

Invariants:
    * The broker retains for each device what the fleet wants of it now, whether or not the device is online: whatever
      changes it marks the device (:mod:`wheeltapper_fleet.campaigns.due`), and the engine signs and publishes anew.
    * A device that comes online with an older counter is sent the newest assignment; one whose assignment is due, or
      has expired, is composed before all others instead of being sent what no longer holds.
    * What was stored but not published is published after a restart; all is published again when the broker is back.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select, tuple_

from wheeltapper_fleet.campaigns.claims import DeviceFacts, device_facts
from wheeltapper_fleet.campaigns.default_releases import set_default_releases
from wheeltapper_fleet.campaigns.due import AT_ONCE, is_due, mark_device
from wheeltapper_fleet.campaigns.rules.default_release import choose_default_releases
from wheeltapper_fleet.campaigns.tables import assignments
from wheeltapper_fleet.ground.publication import Publication
from wheeltapper_protocols.wire.topics import Down, down_topic

__all__ = ["assignment_publication", "device_seen", "mark_published", "stored_assignments", "unpublished_assignments"]


def assignment_publication(device: str, envelope: str) -> Publication:
    """The message that gives ``device`` its assignment: the signed envelope, retained."""
    return Publication(down_topic(device, Down.ASSIGNMENT), envelope.encode(), retain=True)


def device_seen(connection: Connection, before: DeviceFacts | None, device: str, now: float) -> Publication | None:
    """What ``device`` is sent after its status message was stored; ``before`` is what was known of it until then."""
    after = device_facts(connection, device)
    if after is None or not after.online:
        return None
    row = connection.execute(select(assignments).where(assignments.c.device == device)).one_or_none()
    publication = None
    if row is not None and row.counter < after.counter:
        mark_device(connection, device, AT_ONCE)
    elif row is not None and row.counter > after.counter:
        if row.expires_at <= now or is_due(connection, device, now):
            mark_device(connection, device, AT_ONCE)
        else:
            publication = assignment_publication(device, row.envelope)
    if (before is None or not before.online or before.shown != after.shown) and _lacks_default(connection, after):
        mark_device(connection, device, now)
    return publication


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


def _lacks_default(connection: Connection, facts: DeviceFacts) -> bool:
    chosen = choose_default_releases(set_default_releases(connection), facts.id, facts.tags)
    return any(
        pipeline in facts.shown and facts.shown[pipeline] != (default.model, default.release)
        for pipeline, default in chosen.items()
    )
