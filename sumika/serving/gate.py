"""The gate: before any handler runs, who asks, whether the table lets them, and which fields they give."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.serving import auth, requests
from sumika.serving.access import Rule, Table, check_fields, check_route
from sumika.serving.auth import Authenticator
from sumika.serving.media_types import check_json, media_type
from sumika.serving.peer import address
from sumika.serving.proxy import ClientGone, read_body
from sumika.serving.replies import error_response
from sumika.serving.wrong_keys import WrongKeys

# Nothing that administers is longer.
_MOST_BYTES = 64 * 1024
_BODY_TIMEOUT_S = 10.0
# Within this a worker would not have learnt of a revocation either.
_CONFIRMED_AFTER_S = 0.05
_SAFE = ("GET", "HEAD", "OPTIONS")
# A body that comes with its headers is there by then.
_SOON_S = 0.2
SESSION_COOKIE = "__Host-sumika"


class Gate:
    """Lets through to `app` what the table allows, with `scope["state"]["principal"]`; answers the rest itself.

    `tokens` know what comes as a Bearer token, `sessions` what a browser holds as a cookie, which opens what `Rule.by_session` says.
    `origin`: where our own pages lie (`https://ai.example.co.jp`). `owned` holds what a path names against who asks
    (`ownership.py`). `refused` is told of each status given here, `answer` words it.
    """

    def __init__(
        self,
        app: ASGIApp,
        table: Table,
        tokens: Sequence[Authenticator],
        sessions: Authenticator,
        origin: str | None,
        owned: Callable[[Principal, Rule, str], Awaitable[None]],
        refused: Callable[[int], None],
        answer: Callable[[SumikaError, Scope], ASGIApp] = error_response,
        wrong: WrongKeys | None = None,
    ) -> None:
        self._app = app
        self._table = table
        self._tokens = tokens
        self._sessions = sessions
        self._origin = origin
        self._owned = owned
        self._refused = refused
        self._wrong = wrong or WrongKeys()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            try:
                receive = await self._admitted(scope, receive)
            except ClientGone:
                return
            except SumikaError as error:
                self._refused(error.status)
                await self._answer(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive) -> Receive:
        """What to read the request's body from.

        Raises:
            SumikaError: whatever the request is refused with.
        """
        rule = self._table.find(scope["method"], scope["path"])
        if rule.endpoint is None:
            return receive
        try:
            principal = await self._let(scope, rule)
        except SumikaError as error:
            raise await self._refusal(error, scope, receive) from None
        if rule.takes_json:
            check_json(scope["headers"])
        confirmed = self._confirming(scope, receive, rule)
        readable = await _with_fields(scope, confirmed, rule, principal) if rule.looks_inside else confirmed
        await self._owned(principal, rule, scope["path"])
        return readable

    async def _refusal(self, error: SumikaError, scope: Scope, receive: Receive) -> SumikaError:
        """The same error; for a wrong key later where many came, and saying so where the key stands in the wrong place."""
        if error.status != 401:
            return error
        if any(name in (b"authorization", b"x-api-key", b"cookie") for name, _ in scope["headers"]):
            await self._wrong.slow(scope)
        return auth.in_the_wrong_place() if await _misplaced(scope, receive) else error

    async def _let(self, scope: Scope, rule: Rule) -> Principal:
        principal = scope["state"]["principal"] = replace(await self._who(scope, rule), source=address(scope))
        check_route(principal, rule)
        return principal

    def _confirming(self, scope: Scope, receive: Receive, rule: Rule) -> Receive:
        """Asks again who it is once the whole body is there: it may have taken half a minute, and a key have been revoked."""
        began = time.monotonic()

        async def read() -> Message:
            message = await receive()
            late = time.monotonic() - began > _CONFIRMED_AFTER_S
            if late and message["type"] == "http.request" and not message.get("more_body", False):
                await self._let(scope, rule)
            return message

        return read

    async def _who(self, scope: Scope, rule: Rule) -> Principal:
        held = _session(scope) if rule.by_session else None
        if held is None:
            return await auth.authenticate(scope, self._tokens)
        principal = await self._sessions.identify(held)
        if principal is None:
            raise auth.unknown()
        check_origin(scope, self._origin)
        return principal


def check_origin(scope: Scope, origin: str | None) -> None:
    """A browser sends its cookie from any page; only ours may change something with it.

    Raises:
        SumikaError: `cross_site` (403).
    """
    if scope["method"] in _SAFE:
        return
    # Where nobody said how browsers reach us, they say themselves whether the page is ours; no page can set this header.
    name, ours = (b"origin", origin) if origin is not None else (b"sec-fetch-site", "same-origin")
    if [value.decode("latin-1") for told, value in scope["headers"] if told == name] == [ours]:
        return
    raise SumikaError(
        "cross_site",
        "This request came from another site's page. Use the console, or a key.",
        "このリクエストは別のサイトのページから送られました。コンソールまたはキーを使ってください。",
        status=403,
    )


def session_of(scope: Scope) -> str | None:
    """What the browser holds of a session."""
    cookies = b"; ".join(value for name, value in scope["headers"] if name == b"cookie").decode("latin-1")
    return cookie_parser(cookies).get(SESSION_COOKIE) if cookies else None


def _session(scope: Scope) -> str | None:
    """The session to go by: none where a token is given, which goes first."""
    return None if any(name == b"authorization" for name, _ in scope["headers"]) else session_of(scope)


async def _misplaced(scope: Scope, receive: Receive) -> bool:
    """Whether a key stands in the query, or in the part of the body that is there already: nobody waits for the rest."""
    if auth.misplaced(scope["query_string"]):
        return True
    if scope["method"] in _SAFE or any(name == b"expect" for name, _ in scope["headers"]):
        return False
    try:
        async with asyncio.timeout(_SOON_S):
            message = await receive()
    except TimeoutError:
        return False
    return auth.misplaced(message.get("body", b"")[:_MOST_BYTES])


async def _with_fields(scope: Scope, receive: Receive, rule: Rule, principal: Principal) -> Receive:
    """The body, read and looked through, to be read again by the handler."""
    given = [name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)]
    if b"%00" in scope["query_string"]:  # PostgreSQL takes it in no text
        raise SumikaError("invalid_request", "The query holds a NUL character.", "クエリに NUL 文字が含まれています。")
    if len(set(given)) != len(given):
        raise SumikaError("invalid_request", "A field is given twice in the query.", "クエリに同じ項目が2回指定されています。")
    check_fields(principal.role, rule, given)
    if scope["method"] in _SAFE:
        return receive
    body = await read_body(scope, receive, _MOST_BYTES, _BODY_TIMEOUT_S)
    if body:
        check_fields(principal.role, rule, _form(scope, body) if rule.form else _object(scope, body))
    return _again(body, receive)


def _form(scope: Scope, body: bytes) -> list[str]:
    """The names that a page's form gives; a name may come several times."""
    kind = media_type(scope["headers"]).get_content_type()
    if kind != "application/x-www-form-urlencoded" or b"%00" in body or not body.isascii():
        raise SumikaError(
            "unsupported_type", "This is no form of the console.", "コンソールのフォームではありません。", status=415
        )
    return [name for name, _ in parse_qsl(body.decode("ascii"), keep_blank_values=True)]


def _object(scope: Scope, body: bytes) -> dict[str, Any]:
    check_json(scope["headers"])
    data = requests.read_json(body)
    if not isinstance(data, dict):
        raise SumikaError("invalid_request", "The body must be an object.", "本文はJSONオブジェクトにしてください。")
    return data


def _again(body: bytes, receive: Receive) -> Receive:
    """`body` once, then whatever else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return waiting.pop() if waiting else await receive()

    return read
