"""API tokens in the database.

Invariants:
    * The database keeps only the SHA-256 of a token.
    * A token is compared in constant time with every token that is known.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, insert, select

from wheeltapper_fleet.access.tables import api_tokens
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["ensure_api_token", "token_owner"]

_MAX_TOKEN_CHARACTERS: Final = 200


def ensure_api_token(engine: Engine, path: Path, now: float) -> None:
    """Make sure that there is a first API token, in the file ``path`` and in the database.

    If the file is missing, a new token is written to it with mode 0600. If the database does not know the file's token,
    it is entered under the name ``first``.

    Args:
        engine: the fleet's database.
        path: the token's file, ``api-token`` in the data folder.
        now: Unix seconds.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = "wta_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode("ascii")
        files.write_atomic(path, f"{token}\n".encode("ascii"), files.PRIVATE)
    with engine.begin() as connection:
        known = connection.execute(select(api_tokens.c.name).where(api_tokens.c.secret_sha256 == _digest(token)))
        if known.first() is None:
            row = {"secret_sha256": _digest(token), "name": "first", "created_at": now}
            connection.execute(insert(api_tokens).values(row))


def token_owner(engine: Engine, token: str) -> str:
    """The name under which a token is known; it is written to logs of what was changed.

    Raises:
        FleetError: ``api.unauthorized``.
    """
    found: str | None = None
    if token and len(token) <= _MAX_TOKEN_CHARACTERS:
        digest = _digest(token)
        with reading(engine) as connection:
            for row in connection.execute(select(api_tokens.c.secret_sha256, api_tokens.c.name)):
                if hmac.compare_digest(row.secret_sha256, digest):
                    found = str(row.name)
    if found is None:
        raise FleetError("api.unauthorized", "this API token is not valid; see api-token in the data folder", 401)
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
