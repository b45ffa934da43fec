"""API tokens and sessions: made, found, ended; on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, select
from typer.testing import CliRunner

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.access.authenticator import Authenticator
from wheeltapper_fleet.access.permissions import Role
from wheeltapper_fleet.access.tables import api_tokens, sessions
from wheeltapper_fleet.access.tokens import (
    create_api_token,
    ensure_api_token,
    find_token,
    list_api_tokens,
    revoke_api_token,
)
from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError

NOW = 1.79e9


def make(engine: Engine, name: str = "ann", *roles: str, expires_at: float | None = None) -> tuple[str, str]:
    made = create_api_token(engine, name, roles or ("viewer",), expires_at=expires_at, who="root", now=NOW)
    return made.id, made.token


def refused(engine: Engine, token: str, now: float = NOW) -> str:
    with pytest.raises(FleetError) as caught:
        find_token(engine, token, now)
    assert (caught.value.code, caught.value.status) == ("api.unauthorized", 401)
    return caught.value.message


def test_a_token_stands_for_a_name_and_roles_until_it_ends(engine: Engine) -> None:
    made, token = make(engine, "ann", "operator", "approver", expires_at=NOW + 10)
    found = find_token(engine, token, NOW)
    assert (found.name, found.roles, found.via) == ("ann", frozenset({Role.OPERATOR, Role.APPROVER}), f"token:{made}")
    assert "expired" in refused(engine, token, NOW + 10)
    assert "not valid" in refused(engine, token + "x")
    assert "not valid" in refused(engine, "")
    revoke_api_token(engine, made, who="eve", now=NOW + 1)
    revoke_api_token(engine, made, who="bob", now=NOW + 2)
    assert "revoked" in refused(engine, token)
    (shown,) = list_api_tokens(engine).items
    assert (shown.revoked_by, shown.revoked_at, shown.created_by) == ("eve", NOW + 1, "root")
    assert token not in shown.model_dump_json()
    with pytest.raises(FleetError, match=r"\[access\.token_unknown\]"):
        revoke_api_token(engine, "nothing", who="eve", now=NOW)


@pytest.mark.parametrize(
    ("roles", "ends", "code"), [((), None, "role"), (("king",), None, "role"), (("viewer",), NOW, "expiry")]
)
def test_a_token_that_makes_no_sense_is_refused(engine: Engine, roles: tuple[str, ...], ends: float, code: str) -> None:
    with pytest.raises(FleetError, match=rf"\[access\.{code}\]"):
        create_api_token(engine, "ann", roles, expires_at=ends, who="root", now=NOW)
    assert list_api_tokens(engine).items == []


def test_a_token_is_found_by_one_look_into_an_index(engine: Engine) -> None:
    tokens = [make(engine, f"p{number}")[1] for number in range(20)]
    said: list[str] = []
    readers = engine.get_execution_options()["wheeltapper_readers"]
    event.listen(readers, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    assert find_token(engine, tokens[7], NOW).name == "p7"
    (statement,) = [text for text in said if text.startswith("SELECT")]
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("x",)).all()
            assert "USING INDEX" in plan[0].detail
        kept = connection.execute(select(api_tokens.c.secret_sha256)).scalars().all()
    assert not set(kept) & set(tokens)


def test_the_first_token_is_admin_and_stays_revoked(engine: Engine, tmp_path: Path) -> None:
    for _ in range(2):
        ensure_api_token(engine, tmp_path / "api-token", NOW)
    token = (tmp_path / "api-token").read_text().strip()
    assert find_token(engine, token, NOW).roles == {Role.ADMIN}
    revoke_api_token(engine, list_api_tokens(engine).items[0].id, who="ann", now=NOW)
    ensure_api_token(engine, tmp_path / "api-token", NOW)
    assert "revoked" in refused(engine, token)


def test_a_session_outlives_the_process_and_ends_with_its_token(engine: Engine) -> None:
    now = [NOW]
    made, token = make(engine, "ann", expires_at=NOW + 7 * 3600)
    cookie = Authenticator(engine, lambda: now[0]).sign_in(token)
    again = Authenticator(engine, lambda: now[0])
    found = again.session(cookie)
    assert found is not None
    assert (found.name, found.roles) == ("ann", frozenset({Role.VIEWER}))
    now[0] += 7 * 3600
    assert again.session(cookie) is None
    now[0] = NOW
    revoke_api_token(engine, made, who="eve", now=NOW)
    assert again.session(cookie) is None
    _, other = make(engine, "bob")
    second = again.sign_in(other)
    now[0] += 12 * 3600 - 1
    assert again.session(second) is not None
    now[0] += 2
    assert again.session(second) is None
    again.sign_in(other)
    with reading(engine) as connection:
        assert len(connection.execute(select(sessions)).all()) == 1, "sessions that ended are forgotten"


def test_tokens_and_changes_from_the_command_line(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", server.token)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    made = json.loads(run("token", "create", "ann@plant-7", "--role", "operator", "--days", "1", "--json"))
    with FleetClient(server.url, made["token"]) as ann:
        assert ann.who()["roles"] == ["operator"]
        with pytest.raises(FleetError, match=r"release-manager.*\[api\.forbidden\]"):
            ann.create_campaign({"model": "m"})
        ann.create_token("press-1")
    assert "ann@plant-7" in run("token", "list")
    run("token", "revoke", made["id"])
    with FleetClient(server.url, made["token"]) as ann, pytest.raises(FleetError, match=r"revoked.*unauthorized"):
        ann.devices()
    lines = json.loads(run("audit", "--json"))
    assert [(each["who"], each["route"], each["status"]) for each in lines] == [
        ("first", "POST /api-tokens/{token}/revoke", 204),
        ("ann@plant-7", "POST /tokens", 201),
        ("ann@plant-7", "POST /campaigns", 403),
        ("first", "POST /api-tokens", 201),
    ]
    assert lines[1]["subject"] == {"device": "press-1"}
    assert lines[3]["subject"] == {"token": made["id"], "name": "ann@plant-7", "roles": "operator"}
    assert made["token"] not in json.dumps(lines)
    assert "forbidden" in run("audit")
    assert "first" in run("who")


def test_an_admin_without_a_token_makes_one_in_the_data_folder(server: AdminServer) -> None:
    arguments = ["token", "create", "root", "--role", "admin", "--offline", "--data-dir", str(server.data_dir)]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    with FleetClient(server.url, made.stdout.strip()) as client:
        assert client.who()["roles"] == ["admin"]
    nowhere = CliRunner().invoke(app, [*arguments[:-1], str(server.data_dir / "nothing")])
    assert (nowhere.exit_code, "[access.data_dir]" in nowhere.stderr) == (2, True)


def test_a_request_has_an_id(server: AdminServer) -> None:
    with server.http() as http:
        assert len(http.get("/api/v1/who").headers["X-Request-Id"]) == 16
        chosen = http.post("/api/v1/tokens", json={"device": "a"}, headers={"X-Request-Id": "proxy-4711"})
        assert chosen.headers["X-Request-Id"] == "proxy-4711"
        assert http.get("/api/v1/audit").json()["items"][0]["request"] == "proxy-4711"
        assert http.get("/api/v1/who", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"] != "a b"
