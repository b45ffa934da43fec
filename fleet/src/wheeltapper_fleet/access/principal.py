"""Whoever makes a request: a name for the records, and roles."""

from __future__ import annotations

from dataclasses import dataclass

from wheeltapper_fleet.access.permissions import Role, may

__all__ = ["Principal"]


@dataclass(frozen=True)
class Principal:
    """A person or a program that is known.

    Args:
        name: is written to the records of what was changed.
        roles: what it may do.
        via: by what it is known: ``token:<id>`` or ``login:<issuer>``.
    """

    name: str
    roles: frozenset[Role]
    via: str

    def may(self, permission: str | None) -> bool:
        """Whether it has a permission."""
        return may(self.roles, permission)
