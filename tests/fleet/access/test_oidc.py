"""Signing in with a login provider: over real HTTP, with providers that tell the truth and that lie."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from tests.fleet.access.provider import CLIENT, Provider
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.access.oidc import OidcConfig, OidcLogin, read_oidc_config
from wheeltapper_fleet.access.permissions import Role
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.broker.server import free_port
from wheeltapper_fleet.ground.errors import FleetError

ROLES = {"wt-admins": Role.ADMIN, "wt-approvers": Role.APPROVER}
PAGE = "http://127.0.0.1:1"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(preferred_username="ann", groups=["staff", "wt-approvers"]) as running:
        yield running


def login_of(provider: Provider, **changes: Any) -> OidcLogin:
    settings = {"issuer": provider.issuer, "client_id": CLIENT, "page_url": PAGE, "roles": ROLES, **changes}
    return OidcLogin(OidcConfig(**settings), time.time)


def come_back(login: OidcLogin) -> tuple[dict[str, str], str]:
    """Go to the provider and come back: the callback's query, and the browser's cookie."""
    url, cookie = login.begin()
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == 302
    return dict(httpx.URL(answer.headers["Location"]).params), cookie


def refused(login: OidcLogin, query: dict[str, str], cookie: str | None) -> str:
    with pytest.raises(FleetError) as caught:
        login.finish(query, cookie)
    return caught.value.code


def test_a_person_signs_in_with_the_roles_of_the_mapping(provider: Provider) -> None:
    found = login_of(provider).finish(*come_back(login_of(provider)))
    assert (found.name, found.roles) == ("ann", frozenset({Role.APPROVER}))
    assert found.via == f"login:{provider.issuer} 7"


def test_a_claim_may_lie_deeper_and_be_one_text(provider: Provider) -> None:
    provider.claims |= {"realm_access": {"roles": "wt-admins"}}
    login = login_of(provider, roles_claim="realm_access.roles", name_claim="nothing")
    found = login.finish(*come_back(login))
    assert (found.name, found.roles) == ("7", frozenset({Role.ADMIN}))


def test_a_code_is_good_once_and_only_where_the_login_began(provider: Provider) -> None:
    login = login_of(provider)
    query, cookie = come_back(login)
    _, other = login.begin()
    state, nonce, verifier = cookie.split(".")
    for wrong in (None, "", ".", other, f"{state}..{verifier}", f".{nonce}.{verifier}"):
        assert refused(login, query, wrong) == "oidc.state"
    assert refused(login, {**query, "state": "é"}, cookie) == "oidc.state"
    assert refused(login, query, f"{state}.{nonce}.{other.split('.')[2]}") == "oidc.refused", "another verifier"
    query, cookie = come_back(login)
    login.finish(query, cookie)
    assert refused(login, query, cookie) == "oidc.refused", "the code was used"
    assert refused(login, {"state": query["state"], "error": "access_denied"}, cookie) == "oidc.refused"


LIES: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("another nonce", lambda token: token.update(nonce="x")),
    ("no nonce", lambda token: token.pop("nonce")),
    ("another audience", lambda token: token.update(aud="other")),
    ("more audiences without a party", lambda token: token.update(aud=[CLIENT, "other"])),
    ("another party", lambda token: token.update(azp="other")),
    ("another issuer", lambda token: token.update(iss="http://127.0.0.1:2")),
    ("over", lambda token: token.update(exp=int(time.time()) - 120)),
    ("no end", lambda token: token.pop("exp")),
    ("not yet", lambda token: token.update(nbf=int(time.time()) + 3600)),
    ("no subject", lambda token: token.pop("sub")),
]


@pytest.mark.parametrize("lie", [each for _, each in LIES], ids=[name for name, _ in LIES])
def test_an_id_token_of_another_login_is_refused(provider: Provider, lie: Callable[[dict[str, Any]], None]) -> None:
    provider.change = lie
    login = login_of(provider)
    assert refused(login, *come_back(login)) == "oidc.token"


def unsigned(token: dict[str, Any]) -> str:
    import base64

    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, token)
    ]
    return ".".join([*parts, ""])


def test_a_signature_that_is_not_the_providers_is_refused(provider: Provider) -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "1"})
    public = OctKey.import_key(json.dumps(provider.key.as_dict(private=False)))
    for sign in (
        lambda token: jwt.encode({"alg": "RS256", "kid": "1"}, token, stranger),
        lambda token: jwt.encode({"alg": "HS256", "kid": "1"}, token, public),
        unsigned,
        lambda token: "no.token.at-all",
    ):
        provider.sign = sign
        login = login_of(provider)
        assert refused(login, *come_back(login)) == "oidc.token"


def test_a_new_key_of_the_provider_is_learnt(provider: Provider) -> None:
    now = [time.time()]
    config = OidcConfig(issuer=provider.issuer, client_id=CLIENT, page_url=PAGE, roles=ROLES)
    login = OidcLogin(config, lambda: now[0])
    login.finish(*come_back(login))
    provider.key = RSAKey.generate_key(2048, {"kid": "2"})
    provider.shown.append(provider.key)
    now[0] += 61
    login.finish(*come_back(login))
    assert provider.requests.count("/keys") == 2


def test_whoever_has_no_role_is_refused(provider: Provider) -> None:
    for groups in ([], None, "staff", ["wt-admin"], {"wt-admins": 1}, 7):
        provider.claims["groups"] = groups
        login = login_of(provider)
        assert refused(login, *come_back(login)) == "oidc.no_role"


def test_a_provider_that_is_another_or_away_is_said(provider: Provider) -> None:
    provider.named = "https://other.example"
    with pytest.raises(FleetError, match=r"other\.example.*\[oidc\.provider\]"):
        login_of(provider).begin()
    gone = OidcConfig(issuer=f"http://127.0.0.1:{free_port('127.0.0.1')}", client_id=CLIENT, page_url=PAGE, roles=ROLES)
    with pytest.raises(FleetError, match=r"\[oidc\.provider\]"):
        OidcLogin(gone, time.time).begin()


def test_the_page_signs_in_through_the_provider(provider: Provider, tmp_path: Path) -> None:
    config = OidcConfig(issuer=provider.issuer, client_id=CLIENT, page_url=PAGE, roles=ROLES)
    with (
        AdminServer(tmp_path / "data", login=OidcLogin(config, time.time)) as server,
        httpx.Client(base_url=server.url, trust_env=False) as browser,
    ):
        assert "/sign-in/oidc" in browser.get("/").text
        away = browser.get("/sign-in/oidc")
        assert "SameSite=lax" in away.headers["set-cookie"]
        assert "HttpOnly" in away.headers["set-cookie"]
        back = httpx.get(away.headers["Location"], trust_env=False).headers["Location"]
        path = f"{urlsplit(back).path}?{urlsplit(back).query}"
        with httpx.Client(base_url=server.url, trust_env=False) as stranger:
            assert stranger.get(path).status_code == 400, "the browser of another does not finish it"
        done = browser.get(path)
        assert done.status_code == 200
        assert 'http-equiv="refresh"' in done.text
        assert COOKIE in browser.cookies
        assert browser.get("/api/v1/who").json() | {"permissions": 0} == {
            "name": "ann", "via": f"login:{provider.issuer} 7", "roles": ["approver"], "permissions": 0, "scope": ""
        }  # fmt: skip
        assert 'class="who">ann<' in browser.get("/").text
        browser.post("/sign-out")
        assert browser.get("/api/v1/who").status_code == 401


def test_with_a_provider_that_others_wrote(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    claims = {"sub": "bob", "preferred_username": "bob", "groups": ["wt-admins"]}
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "-p", str(port), "--require-nonce", "true"]
    with subprocess.Popen(
        [*command, "--user-claims", json.dumps(claims)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            issuer = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                try:
                    document = httpx.get(f"{issuer}/.well-known/openid-configuration", trust_env=False)
                    break
                except httpx.HTTPError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    time.sleep(0.1)
            config = OidcConfig(
                issuer=document.json()["issuer"], client_id=CLIENT, client_secret="s", page_url=PAGE, roles=ROLES
            )  # a test's
            login = OidcLogin(config, time.time)
            url, cookie = login.begin()
            agreed = httpx.post(url, data={"sub": "bob"}, trust_env=False)
            assert agreed.status_code == 302, agreed.text
            found = login.finish(dict(httpx.URL(agreed.headers["Location"]).params), cookie)
            assert (found.name, found.roles) == ("bob", frozenset({Role.ADMIN}))
        finally:
            process.terminate()


GOOD: dict[str, Any] = {
    "issuer": "https://id.example",
    "client_id": "w",
    "page_url": "https://f.example",
    "roles": {"a": "admin"},
}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"issuer": "http://id.example"}, "config.invalid"),
        ({"page_url": ""}, "config.invalid"),
        ({"roles": {}}, "config.invalid"),
        ({"roles": {"a": "king"}}, "access.role"),
        ({"secret": "x"}, "config.unknown_key"),
        ({"client_secret_file": "/nowhere"}, "config.unreadable"),
        ({"client_id": 7}, "config.invalid"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(change: dict[str, Any], code: str) -> None:
    assert read_oidc_config(GOOD).roles == {"a": Role.ADMIN}
    with pytest.raises(FleetError, match=re.escape(f"[{code}]")):
        read_oidc_config({**GOOD, **change})
