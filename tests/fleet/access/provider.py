"""A login provider on real HTTP with real RS256 signatures, which can be told to lie in one way."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT = "wheeltapper"


class Provider:
    """Serves while the ``with`` statement lasts. Everybody is ``claims``.

    Args:
        claims: what the ID token says of the person.
    """

    def __init__(self, **claims: Any) -> None:
        self.claims = {"sub": "7", **claims}
        self.key = RSAKey.generate_key(2048, {"kid": "1"})
        self.shown = [self.key]
        self.change: Callable[[dict[str, Any]], None] = lambda token: None
        self.sign: Callable[[dict[str, Any]], str] = lambda token: jwt.encode(
            {"alg": "RS256", "kid": self.key.kid}, token, self.key
        )
        self.codes: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests.append(self.path)
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                if parts.path == "/.well-known/openid-configuration":
                    self.answer(200, provider.document())
                elif parts.path == "/keys":
                    self.answer(200, {"keys": [key.as_dict(private=False) for key in provider.shown]})
                elif parts.path == "/authorize":
                    code = base64.urlsafe_b64encode(hashlib.sha256(self.path.encode()).digest()).decode()
                    provider.codes[code] = query
                    self.send_response(302)
                    self.send_header(
                        "Location", query["redirect_uri"] + "?" + urlencode({"code": code, "state": query["state"]})
                    )
                    self.end_headers()
                else:
                    self.answer(404, {"error": "not_found"})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                asked = provider.codes.pop(form.get("code", ""), None)
                digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                if (
                    asked is None
                    or asked["code_challenge"] != challenge
                    or asked["redirect_uri"] != form["redirect_uri"]
                ):
                    self.answer(400, {"error": "invalid_grant"})
                    return
                now = int(time.time())
                token = {"iss": provider.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
                token |= provider.claims
                provider.change(token)
                self.answer(200, {"access_token": "a", "token_type": "Bearer", "id_token": provider.sign(token)})

            def answer(self, status: int, value: dict[str, Any]) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self.named = self.issuer
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def document(self) -> dict[str, Any]:
        """The discovery document."""
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return {"issuer": self.named} | {name: f"{self.issuer}/{path}" for name, path in names.items()}

    def __enter__(self) -> Provider:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
