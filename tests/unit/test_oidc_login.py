"""Signing in to the console: the code flow with PKCE against a local issuer, and what a session opens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from sqlalchemy import text

from sumika.models import clock, sessions, teams
from sumika.models.audit import listing
from sumika.models.audit.listing import Filter
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.oidc_settings import Grant, IssuerSettings, OidcSettings
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.app import create_app
from sumika.serving.browser_sessions import secret_of
from tests.oidc_issuer import AUDIENCE, CONSOLE, Issuer

OURS = "https://ai.example.co.jp"
SESSION = "__Host-sumika"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def as_new(issuer: Issuer) -> None:
    issuer.broken = None
    issuer.codes.clear()


GRANTS = [Grant(group="llm-admins", role="admin"), Grant(group="llm-engineers", role="engineer", team="dx")]


def gateway(issuer: Issuer, store: Store, home: Home, **changed: Any) -> httpx.AsyncClient:
    """A browser in front of a gateway that trusts `issuer`."""
    wish = {"name": "company", "issuer": issuer.url, "audience": AUDIENCE, "client_id": CONSOLE, "grants": GRANTS}
    settings = Settings(home=home.root, oidc=OidcSettings(public_url=OURS, issuers=[IssuerSettings(**(wish | changed))]))
    transport = httpx.ASGITransport(create_app(settings, store), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=OURS)


@pytest.fixture
async def browser(issuer: Issuer, store: Store, home: Home) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(issuer, store, home) as client:
        yield client


async def begun(browser: httpx.AsyncClient, **query: str) -> dict[str, str]:
    """What the browser is sent to the issuer with."""
    answer = await browser.get("/auth/login", params=query)
    assert answer.status_code == 303, answer.text
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


async def signed_in(browser: httpx.AsyncClient, issuer: Issuer, **changed: Any) -> httpx.Response:
    asked = await begun(browser)
    return await browser.get("/auth/callback", params={"code": issuer.code_for(asked, **changed), "state": asked["state"]})


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def told(store: Store) -> list[tuple[str, str, str]]:
    with store.read() as connection:
        return [(row.action, row.outcome, row.actor) for row in listing.find(connection, Filter(), 100)[::-1]]


async def test_person_signs_in_acts_and_signs_out(browser: httpx.AsyncClient, issuer: Issuer, store: Store) -> None:
    with store.write() as connection:
        teams.create(connection, "dx")
    asked = await begun(browser, next="/console/models")
    assert {
        "response_type": "code", "client_id": CONSOLE, "redirect_uri": f"{OURS}/auth/callback", "code_challenge_method": "S256",
    }.items() <= asked.items() and len(asked["state"]) >= 43 <= len(asked["nonce"])  # fmt: skip
    answer = await browser.get("/auth/callback", params={"code": issuer.code_for(asked), "state": asked["state"]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/models")
    cookie = next(line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{SESSION}="))
    assert all(flag in cookie for flag in ("HttpOnly", "Secure", "SameSite=lax", "Path=/")) and "Domain" not in cookie
    cookie = browser.cookies[SESSION]
    secret = secret_of(cookie)
    with store.read() as connection:
        row = connection.execute(text("select * from sessions")).one()
    assert secret not in str(row) and sessions.hashed(secret) in row and len(secret) >= 43
    me = (await browser.get("/admin/v1/me")).json()
    assert (me["id"], me["role"], me["team"]) == ("oidc:company:5f1c0a3e", "engineer", "dx")
    assert (await browser.get("/v1/models")).status_code == 200  # what the console's playground asks
    assert (await browser.get("/metrics")).status_code == 401
    assert (await browser.post("/v1/chat/completions", json={})).status_code == 403  # not from our own page
    assert (await browser.post("/auth/logout", headers={"origin": OURS})).status_code == 204
    browser.cookies.set(SESSION, cookie, domain="ai.example.co.jp")
    assert code(await browser.get("/admin/v1/me")) == (401, "invalid_api_key")
    acts = [(action, outcome) for action, outcome, actor in told(store) if actor == "oidc:company:5f1c0a3e"]
    assert acts == [("session.begin", "done"), ("session.end", "done")]


@pytest.mark.parametrize(
    "next",
    [
        "//evil",
        "/\\evil",
        "https:evil",
        "https://evil",
        "\\\\evil",
        "/ /evil",
        "javascript:alert(1)",
        "/\tevil",
        "evil",
        "/" + "x" * 600,
        "/あ",
    ],
)
async def test_way_back_is_on_this_site_alone(browser: httpx.AsyncClient, issuer: Issuer, next: str) -> None:
    asked = await begun(browser, next=next)
    answer = await browser.get("/auth/callback", params={"code": issuer.code_for(asked), "state": asked["state"]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_callback_that_was_not_begun_here_is_refused(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    asked = await begun(browser)
    good = issuer.code_for(asked)
    for query in (
        {"code": good}, {"state": asked["state"]}, {"code": good, "state": "x"}, {"code": good, "state": asked["state"] + "x"},
        {"code": "", "state": asked["state"]}, {"code": "x" * 5000, "state": asked["state"]}, {"error": "access_denied", "state": asked["state"]},
        {"code": good, "state": asked["state"], "iss": "https://evil.example"},
    ):  # fmt: skip
        assert code(await browser.get("/auth/callback", params=query)) == (400, "sign_in_failed"), query
    twice = await browser.get(f"/auth/callback?code={good}&state={asked['state']}&state=x")
    assert code(twice) == (400, "sign_in_failed")
    browser.cookies.clear()  # another browser, to which somebody sends the link
    assert code(await browser.get("/auth/callback", params={"code": good, "state": asked["state"]})) == (400, "sign_in_failed")
    assert SESSION not in browser.cookies


async def test_code_and_state_are_good_once(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    asked = await begun(browser)
    query = {"code": issuer.code_for(asked), "state": asked["state"]}
    assert (await browser.get("/auth/callback", params=query)).status_code == 303
    assert code(await browser.get("/auth/callback", params=query)) == (400, "sign_in_failed")
    query = {"code": issuer.code_for(asked), "state": asked["state"]}
    assert code(await browser.get("/auth/callback", params=query)) == (400, "sign_in_failed")  # the ticket is gone


async def test_code_of_another_sign_in_is_refused(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    """Its challenge is of another verifier."""
    other = await begun(browser)
    stolen = issuer.code_for(other)
    asked = await begun(browser)
    assert code(await browser.get("/auth/callback", params={"code": stolen, "state": asked["state"]})) == (400, "sign_in_failed")


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": "x"}, {"nonce": ""}, {"nonce": 1}, {"aud": AUDIENCE}, {"aud": [CONSOLE, "x"], "azp": "x"}, {"azp": "x"}, {"typ": "Bearer"},
        {"iss": "https://evil.example"}, {"exp": 1}, {"iat": 99999999999}, {"sub": ""}, {"sub": 5},
    ],
    ids=str,
)  # fmt: skip
async def test_identity_that_does_not_fit_is_refused(
    browser: httpx.AsyncClient, issuer: Issuer, store: Store, changed: dict[str, Any]
) -> None:
    assert code(await signed_in(browser, issuer, **changed)) == (400, "sign_in_failed")
    assert SESSION not in browser.cookies and not any(action == "session.begin" for action, _, _ in told(store))


async def test_person_without_a_role_is_told_so_and_kept_in_the_log(
    browser: httpx.AsyncClient, issuer: Issuer, store: Store
) -> None:
    assert code(await signed_in(browser, issuer, groups=["canteen"])) == (403, "no_role")
    assert ("session.begin", "refused", "oidc:company:5f1c0a3e") in told(store)


async def test_issuer_that_is_away_is_told(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    issuer.broken = 500
    assert code(await browser.get("/auth/login")) == (503, "issuer_unreachable")
    assert code(await browser.get("/auth/login", params={"issuer": "nobody"})) == (404, "no_issuer")


async def test_session_ends_when_idle_and_when_old(browser: httpx.AsyncClient, issuer: Issuer, store: Store) -> None:
    for column, age in (("seen_at", sessions.IDLE), ("began_at", sessions.LONGEST)):
        assert (await signed_in(browser, issuer)).status_code == 303
        assert (await browser.get("/admin/v1/me")).status_code == 200
        with store.write() as connection:
            past = clock.spell(datetime.now(UTC) - age - timedelta(seconds=1))
            connection.execute(text(f"update sessions set {column} = :past"), {"past": past})  # noqa: S608
        assert (await browser.get("/admin/v1/me")).status_code == 401


async def test_session_before_ends_when_a_new_one_begins(browser: httpx.AsyncClient, issuer: Issuer, store: Store) -> None:
    await signed_in(browser, issuer)
    first = browser.cookies[SESSION]
    await signed_in(browser, issuer)
    assert browser.cookies[SESSION] != first
    with store.read() as connection:
        assert sessions.find(connection, first) is None


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", f"{OURS}.evil.example", f"{OURS}/", "http://ai.example.co.jp"]
)
async def test_page_of_another_site_changes_nothing_with_a_browsers_cookie(
    browser: httpx.AsyncClient, issuer: Issuer, origin: str | None
) -> None:
    await signed_in(browser, issuer, groups=["llm-admins"])
    headers = {} if origin is None else {"origin": origin}
    assert code(await browser.post("/admin/v1/teams", json={"name": "x"}, headers=headers)) == (403, "cross_site")
    assert code(await browser.post("/auth/logout", headers=headers)) == (403, "cross_site")
    assert (await browser.get("/admin/v1/teams")).json()["data"] == []
    typed = {"origin": OURS, "content-type": "text/plain"}
    assert (await browser.post("/admin/v1/teams", content='{"name":"x"}', headers=typed)).status_code == 415
    assert (await browser.post("/admin/v1/teams", json={"name": "x"}, headers={"origin": OURS})).status_code == 201


async def test_session_ends_with_its_grant(browser: httpx.AsyncClient, issuer: Issuer, store: Store, home: Home) -> None:
    await signed_in(browser, issuer, groups=["llm-admins"])
    for changed, status in (({}, 200), ({"grants": GRANTS[1:]}, 401), ({"name": "other"}, 401)):
        async with gateway(issuer, store, home, **changed) as later:
            later.cookies = browser.cookies
            assert (await later.get("/admin/v1/me")).status_code == status, changed


async def test_console_shows_its_secret_to_the_issuer_whatever_is_in_it(issuer: Issuer, store: Store, home: Home) -> None:
    file = home.root / "console.secret"
    file.write_text("p:ä %\n")
    async with gateway(issuer, store, home, client_id="urn:sumika:console", client_secret_file=file) as browser:
        assert (await signed_in(browser, issuer)).status_code == 303
    assert issuer.clients[-1] == ("urn:sumika:console", "p:ä %")
    file.unlink()
    with pytest.raises(SumikaError) as told:
        gateway(issuer, store, home, client_secret_file=file)
    assert told.value.code == "bad_config"


@pytest.mark.parametrize(
    "url", ["https://AI.example.co.jp", f"{OURS}:443", f"{OURS}/", f"{OURS}#", f"{OURS}?", "http://ai.example.co.jp"]
)
def test_address_that_no_browser_would_call_its_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"public_url|https://"):
        OidcSettings(public_url=url)


@pytest.mark.parametrize("held", ["x", "", "é", "a" * 10_000, "' OR 1=1--"])
async def test_session_that_is_none_opens_nothing(browser: httpx.AsyncClient, held: str) -> None:
    headers = {"cookie": f"{SESSION}={held}".encode()}
    assert (await browser.get("/admin/v1/me", headers=headers)).status_code == 401  # type: ignore[arg-type]
