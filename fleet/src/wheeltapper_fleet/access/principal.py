"""Whoever makes a request: a name for the records, and roles."""

from __future__ import annotations

from dataclasses import dataclass

from wheeltapper_fleet.access.permissions import ROLES, Role, may

__all__ = ["Principal"]


@dataclass(frozen=True)
class Principal:
    """A person or a program that is known.

    Args:
        name: is written to the records of what was changed.
        roles: what it may do.
        via: by what it is known: ``token:<id>`` or ``login:<issuer>``.
        permissions: it may do no more than these; None: all that its roles may.
        scope: a query for the devices that it is limited to; empty: all.
    """

    name: str
    roles: frozenset[Role]
    via: str
    permissions: frozenset[str] | None = None
    scope: str = ""

    def may(self, permission: str | None) -> bool:
        """Whether it has a permission."""
        return may(self.roles, permission) and (self.permissions is None or permission in self.permissions)

    @property
    def having(self) -> list[str]:
        """Its permissions, in order."""
        all_of_them = frozenset[str]().union(*(ROLES[role] for role in self.roles))
        return sorted(name for name in all_of_them if self.may(name))
