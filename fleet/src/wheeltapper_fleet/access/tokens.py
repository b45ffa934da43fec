"""API tokens in the database.

Invariants:
    * The database keeps only the SHA-256 of a token.
    * Finding a token costs one look into an index, however many there are. What is compared is the SHA-256, so the
      time that it takes says nothing of a secret.
    * A token that is revoked or has expired is refused, and stays listed.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, insert, select

from wheeltapper_fleet.access.permissions import Role, may, read_roles
from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.access.schemas import ApiTokenView, NewApiToken
from wheeltapper_fleet.access.tables import api_tokens
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.db.paging import page_of
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.ground.query import parse

__all__ = [
    "create_api_token",
    "ensure_api_token",
    "find_token",
    "list_api_tokens",
    "revoke_api_token",
    "sha256",
    "stored_roles",
]

_MAX_TOKEN_CHARACTERS: Final = 200
_MAX_SCOPE_CHARACTERS: Final = 4000
_PREFIX: Final = "wta_"


def ensure_api_token(engine: Engine, path: Path, now: float) -> None:
    """Make sure that there is a first API token, in the file ``path`` and in the database. Its role is admin.

    If the file is missing, a new token is written to it with mode 0600. If the database does not know the file's token,
    it is entered under the name ``first``. One that was revoked stays revoked.

    Args:
        engine: the fleet's database.
        path: the token's file, ``api-token`` in the data folder.
        now: Unix seconds.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = _new_secret()
        files.write_atomic(path, f"{token}\n".encode("ascii"), files.PRIVATE)
    with engine.begin() as connection:
        known = connection.execute(select(api_tokens.c.name).where(api_tokens.c.secret_sha256 == sha256(token)))
        if known.first() is None:
            row = {"secret_sha256": sha256(token), "id": sha256(token)[:12], "name": "first", "roles": Role.ADMIN.value}
            connection.execute(insert(api_tokens).values(row | {"created_at": now, "created_by": "serve"}))


def create_api_token(
    engine: Engine,
    name: str,
    roles: Collection[str],
    *,
    expires_at: float | None,
    who: str,
    now: float,
    permissions: Collection[str] | None = None,
    scope: str = "",
) -> NewApiToken:
    """Make an API token. Its secret is in the answer and nowhere else.

    Args:
        engine: the fleet's database.
        name: whom the token stands for; it is written to the records of what was changed.
        roles: names of roles.
        expires_at: Unix seconds; None: it does not end.
        who: makes it.
        now: Unix seconds.
        permissions: it may do no more than these; None: all that its roles may.
        scope: a query for the devices that it is limited to; empty: all.

    Raises:
        FleetError: ``access.role``, ``access.permission``, ``access.scope``, ``access.expiry``, ``query.invalid``.
    """
    checked = sorted(read_roles(roles))
    limited = None if permissions is None else _limited(permissions, checked)
    scope = scope.strip()
    if scope and (parse(scope).everything or len(scope) > _MAX_SCOPE_CHARACTERS):
        raise FleetError("access.scope", f"a scope is a query of 1 to {_MAX_SCOPE_CHARACTERS} characters", 422)
    if expires_at is not None and expires_at <= now:
        raise FleetError("access.expiry", "the token would have ended already; give it a time that is to come", 422)
    token = _new_secret()
    row = {"secret_sha256": sha256(token), "id": sha256(token)[:12], "name": name, "roles": " ".join(checked)}
    limits = {"permissions": None if limited is None else " ".join(limited), "scope": scope}
    with engine.begin() as connection:
        connection.execute(
            insert(api_tokens).values(
                row | limits | {"created_at": now, "created_by": who[:128], "expires_at": expires_at}
            )
        )
    return NewApiToken(
        id=row["id"],
        name=name,
        roles=[*checked],
        permissions=limited,
        scope=scope,
        expires_at=expires_at,
        token=token,
    )


def _limited(permissions: Collection[str], roles: Collection[Role]) -> list[str]:
    """Permissions to limit a token to; each must be one of its roles'.

    Raises:
        FleetError: ``access.permission``.
    """
    given = sorted(set(permissions))
    wrong = [name for name in given if not may(roles, name)]
    if wrong or not given:
        message = f"{wrong[0][:40]!r} is no permission of these roles" if wrong else "name at least one permission"
        raise FleetError("access.permission", f"{message}; `wheeltapper who` lists one's own", 422)
    return given


def list_api_tokens(engine: Engine, limit: int = DEFAULT_LIMIT, after: str | None = None) -> Page[ApiTokenView]:
    """A page of the API tokens, newest first, also of those that were revoked.

    Raises:
        FleetError: ``cursor.invalid``.
    """
    key = (api_tokens.c.created_at, api_tokens.c.id)
    fields = [name for name in ApiTokenView.model_fields if name not in ("roles", "permissions")]
    with reading(engine) as connection:
        rows, following = page_of(connection, select(api_tokens), key, limit=limit, after=after, descending=True)
    return Page(
        [
            ApiTokenView(
                **{name: row._mapping[name] for name in fields},
                roles=row.roles.split(),
                permissions=None if row.permissions is None else row.permissions.split(),
            )
            for row in rows
        ],
        following,
    )


def revoke_api_token(engine: Engine, token: str, *, who: str, now: float) -> None:
    """Revoke the API token with the id ``token``; the page's sessions that began with it end too.

    Raises:
        FleetError: ``access.token_unknown``.
    """
    with engine.begin() as connection:
        found = connection.execute(select(api_tokens.c.revoked_at).where(api_tokens.c.id == token)).first()
        if found is None:
            raise FleetError("access.token_unknown", f"there is no API token {token[:40]!r}; see `token list`", 404)
        if found.revoked_at is None:
            values = {"revoked_at": now, "revoked_by": who[:128]}
            connection.execute(api_tokens.update().where(api_tokens.c.id == token).values(values))


def find_token(engine: Engine, token: str, now: float) -> Principal:
    """Whom an API token stands for.

    Raises:
        FleetError: ``api.unauthorized``: it is unknown, revoked, or has expired.
    """
    row = None
    if token and len(token) <= _MAX_TOKEN_CHARACTERS:
        with reading(engine) as connection:
            row = connection.execute(select(api_tokens).where(api_tokens.c.secret_sha256 == sha256(token))).first()
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        why = "is not valid" if row is None else "was revoked" if row.revoked_at is not None else "has expired"
        message = f"this API token {why}; see api-token in the data folder, or ask an admin for a new one"
        raise FleetError("api.unauthorized", message, 401)
    limited = None if row.permissions is None else frozenset(row.permissions.split())
    return Principal(str(row.name), stored_roles(row.roles), f"token:{row.id}", limited, row.scope)


def stored_roles(text: str) -> frozenset[Role]:
    """Roles as the database keeps them. One that this version does not know gives nothing."""
    return frozenset(Role(name) for name in text.split() if name in set(Role))


def sha256(secret: str) -> str:
    """The SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _new_secret() -> str:
    return _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode("ascii")
