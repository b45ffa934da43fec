"""Signing in with an OpenID Connect provider: authorization code flow with PKCE.

Invariants:
    * A login is finished by the browser that began it: ``state`` must be what its cookie holds, and the ID token must
      hold its ``nonce``. The code is of no use without the verifier, which never leaves cookie and service.
    * An ID token is accepted only with a signature by a key of the provider, from the issuer, for this client, in its
      time. Symmetric and unsigned tokens are refused.
    * Roles come from a claim, by a mapping that the operator states. Whoever has none of them is refused.
    * The provider is asked over HTTPS, but on loopback. It is asked only while somebody signs in.

What this module does not do: keep tokens of the provider. The session that follows ends by itself.

Source: OpenID Connect Core 1.0 (sections 3.1 and 3.1.3.7) and Discovery 1.0; PKCE: RFC 7636.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from wheeltapper_fleet.access.permissions import Role, read_roles
from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["CALLBACK", "OidcConfig", "OidcLogin", "read_oidc_config"]

CALLBACK: Final = "/sign-in/oidc/callback"
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
_TIMEOUT_SECONDS: Final = 10.0
_DISCOVERY_SECONDS: Final = 3600.0
_KEYS_SECONDS: Final = 60.0
_LEEWAY_SECONDS: Final = 60
_MAX_ANSWER_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class OidcConfig:
    """How people sign in with a provider.

    Args:
        issuer: the provider's issuer URL, exactly as it names itself.
        client_id: this service's name at the provider.
        client_secret: its secret there; empty for a public client.
        page_url: the page's URL as browsers see it; the provider must know ``<page_url>/sign-in/oidc/callback``.
        roles: from a value of ``roles_claim`` to a role.
        roles_claim: which claim of the ID token holds them; a dot leads into it.
        name_claim: which claim holds the person's name.
        scopes: what is asked for.
        ca: PEM file to verify the provider with; None: the system's.
    """

    issuer: str
    client_id: str
    page_url: str
    roles: Mapping[str, Role]
    client_secret: str = field(default="", repr=False)
    roles_claim: str = "groups"
    name_claim: str = "preferred_username"
    scopes: str = "openid profile email"
    ca: Path | None = None


def read_oidc_config(values: Mapping[str, Any]) -> OidcConfig:
    """Read the table ``[oidc]`` of the configuration.

    Raises:
        FleetError: ``config.unknown_key``, ``config.invalid``, ``config.unreadable``, ``access.role``.
    """
    texts = {"issuer", "client_id", "client_secret_file", "page_url", "roles_claim", "name_claim", "scopes", "ca"}
    unknown = sorted(set(values) - texts - {"roles"})
    if unknown:
        raise FleetError("config.unknown_key", f"unknown setting oidc.{unknown[0]}; known are: {', '.join(texts)}", 400)
    wrong = sorted(name for name in texts & set(values) if not isinstance(values[name], str) or not values[name])
    missing = sorted({"issuer", "client_id", "page_url"} - set(values))
    mapping = values.get("roles")
    if wrong or missing or not isinstance(mapping, Mapping) or not mapping:
        name = (wrong or missing or ["roles"])[0]
        raise FleetError("config.invalid", f"oidc.{name} is missing or not of its kind; see docs/operations.md", 400)
    for name in ("issuer", "page_url"):
        _check_url(f"oidc.{name}", values[name], "config.invalid", 400)
    given = {name: values[name] for name in texts - {"client_secret_file", "ca"} if name in values}
    if "client_secret_file" in values:
        try:
            given["client_secret"] = Path(values["client_secret_file"]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FleetError("config.unreadable", f"cannot read oidc.client_secret_file: {error}", 400) from error
    roles = {str(value): next(iter(read_roles([role]))) for value, role in mapping.items()}
    return OidcConfig(**given, roles=roles, ca=Path(values["ca"]) if "ca" in values else None)


class OidcLogin:
    """Begins and finishes logins; may be called from any thread.

    Args:
        config: the provider, and what its claims mean.
        clock: Unix seconds.
    """

    def __init__(self, config: OidcConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._provider: tuple[dict[str, Any], float] = ({}, float("-inf"))
        self._keys: tuple[dict[str, Any], float] = ({}, float("-inf"))

    @property
    def provider_name(self) -> str:
        """The provider's host, for the button."""
        return urlsplit(self._config.issuer).hostname or self._config.issuer

    def begin(self) -> tuple[str, str]:
        """Where to send the browser, and the value of its cookie until it comes back.

        Raises:
            FleetError: ``oidc.provider``.
        """
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # type: ignore[import-untyped]  # no types
        from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]  # no types

        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        url = prepare_grant_uri(
            self._endpoint("authorization_endpoint"),
            client_id=self._config.client_id,
            response_type="code",
            redirect_uri=self._config.page_url.rstrip("/") + CALLBACK,
            scope=self._config.scopes,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return str(url), f"{state}.{nonce}.{verifier}"

    def finish(self, query: Mapping[str, str], cookie: str | None) -> Principal:
        """Who has signed in.

        Args:
            query: of the callback's URL.
            cookie: what :meth:`begin` gave to the browser.

        Raises:
            FleetError: ``oidc.state``, ``oidc.refused``, ``oidc.provider``, ``oidc.token``, ``oidc.no_role``.
        """
        state, _, rest = (cookie or "").partition(".")
        nonce, _, verifier = rest.partition(".")
        if not (state and nonce and verifier) or not secrets.compare_digest(
            state.encode(), query.get("state", "").encode()
        ):
            raise FleetError("oidc.state", "this login was not begun in this browser, or long ago; sign in again", 400)
        if "error" in query or "code" not in query:
            said = f"{query.get('error', 'no code')} {query.get('error_description', '')}".strip()[:200]
            raise FleetError("oidc.refused", f"the provider refused the login: {said}", 403)
        claims = self._claims(self._exchange(query["code"], verifier), nonce)
        return self._principal(claims)

    def _exchange(self, code: str, verifier: str) -> Mapping[str, Any]:
        """The provider's tokens for a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._config.page_url.rstrip("/") + CALLBACK,
            "client_id": self._config.client_id,
            "code_verifier": verifier,
        }
        secret = self._config.client_secret
        auth = httpx.BasicAuth(self._config.client_id, secret) if secret else None
        return self._ask("POST", self._endpoint("token_endpoint"), data=form, auth=auth)

    def _claims(self, tokens: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """The claims of the ID token, verified."""
        from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]  # no types
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        text = tokens.get("id_token")
        if not isinstance(text, str):
            raise FleetError("oidc.token", "the provider sent no ID token", 403)
        for fresh in (False, True):  # a key that is not known may be a new one
            try:
                keys = KeySet.import_key_set(self._key_set(fresh))  # type: ignore[arg-type]  # as the provider gave it
                decoded = jwt.decode(text, keys, algorithms=list(_ALGORITHMS))
                break
            except (JoseError, ValueError, KeyError, TypeError) as error:
                if fresh:
                    raise FleetError("oidc.token", f"the ID token does not verify: {error}"[:300], 403) from error
        options = {
            "iss": {"essential": True, "value": self._config.issuer},
            "aud": {"essential": True, "value": self._config.client_id},
        }
        parameters = {"nonce": nonce, "client_id": self._config.client_id, "access_token": tokens.get("access_token")}
        claims = CodeIDToken(decoded.claims, decoded.header, options, parameters)
        try:
            claims.validate(now=int(self._clock()), leeway=_LEEWAY_SECONDS)
        except Exception as error:  # the library raises errors of several families
            raise FleetError("oidc.token", f"the ID token is not for this login: {error}"[:300], 403) from error
        return dict(decoded.claims)

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        name = next(
            (str(claims[each]) for each in (self._config.name_claim, "email", "sub") if claims.get(each)), "unknown"
        )
        found: Any = claims
        for part in self._config.roles_claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        values = found if isinstance(found, list) else [found] if isinstance(found, str) else []
        roles = frozenset(self._config.roles[value] for value in values if value in self._config.roles)
        if not roles:
            message = f"{name} has no role in this fleet; its claim {self._config.roles_claim} names none of oidc.roles"
            raise FleetError("oidc.no_role", message, 403)
        return Principal(name[:128], roles, f"login:{self._config.issuer} {claims.get('sub', '')}"[:200])

    def _endpoint(self, name: str) -> str:
        """An endpoint of the provider, by its discovery document."""
        with self._lock:
            found, at = self._provider
            if self._clock() - at > _DISCOVERY_SECONDS:
                found = self._ask("GET", self._config.issuer.rstrip("/") + "/.well-known/openid-configuration")
                if found.get("issuer") != self._config.issuer:
                    message = (
                        f"the provider calls itself {str(found.get('issuer'))[:200]!r}, not {self._config.issuer!r}"
                    )
                    raise FleetError("oidc.provider", message, 502)
                self._provider = (found, self._clock())
        url = str(found.get(name, ""))
        _check_url(name, url, "oidc.provider", 502)
        return url

    def _key_set(self, fresh: bool) -> dict[str, Any]:
        """The provider's keys; ``fresh``: asked again, at most once a minute."""
        url = self._endpoint("jwks_uri")
        with self._lock:
            found, at = self._keys
            age = self._clock() - at
            if age > _DISCOVERY_SECONDS or (fresh and age > _KEYS_SECONDS):
                found = self._ask("GET", url)
                self._keys = (found, self._clock())
            return found

    def _ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """Ask the provider for JSON.

        Raises:
            FleetError: ``oidc.provider``.
        """
        verify = True if self._config.ca is None else str(self._config.ca)
        try:
            with httpx.Client(timeout=_TIMEOUT_SECONDS, verify=verify, trust_env=False) as client:
                answer = client.request(method, url, **{key: each for key, each in options.items() if each is not None})
                value = json.loads(answer.content[:_MAX_ANSWER_BYTES])
        except (httpx.HTTPError, ValueError, OSError, RecursionError) as error:
            message = f"the login provider does not answer as it should: {type(error).__name__}"
            raise FleetError("oidc.provider", message, 502) from error
        if answer.status_code != 200 or not isinstance(value, dict):
            said = str(value.get("error", "")) if isinstance(value, dict) else ""
            message = f"the login provider answered with status {answer.status_code} {said}".strip()
            raise FleetError("oidc.provider" if answer.status_code >= 500 else "oidc.refused", message[:200], 502)
        return value


def _check_url(name: str, url: str, code: str, status: int) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise FleetError(code, f"{name} must be an https:// URL, not {url[:200]!r}", status)
