"""`/console/sign-in`: at the company's issuer, or by pasting a key once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Scope

from sumika.models import sessions
from sumika.models.errors import SumikaError
from sumika.models.oidc_settings import OidcSettings
from sumika.models.principals import Principal
from sumika.serving import browser_sessions
from sumika.serving.access import CONSOLE, at_console
from sumika.serving.auth import Authenticator
from sumika.serving.browser_sessions import BrowserSessions
from sumika.serving.console.pages import Pages, one
from sumika.serving.gate import SESSION_COOKIE, check_origin, session_of
from sumika.serving.oidc.ticket import own_path
from sumika.serving.peer import address
from sumika.serving.proxy import read_body
from sumika.serving.wrong_keys import WrongKeys

_MOST_BYTES = 4096
_BODY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class KeyHolders:
    """`keys` knows whose a key is; `browsers` keeps the session."""

    keys: Authenticator
    browsers: BrowserSessions
    wrong: WrongKeys

    async def begin(self, secret: str, before: str | None, scope: Scope) -> str:
        """The new session's cookie.

        Raises:
            SumikaError: `invalid_api_key` (401); `forbidden` (403), for a key that administers nothing; `too_many_wrong_keys` (429).
        """
        principal = await self.keys.identify(secret)
        if principal is None:
            await self.wrong.slow(scope)
            raise SumikaError(
                "invalid_api_key",
                "This is no valid key. Look whether the whole of it was pasted; an ended one opens nothing.",
                "このキーは無効です。全体を貼り付けたか確認してください。失効・期限切れのキーは使えません。",
                status=401,
            )
        if not _administers(principal):
            raise SumikaError(
                "forbidden",
                "This key calls models and administers nothing. Sign in with an engineer's or administrator's key.",
                "このキーは推論専用です。管理者またはエンジニアのキーでサインインしてください。",
                status=403,
            )
        return await asyncio.to_thread(self.browsers.begin, replace(principal, source=address(scope)), before)


def router(pages: Pages, oidc: OidcSettings, holders: KeyHolders) -> APIRouter:
    routes = APIRouter(prefix="/sign-in")
    issuers = [issuer.name for issuer in oidc.issuers] if oidc.public_url else []

    @routes.get("")
    async def show(request: Request, next: str = "") -> Response:
        return pages.show(request, "sign_in.html", issuers=issuers, next=_own(next))

    @routes.post("")
    async def begin(request: Request) -> Response:
        check_origin(request.scope, oidc.public_url)
        body = await read_body(request.scope, request.receive, _MOST_BYTES, _BODY_TIMEOUT_S)
        given = parse_qs(body.decode("ascii", errors="replace"), max_num_fields=4)
        cookie = await holders.begin(one(given, "key"), session_of(request.scope), request.scope)
        answer = pages.goes_to(request, _own(one(given, "next")))
        browser_sessions.keep(answer, SESSION_COOKIE, cookie, int(sessions.LONGEST.total_seconds()))
        return answer

    return routes


def _own(next: str) -> str:
    """Where to go on: a page of the console, or the first one, whatever somebody put into a link."""
    path = own_path(next)
    return path if at_console(path.partition("?")[0]) else CONSOLE


def _administers(principal: Principal) -> bool:
    return principal.role in ("admin", "engineer") and principal.may_reach("admin")
