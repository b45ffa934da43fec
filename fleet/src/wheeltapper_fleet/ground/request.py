"""What is known of the request that is being answered: its id, for the log and the records, and what it is about.

The guard of an API begins it; threads that a route runs in inherit it. Outside of a request there is none.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

__all__ = ["RequestNotes", "begin_request", "current_request", "note_subject"]

_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")


@dataclass
class RequestNotes:
    """A request's id, and by name what it is about, e.g. ``{"campaign": "cmp-1"}``."""

    id: str
    subject: dict[str, str] = field(default_factory=dict)


_CURRENT: ContextVar[RequestNotes | None] = ContextVar("wheeltapper_request", default=None)


def begin_request(wanted: str | None) -> RequestNotes:
    """Begin a request: with the id that its sender chose, if that is one, else with a random one."""
    notes = RequestNotes(wanted if wanted is not None and _ID.fullmatch(wanted) else secrets.token_hex(8))
    _CURRENT.set(notes)
    return notes


def current_request() -> RequestNotes | None:
    """The request that is being answered; None outside of one."""
    return _CURRENT.get()


def note_subject(**subject: str) -> None:
    """Say what the request is about, where its path does not say it: the id of what it makes."""
    notes = _CURRENT.get()
    if notes is not None:
        notes.subject.update(subject)
