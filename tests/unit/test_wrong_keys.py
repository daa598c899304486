"""Keys that are wrong or in the wrong place, cookies that somebody made up, and sessions without end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from sumika.models import keys, limits, schema, sessions, teams
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.principals import Principal
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.app import create_app
from sumika.serving.browser_sessions import BrowserSessions
from sumika.serving.wrong_keys import FREE, WrongKeys

OURS = "https://x"


@pytest.fixture
def secret(store: Store) -> str:
    with store.write() as connection:
        return keys.create(connection, "admin", role="admin")[0]


@pytest.fixture
def app(store: Store, home: Home, secret: str) -> FastAPI:
    made = create_app(Settings(home=home.root), store)
    made.state.gateway.directory.refresh()
    return made


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=OURS) as made:
        yield made


@pytest.mark.parametrize("language", ["en", "ja"])
async def test_key_in_query_or_body_is_told_so_and_is_to_be_rotated(
    client: httpx.AsyncClient, secret: str, language: str
) -> None:
    headers = {"accept-language": language}
    found = [
        await client.get("/v1/models", params={"api_key": secret}, headers=headers),
        await client.post("/v1/chat/completions", json={"api_key": secret, "model": "x"}, headers=headers),
        await client.post("/admin/v1/teams", json={"key": secret}, headers=headers | {"authorization": "Bearer wrong"}),
    ]
    for answer in found:
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert "sumika keys rotate" in answer.json()["error"]["message"] and secret not in answer.text
    plain = await client.post("/v1/chat/completions", json={"api_key": secret[:-1] + "x", "model": "x"}, headers=headers)
    assert plain.status_code == 401 and "keys rotate" not in plain.text


async def test_key_in_the_wrong_place_stands_in_no_log(client: httpx.AsyncClient, secret: str, caplog: Any, store: Store) -> None:
    await client.get("/v1/models", params={"api_key": secret})
    await client.post("/v1/chat/completions", json={"api_key": secret})
    assert secret not in caplog.text
    with store.read() as connection:
        assert not any(secret in str(row) for row in connection.execute(select(schema.audit)))


async def test_many_wrong_keys_of_one_address_are_slowed_and_right_ones_are_not(app: FastAPI, secret: str) -> None:
    wrong = WrongKeys(delay_s=0.3)
    times = []
    for _ in range(FREE + 2):
        began = time.monotonic()
        await wrong.slow({"type": "http", "client": ("10.0.0.1", 1)})
        times.append(time.monotonic() - began)
    assert min(times[-2:]) >= 0.3
    transport = httpx.ASGITransport(app, client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=OURS) as proxy:
        for _ in range(FREE):
            assert (await proxy.get("/v1/models", headers={"authorization": "Bearer wrong"})).status_code == 401
        began = time.monotonic()
        assert (await proxy.get("/v1/models", headers={"authorization": "Bearer wrong"})).status_code == 401
        assert time.monotonic() - began >= 1, "later, and with the same answer"
        assert (await proxy.get("/v1/models", headers={"authorization": f"Bearer {secret}"})).status_code == 200


async def test_answers_that_are_held_back_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sumika.serving.wrong_keys._MOST_HELD", 0)
    wrong, scope = WrongKeys(), {"type": "http", "client": ("10.0.0.1", 1)}
    for _ in range(FREE):
        await wrong.slow(scope)
    with pytest.raises(SumikaError) as told:
        await wrong.slow(scope)
    assert (told.value.status, told.value.code, told.value.retry_after) == (429, "too_many_wrong_keys", 60)
    await wrong.slow({"type": "http", "client": ("10.0.0.2", 1)})


async def test_cookie_that_somebody_made_up_costs_no_look_into_the_database(
    app: FastAPI, store: Store, home: Home, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    browsers = BrowserSessions(Settings(home=home.root).oidc, store, home.login_key)
    with store.read() as connection:
        principal = keys.list_all(connection)[0].principal
    cookie = browsers.begin(principal, None)
    client.cookies.set("__Host-sumika", cookie)
    assert (await client.get("/admin/v1/me")).json()["role"] == "admin"
    looked = []
    monkeypatch.setattr(sessions, "find", lambda *_: looked.append(1))
    for made_up in (
        "x" * 43,
        cookie[:-1] + ("A" if cookie[-1] != "A" else "B"),
        cookie.partition(".")[0],
        f"y{cookie}",
        "é",
        ".",
    ):
        headers = {"cookie": f"__Host-sumika={made_up}".encode()}
        client.cookies.clear()
        assert (await client.get("/admin/v1/me", headers=headers)).status_code == 401
    assert looked == []


def test_sessions_of_one_key_are_bounded_and_the_oldest_ends(store: Store) -> None:
    who, other = Principal("k1", "k1", "admin"), Principal("k2", "k2", "admin")
    with store.write() as connection:
        first = sessions.begin(connection, who)
        kept = sessions.begin(connection, other)
        for _ in range(20):
            last = sessions.begin(connection, who)
        count = select(func.count()).where(schema.sessions.c.principal == "k1")
        assert connection.scalar(count) == sessions.MOST
        assert sessions.find(connection, first) is None
        assert sessions.find(connection, last) is not None and sessions.find(connection, kept) is not None


async def test_limits_go_with_their_key_and_team(client: httpx.AsyncClient, store: Store, secret: str) -> None:
    headers = {"authorization": f"Bearer {secret}"}
    with store.write() as connection:
        teams.create(connection, "soumu")
        _, revoked = keys.create(connection, "revoked")
        _, expired = keys.create(connection, "expired", expires_at=datetime.now(UTC) + timedelta(seconds=0.5))
    for path in (f"key/{revoked.id}", f"key/{expired.id}", "team/soumu"):
        assert (await client.post(f"/admin/v1/limits/{path}", headers=headers, json={"streams": 1})).status_code == 200
    with store.write() as connection:
        keys.revoke(connection, revoked.id)
        teams.remove(connection, "soumu")
        teams.create(connection, "soumu")
    await asyncio.sleep(0.6)
    assert (await client.get("/admin/v1/limits", headers=headers)).json()["data"] == []
    for path, status in ((f"key/{revoked.id}", 409), (f"key/{expired.id}", 409), ("key/nobody", 404), ("team/nobody", 404)):
        answer = await client.post(f"/admin/v1/limits/{path}", headers=headers, json={"streams": 1})
        assert answer.status_code == status, path
    with store.write() as connection:  # what has expired is forgotten on the way
        limits.set_limits(connection, ("alias", "later"), {"streams": 1})
        assert connection.scalar(select(func.count()).select_from(schema.limits)) == 1
