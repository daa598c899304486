"""A local issuer: a real HTTP server with RSA and EC keys of its own, which signs what a test asks for, right or wrong."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE, CONSOLE, CLIENT = "sumika-api", "sumika-console", "batch-job"


def new_rsa(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk(key: PrivateKeyTypes, kid: str, **more: Any) -> dict[str, Any]:
    public = key.public_key()  # type: ignore[union-attr]
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(public, as_dict=True), "kid": kid, "use": "sig"} | more  # type: ignore[arg-type]


def b64(data: bytes | str | dict[str, Any]) -> str:
    raw = json.dumps(data).encode() if isinstance(data, dict) else data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """At `url`; `asked` counts the requests by path. `broken`: status that it answers everything with."""

    def __init__(self) -> None:
        self.rsa, self.ec = new_rsa(), ec.generate_private_key(ec.SECP256R1())
        self.keys = [jwk(self.rsa, "rsa-1"), jwk(self.ec, "ec-1")]
        self.asked: Counter[str] = Counter()
        self.broken: int | None = None
        self.delay_s = 0.0
        # Of a sign-in: what each code stands for.
        self.codes: dict[str, dict[str, Any]] = {}
        # Whom its page offers to sign in as: a label, and the claims that are theirs.
        self.people: dict[str, dict[str, Any]] = {}
        self.clients: list[tuple[str, str]] = []  # id and secret, as Basic authentication brought them
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer._answer(self, None)

            def do_POST(self) -> None:
                basic = self.headers.get("authorization", "").removeprefix("Basic ")
                name, _, secret = base64.b64decode(basic).decode().partition(":")
                issuer.clients.append((unquote(name), unquote(secret)))
                issuer._answer(self, self.rfile.read(int(self.headers["content-length"])).decode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Of a good access token in Keycloak's shape; a claim that is changed to None is left out."""
        now = int(time.time())
        made = {
            "iss": self.url, "aud": AUDIENCE, "sub": "5f1c0a3e", "azp": CLIENT, "typ": "Bearer", "iat": now, "exp": now + 300,
            "jti": secrets.token_hex(8), "groups": ["llm-engineers"], "preferred_username": "sato", "scope": "openid",
        } | changed  # fmt: skip
        return {name: value for name, value in made.items() if value is not None}

    def token(self, claims: dict[str, Any] | None = None, *, key: Any = None, algorithm: str = "RS256", **header: Any) -> str:
        """Signed over exactly these claims; `header` is added to it, what is None left out."""
        head = {"alg": algorithm, "typ": "JWT", "kid": "ec-1" if algorithm.startswith("ES") else "rsa-1"} | header
        key = key or (self.ec if algorithm.startswith("ES") else self.rsa)
        return self.signed(
            {k: v for k, v in head.items() if v is not None}, self.claims() if claims is None else claims, key, algorithm
        )

    @staticmethod
    def signed(head: dict[str, Any] | str, body: dict[str, Any] | str, key: Any, algorithm: str) -> str:
        """A compact JWS of whatever stands in `head` and `body`, spelled as given where they are texts."""
        text = f"{b64(head)}.{b64(body)}"
        return f"{text}.{b64(jwt.get_algorithm_by_name(algorithm).sign(text.encode(), key))}"

    def code_for(self, asked: dict[str, str], **changed: Any) -> str:
        """What the issuer's page would send the browser back with, after somebody signed in."""
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked | {"changed": changed}
        return code

    def _answer(self, request: BaseHTTPRequestHandler, form: str | None) -> None:
        path = urlsplit(request.path).path
        self.asked[path] += 1
        time.sleep(self.delay_s)
        if path == "/authorize" and self.broken is None:
            self._show_people(request)
            return
        status, body = (self.broken, {}) if self.broken is not None else self._made(path, form)
        data = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _show_people(self, request: BaseHTTPRequestHandler) -> None:
        """Its own page: a link for each of `people`, as a person would choose their account, and one for who gives up."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}

        def back(**more: str) -> str:
            return html.escape(f"{asked['redirect_uri']}?{urlencode(more | {'state': asked['state']})}")

        links = [f'<p><a href="{back(code=self.code_for(asked, **who))}">{name}</a>' for name, who in self.people.items()]
        data = (
            f'<!doctype html><title>issuer</title>{"".join(links)}<p><a href="{back(error="access_denied")}">Cancel</a>'.encode()
        )
        request.send_response(200)
        request.send_header("content-type", "text/html; charset=utf-8")
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _made(self, path: str, form: str | None) -> tuple[int, dict[str, Any]]:
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
            }  # fmt: skip
        if path == "/jwks":
            return 200, {"keys": self.keys}
        if path == "/token" and form is not None:
            return self._redeemed({name: values[0] for name, values in parse_qs(form).items()})
        return 404, {}

    def _redeemed(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A code is good once, for the verifier of its challenge and the address that it was asked for."""
        asked = self.codes.pop(form.get("code", ""), None)
        challenge = b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        claims = self.claims(aud=asked["client_id"], azp=asked["client_id"], typ="ID", nonce=asked["nonce"], scope=None)
        return 200, {"id_token": self.token(claims | asked["changed"]), "token_type": "Bearer", "access_token": "opaque"}
