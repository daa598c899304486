"""`/auth/login`, `/auth/callback`, `/auth/logout`: the code flow with PKCE, for people in front of the console."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from sumika.models import audit, sessions
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, quoted
from sumika.models.oidc_settings import IssuerSettings, OidcSettings
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving import browser_sessions
from sumika.serving.browser_sessions import BrowserSessions
from sumika.serving.gate import SESSION_COOKIE, check_origin, session_of
from sumika.serving.oidc import people, tokens
from sumika.serving.oidc.fetching import Unreachable, unreachable
from sumika.serving.oidc.provider import Provider
from sumika.serving.oidc.ticket import LIFE_S, Ticket, Tickets
from sumika.serving.oidc.tokens import Refused
from sumika.serving.peer import address

log = logging.getLogger(__name__)

_TICKET_COOKIE = "__Host-sumika-login"
_CALLBACK = "/auth/callback"
_LONGEST = 4096


def router(
    settings: OidcSettings, providers: Sequence[Provider], tickets: Tickets, store: Store, browsers: BrowserSessions
) -> APIRouter:
    routes = APIRouter(prefix="/auth")
    login = _Login(settings, providers, store)

    @routes.get("/login")
    async def begin(issuer: str = "", next: str = "/") -> Response:
        provider = login.provider(issuer)
        ticket = Ticket.new(provider.settings.name, next)
        response = RedirectResponse(await login.leads_to(provider, ticket), status_code=303)
        browser_sessions.keep(response, _TICKET_COOKIE, tickets.seal(ticket), LIFE_S)
        return response

    @routes.get("/callback")
    async def callback(request: Request) -> Response:
        ticket = tickets.open(request.cookies.get(_TICKET_COOKIE, ""))
        principal = replace(await login.principal(ticket, request), source=address(request.scope))
        cookie = await asyncio.to_thread(browsers.begin, principal, session_of(request.scope))
        response = RedirectResponse(ticket.next if ticket else "/", status_code=303)
        browser_sessions.forget(response, _TICKET_COOKIE)
        browser_sessions.keep(response, SESSION_COOKIE, cookie, int(sessions.LONGEST.total_seconds()))
        return response

    @routes.post("/logout")
    async def logout(request: Request) -> Response:
        check_origin(request.scope, settings.public_url)
        if held := session_of(request.scope):
            await asyncio.to_thread(browsers.end, held, address(request.scope))
        response = Response(status_code=204)
        browser_sessions.forget(response)
        return response

    return routes


class _Login:
    def __init__(self, settings: OidcSettings, providers: Sequence[Provider], store: Store) -> None:
        self._settings = settings
        self._providers = {provider.settings.name: provider for provider in providers}
        self._secrets = {provider.settings.name: _client_auth(provider.settings) for provider in providers}
        self._store = store

    def provider(self, name: str) -> Provider:
        """The issuer of this name; the only one, where none is named.

        Raises:
            SumikaError: `no_issuer` (404).
        """
        found = self._providers.get(name)
        if not name and len(self._providers) == 1:
            found = next(iter(self._providers.values()))
        if found is None or self._settings.public_url is None:
            known = ", ".join(self._providers) or "none"
            raise SumikaError(
                "no_issuer",
                f"Nobody can sign in at '{quoted(name, 40)}'. Issuers in the settings: {known}; oidc.public_url must be set too.",
                f"「{quoted(name, 40)}」ではサインインできません。設定済みの認証基盤: {known}(oidc.public_url の設定も必要です)。",
                status=404,
                param="issuer",
            )
        return found

    @property
    def _redirect_uri(self) -> str:
        """From the settings: what a client says of the host decides nothing."""
        return f"{self._settings.public_url}{_CALLBACK}"

    async def leads_to(self, provider: Provider, ticket: Ticket) -> str:
        """The issuer's page. Raises SumikaError `issuer_unreachable` (503)."""
        endpoint = (await provider.known()).authorization_endpoint
        asked = {
            "response_type": "code", "client_id": provider.settings.client_id, "redirect_uri": self._redirect_uri,
            "scope": " ".join(provider.settings.scopes), "state": ticket.state, "nonce": ticket.nonce,
            "code_challenge": ticket.challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def principal(self, ticket: Ticket | None, request: Request) -> Principal:
        """Who came back from the issuer.

        Raises:
            SumikaError: `sign_in_failed` (400), whatever was wrong; `no_role`, `groups_not_listed` (403); `issuer_unreachable` (503).
        """
        given = request.query_params
        state, code = given.getlist("state"), given.getlist("code")
        if ticket is None or len(state) != 1 or not hmac.compare_digest(state[0].encode(errors="replace"), ticket.state.encode()):
            raise _failed("the sign-in was not begun in this browser, or too long ago")
        provider = self._providers.get(ticket.issuer)
        # RFC 9207: who answers says so, where it can.
        if provider is None or given.get("iss", provider.settings.issuer) != provider.settings.issuer:
            raise _failed("another issuer answered")
        if len(code) != 1 or not 0 < len(code[0]) <= _LONGEST:
            raise _failed("the issuer gave no code")
        claims = await self._claims(provider, ticket, code[0])
        found = people.principal(provider.settings, claims)
        if found is None:
            await asyncio.to_thread(self._tell_stranger, people.identity(provider.settings, claims), address(request.scope))
            raise people.unplaced(provider.settings, claims)
        return found

    async def _claims(self, provider: Provider, ticket: Ticket, code: str) -> dict[str, Any]:
        """Raises SumikaError as `principal`."""
        settings = provider.settings
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri,
            "client_id": settings.client_id, "code_verifier": ticket.verifier,
        }  # fmt: skip
        try:
            answer = await provider.redeem(form, self._secrets[settings.name])
            unverified = tokens.read(str(answer.get("id_token", "")))
            if unverified.issuer != settings.issuer:
                raise Refused("it is another issuer's")
            key = await provider.key(unverified.kid, unverified.algorithm)
            if key is None:
                raise Refused("its issuer has no such key")
            return tokens.check_identity(unverified, key, settings, ticket.nonce)
        except Unreachable as error:
            log.error("issuer %s: %s", settings.name, error)
            if 400 <= error.status < 500:
                raise _failed("the issuer did not take the code") from None
            raise unreachable(settings.name) from None
        except Refused as refused:
            log.info("an ID token was refused: %s", refused)
            raise _failed("the issuer's answer could not be verified") from None

    def _tell_stranger(self, identity: str, source: str) -> None:
        with self._store.write(by=Actor(identity, source=source)) as connection:
            audit.append(connection, Action.SESSION_BEGIN, identity, outcome="refused", reason="no_role")


def _client_auth(settings: IssuerSettings) -> str | None:
    """How the console shows the issuer that it is itself: form-encoded as RFC 6749, 2.3.1 wants, since an id may hold a ':'.

    Raises:
        SumikaError: `bad_config`, where the secret's file can't be read.
    """
    if settings.client_secret_file is None:
        return None
    try:
        secret = settings.client_secret_file.read_text().strip()
    except (OSError, ValueError) as error:
        raise SumikaError(
            "bad_config",
            f"oidc: client_secret_file of '{settings.name}' can't be read ({type(error).__name__}). Correct the path or its rights.",
            f"oidc: 「{settings.name}」の client_secret_file を読めません({type(error).__name__})。パスか権限を直してください。",
        ) from None
    return aiohttp.encode_basic_auth(quote(settings.client_id, safe=""), quote(secret, safe=""))


def _failed(why: str) -> SumikaError:
    return SumikaError(
        "sign_in_failed",
        f"Signing in failed: {why}. Begin again.",
        "サインインに失敗しました。最初からやり直してください。",
        status=400,
    )
