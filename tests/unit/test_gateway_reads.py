"""What is looked up and downloaded is told, with the address that it came from: the peer's, or what the one trusted proxy says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sumika.models import keys
from sumika.models.audit import listing
from sumika.models.audit.chain import AuditRow
from sumika.models.audit.listing import Filter
from sumika.models.home import Home
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import lookups
from sumika.serving.app import create_app

PROXY = ("172.18.0.2", 40_000)


@asynccontextmanager
async def gateway(
    store: Store, home: Home, secret: str, client: tuple[str, int] = ("10.1.2.3", 5), **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(home=home.root, gateway=settings), store)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=client)
        auth = {"authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(transport=transport, base_url="https://127.0.0.1:8000", headers=auth) as made:
            yield made


@pytest.fixture
def secret(store: Store) -> str:
    with store.write() as connection:
        return keys.create(connection, "test", role="admin", team=None)[0]


def rows(store: Store, action: str) -> list[AuditRow]:
    with store.read() as connection:
        return listing.find(connection, Filter(action=action), 1000)[::-1]


async def test_download_is_told_each_time(store: Store, home: Home, secret: str) -> None:
    async with gateway(store, home, secret) as client:
        form = {"purpose": (None, "batch"), "file": ("a.jsonl", b'{"custom_id": "1"}\n')}
        file = (await client.post("/v1/files", files=form)).json()
        for _ in range(2):
            assert (await client.get(f"/v1/files/{file['id']}/content")).status_code == 200
        assert (await client.get("/v1/files/file-none/content")).status_code == 404
    told = rows(store, "file")
    assert [(row.action, row.object, row.outcome) for row in told] == [
        ("file.create", file["id"], "done"), ("file.read", file["id"], "done"), ("file.read", file["id"], "done"),
    ]  # fmt: skip
    assert {row.details["source"] for row in told} == {"10.1.2.3"} and {row.role for row in told} == {"admin"}
    assert len(told[1].details["sha256"]) == 64


async def test_search_is_told_once_and_a_page_that_renews_itself_floods_nothing(
    store: Store, home: Home, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(store, home, secret) as client:
        for after in ("", "", "3"):
            asked = {"actor": "somebody", "after": after}
            assert (await client.get("/admin/v1/audit", params=asked)).status_code == 200
        assert (await client.get("/admin/v1/audit", params={"actor": "somebody else"})).status_code == 200
        for path in ("usage", "usage", "usage/csv"):
            assert (await client.get(f"/admin/v1/{path}", params={"by": "key", "since": "2026-11-01"})).status_code == 200
        assert [row.details["actor"] for row in rows(store, "audit.search")] == ["somebody", "somebody else"]
        (usage,) = rows(store, "usage.read")
        assert usage.object == "key" and usage.details == {"since": "2026-11-01", "until": "", "source": "10.1.2.3"}
        monkeypatch.setattr(lookups, "AGAIN_S", 0.0)
        await client.get("/admin/v1/audit", params={"actor": "somebody"})
        assert len(rows(store, "audit.search")) == 3


async def test_search_in_the_console_is_told_with_the_browser_s_address(store: Store, home: Home, secret: str) -> None:
    async with gateway(store, home, secret) as client:
        own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
        del client.headers["authorization"]
        assert (await client.post("/console/sign-in", data={"key": secret}, headers=own)).status_code == 303
        assert (await client.get("/console/audit", params={"object": "faq"})).status_code == 200
        assert (await client.get("/console/usage")).status_code == 200
    (search,) = rows(store, "audit.search")
    assert search.details == {"object": "faq", "source": "10.1.2.3"}
    assert {row.details["source"] for row in rows(store, "usage.read") + rows(store, "session.begin")} == {"10.1.2.3"}


async def told_of(store: Store, home: Home, secret: str, peer: tuple[str, int], said: list[str], **settings: Any) -> str:
    async with gateway(store, home, secret, peer, **settings) as client:
        headers = [("x-forwarded-for", value) for value in said]
        assert (await client.get("/admin/v1/audit", headers=headers)).status_code == 200
    return str(rows(store, "audit.search")[-1].details["source"])


@pytest.mark.parametrize(
    ("peer", "said", "source"),
    [
        (PROXY, ["203.0.113.9"], "203.0.113.9"),
        (PROXY, ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),  # what the client itself put before it
        (PROXY, ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (PROXY, ["[2001:db8::1]"], "2001:db8::1"),
        (PROXY, ["203.0.113.9, nonsense"], PROXY[0]),
        (PROXY, [], PROXY[0]),
        (("::ffff:172.18.0.2", 1), ["203.0.113.9"], "203.0.113.9"),
        (("172.18.0.3", 1), ["203.0.113.9"], "172.18.0.3"),  # somebody else says so
    ],
)
async def test_only_the_named_proxy_says_who_its_client_is(
    store: Store, home: Home, secret: str, peer: tuple[str, int], said: list[str], source: str
) -> None:
    assert await told_of(store, home, secret, peer, said, trusted_proxy="172.18.0.2") == source


async def test_nobody_is_believed_by_default(store: Store, home: Home, secret: str) -> None:
    assert await told_of(store, home, secret, PROXY, ["203.0.113.9"]) == PROXY[0]


async def test_refusals_and_acts_carry_it_too(store: Store, home: Home, secret: str) -> None:
    async with gateway(store, home, secret, PROXY, trusted_proxy="172.18.0.0/16") as client:
        via = {"x-forwarded-for": "203.0.113.9"}
        made = (await client.post("/admin/v1/keys", json={"name": "bot"}, headers=via)).json()
        assert (await client.post(f"/admin/v1/keys/{'0' * 12}/revoke", json={}, headers=via)).status_code == 404
        assert (await client.get("/v1/models", headers=via | {"authorization": "Bearer x"})).status_code == 401
        await asyncio.sleep(0)
    assert made["key"]
    assert [row.details["source"] for row in rows(store, "key") if row.role == "admin"] == ["203.0.113.9"] * 2
    assert {row.actor for row in rows(store, "auth.refused")} == {"peer:203.0.113.9"}


async def test_what_can_not_be_recorded_is_not_shown(
    store: Store, home: Home, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sumika.models.errors import SumikaError

    def away(*_: object) -> None:
        raise SumikaError("store_unavailable", "away", "away", status=503)

    async with gateway(store, home, secret) as client:
        monkeypatch.setattr(lookups, "record", away)
        assert (await client.get("/admin/v1/audit")).status_code == 503
