"""``wheeltapper token`` and ``wheeltapper audit``: who may use the fleet service, and what was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    DATA_DIR,
    fail,
    failures,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
)

__all__ = ["audit", "token_app", "who"]

token_app = typer.Typer(help="API tokens: who may use the fleet service, and for what.", no_args_is_help=True)
_DAY_SECONDS = 86_400.0


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="Whom it stands for; the records of changes name it.")],
    role: Annotated[
        list[str], typer.Option(help="viewer, operator, release-manager, approver, trainer or admin; repeatable.")
    ],
    permission: Annotated[
        list[str] | None,
        typer.Option(help="It may do no more than this, e.g. read; repeatable [default: all of its roles]."),
    ] = None,
    scope: Annotated[
        str, typer.Option(help="Only to the devices that this query means, e.g. 'site = north' [default: all].")
    ] = "",
    days: Annotated[float, typer.Option(min=0, help="How long it is good for; 0: it does not end.")] = 90.0,
    offline: Annotated[
        bool, typer.Option("--offline", help="Write it into the database of --data-dir, without the service.")
    ] = False,
    database_url: Annotated[
        str | None, typer.Option(help="With --offline: SQLAlchemy URL [default: SQLite in the data folder]")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an API token. It is shown once."""
    ttl_seconds = days * _DAY_SECONDS if days else None
    if offline:
        made = _create_offline(
            data_dir or Path(DATA_DIR),
            database_url,
            name,
            role,
            ttl_seconds,
            permissions=permission or None,
            scope=scope,
        )
    else:
        if database_url is not None:
            fail("usage.value", "--database-url is for --offline", BAD_INPUT)
        with open_client(url, token_file, data_dir) as client:
            made = client.create_api_token(name, role, ttl_seconds, permission or None, scope)
    print_result(made, made["token"], as_json)


@token_app.command("list")
def token_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List API tokens, newest first, without their secrets."""
    with open_client(url, token_file, data_dir) as client:
        found = client.api_tokens()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item["id"],
            item["name"],
            " ".join(item["roles"]),
            _limits(item),
            f"{format_time(item['created_at'])} by {item['created_by'] or 'an earlier version'}",
            format_time(item["expires_at"]) or "does not end",
            f"revoked by {item['revoked_by']}" if item["revoked_at"] is not None else None,
        )
        for item in found
    ]
    print_table(("TOKEN", "NAME", "ROLES", "ONLY", "MADE", "ENDS", "STATE"), rows, "no API token yet")


@token_app.command("revoke")
def token_revoke(
    token: Annotated[str, typer.Argument(help="The token's id, as `token list` shows it.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an API token: from now on it is refused, and the page's sessions that began with it end."""
    with open_client(url, token_file, data_dir) as client:
        client.revoke_api_token(token)
    print_result({"token": token, "revoked": True}, f"{token} is revoked", as_json)


def who(url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show whom the API token stands for, and what it may do."""
    with open_client(url, token_file, data_dir) as client:
        found = client.who()
    text = f"{found['name']} ({found['via']}): {', '.join(found['roles'])}\nmay: {', '.join(found['permissions'])}"
    text += f"\nonly devices: {found['scope']}" if found["scope"] else ""
    print_result(found, text, as_json)


def audit(
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check instead that no change was altered or removed.")
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what was changed, by whom and when, newest first."""
    with open_client(url, token_file, data_dir) as client:
        if verify:
            _print_chain(client.verify_audit(), as_json)
            return
        found = client.audit(limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            format_time(item["at"]),
            item["who"],
            item["route"] if item["status"] != 403 else f"{item['route']} (forbidden)",
            " ".join(f"{name}={value}" for name, value in item["subject"].items()) or None,
            item["request"],
        )
        for item in found
    ]
    print_table(("AT", "WHO", "WHAT", "ON", "REQUEST"), rows, "nothing was changed yet")


def _print_chain(chain: dict[str, Any], as_json: bool) -> None:
    cut = f"; {chain['cut_rows']} before {format_time(chain['cut_up_to'])} were cut" if chain["cut_rows"] else ""
    print_result(chain, f"{chain['rows']} changes, none altered{cut}\nnewest digest: {chain['digest']}", as_json)


def _limits(token: dict[str, Any]) -> str | None:
    """What a token is limited to besides its roles."""
    parts = [*(token["permissions"] or ()), *([f"devices: {token['scope']}"] if token["scope"] else [])]
    return ", ".join(parts) or None


def _create_offline(
    data_dir: Path,
    database_url: str | None,
    name: str,
    roles: list[str],
    ttl_seconds: float | None,
    **limits: Any,
) -> dict[str, Any]:
    """Make a token in the database itself: for the first admin, or when the last one's token is lost."""
    with failures():
        import time

        from wheeltapper_fleet.access.tokens import create_api_token
        from wheeltapper_fleet.db.engine import open_database
        from wheeltapper_fleet.ground.errors import FleetError

        if database_url is None and not data_dir.is_dir():
            message = (
                f"there is no data folder {data_dir}; name it with --data-dir, or the database with --database-url"
            )
            raise FleetError("access.data_dir", message, 400)
        now = time.time()
        database = open_database(database_url or f"sqlite:///{data_dir.resolve() / 'fleet.db'}")
        try:
            ends = None if ttl_seconds is None else now + ttl_seconds
            made = create_api_token(database, name, roles, expires_at=ends, who="offline", now=now, **limits)
            return made.model_dump()
        finally:
            database.dispose()
