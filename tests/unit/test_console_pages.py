"""Pages without a browser: the price sheet, sessions, CSV, lists longer than one request, names, empty homes."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from sumika.models import audit, clock, keys, limits, people, prices, sessions, teams
from sumika.models.actor import Actor
from sumika.models.audit import listing
from sumika.models.audit.listing import Filter
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.principals import Principal
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.models.usage import table
from sumika.serving.app import create_app
from sumika.serving.console import shown
from sumika.serving.console.prices import sheet
from tests.conftest import ROOT
from tests.unit.test_console import OWN, new_key, sign_in
from tests.unit.test_usage_report import row

HTMX = OWN | {"hx-request": "true"}


@pytest.fixture
async def browser(store: Store, home: Home) -> AsyncIterator[httpx.AsyncClient]:
    """An administrator's."""
    app = create_app(Settings(home=home.root), store)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://127.0.0.1:8000") as client:
            secret, _ = new_key(store, role="admin")
            assert (await sign_in(client, secret)).status_code == 303
            yield client


def fields(page: str) -> dict[str, list[str]]:
    """What a browser would send of the sheet's form, as it is shown."""
    form = re.sub(r"<template.*?</template>", "", page, flags=re.S)
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input name="(\w+)"[^>]*? value="([^"]*)"', form):
        found.setdefault(name, []).append(value)
    for name, value in re.findall(r'<input class="n" name="(\w+)"[^>]*? value="([^"]*)"', form):
        found.setdefault(name, []).append(value)
    found["currency"] = re.findall(r"<option selected>(\w+)</option>", form)
    return found


async def test_sheet_is_edited_in_the_home_and_the_log_tells_it(browser: httpx.AsyncClient, store: Store, home: Home) -> None:
    given = fields((await browser.get("/console/costs/prices")).text)
    assert len(given["api"]) == len(given["currency"]) == 5 and given["purchase"][0] == "3,500,000"
    given["purchase"][0], given["purchase_source"][0], given["date"] = "4,200,000", "見積書 2026-11-20", ["2026-11-20"]
    given["api"][1] = ""  # a row without a name is taken out
    answer = await browser.post("/console/costs/prices", data=given, headers=HTMX)
    assert (answer.status_code, answer.headers.get("hx-redirect")) == (204, "/console/costs"), answer.text
    kept = prices.current(home)
    assert prices.is_own(home) and kept.servers[0].purchase.value == 4_200_000 and kept.date.isoformat() == "2026-11-20"
    assert [api.name for api in kept.apis] == ["gpt-6-luna", "claude-sonnet-5-5", "gemini-3.8-flash", "PLaMo 3.0 Prime"]
    delivered = prices.load(ROOT / "configs" / "prices.yaml")
    assert delivered.servers[0].purchase.value == 3_500_000 and kept.servers[1] == delivered.servers[1]
    page = (await browser.get("/console/costs")).text
    assert "見積書 2026-11-20" in page and "¥4,200,000" in page and "この環境で編集した価格表" in page
    with store.read() as connection:
        told = listing.find(connection, Filter(action="prices.set"), 1)[0]
    assert (
        told.details["apis"] == "gpt-6.1-terra" and told.details["servers"] == "GPU サーバー(L40S 1枚)" and told.role == "admin"
    )
    assert (await browser.post("/console/costs/prices/reset", headers=HTMX)).status_code == 204
    assert not prices.is_own(home) and prices.current(home) == delivered


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("purchase", "-1", "purchase: 0以上の数"), ("purchase", "lots", "purchase: 0以上の数"), ("input", "1e5", "gpt-6-luna, input"),
        ("api_source", "", "gpt-6-luna, source: 数値の出典"), ("date", "yesterday", "date: 日付"), ("currency", "EUR", "currency"),
        ("vendor", "x" * 101, "vendor"), ("api", "PLaMo 3.0 Prime", "twice"),
    ],
)  # fmt: skip
async def test_slip_in_the_sheet_changes_nothing_and_is_named(
    browser: httpx.AsyncClient, home: Home, field: str, value: str, told: str
) -> None:
    given = fields((await browser.get("/console/costs/prices")).text)
    given[field][0] = value
    answer = await browser.post("/console/costs/prices", data=given, headers=HTMX)
    assert answer.status_code == 400 and told in answer.text and not prices.is_own(home)


def test_form_of_a_sheet_with_fewer_columns_is_refused_by_name() -> None:
    with pytest.raises(SumikaError) as refused:
        sheet({"date": ["2026-11-01"], "yen_per_usd": ["150"], "yen_per_usd_source": ["x"], "api": ["a"]})
    assert refused.value.code == "bad_price" and refused.value.param == "input"


async def test_usage_is_taken_away_as_csv(browser: httpx.AsyncClient, store: Store) -> None:
    with store.write() as connection:
        table.add(connection, [row(1, clock.now()[:19], team="soumu"), row(2, clock.now()[:19], team="=cmd")])
    page = (await browser.get("/console/usage?by=team")).text
    link = re.search(r'href="(/admin/v1/usage/csv\?[^"]+)"', page)
    assert link is not None
    answer = await browser.get(link[1].replace("&amp;", "&"))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8" and ".csv" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [(one["team"], one["requests"]) for one in rows] == [("'=cmd", "1"), ("soumu", "1")]


async def test_lists_to_choose_from_are_whole_however_long(browser: httpx.AsyncClient, store: Store) -> None:
    """More than one request of the API gives at once."""
    with store.write() as connection:
        for n in range(230):
            teams.create(connection, f"t{n:03d}", f"チーム{n:03d}")
            limits.set_limits(connection, ("team", f"t{n:03d}"), {"streams": 7})
        limits.set_limits(connection, ("team", "t229"), {"requests_per_minute": 4321})
    assert (await browser.get("/console/keys")).text.count("チーム229") >= 1
    pages, address = [], "/console/teams"
    while address:
        pages.append((await browser.get(address)).text)
        more = re.search(r'href="\?(after=t\d+)"', pages[-1])
        address = f"/console/teams?{more[1]}" if more else ""
    assert len(pages) == 10 and "4,321" in pages[-1]
    assert sum(page.count('href="/console/keys?team=t') for page in pages) == 230


async def test_keys_come_by_name_page_after_page(browser: httpx.AsyncClient, store: Store) -> None:
    with store.write() as connection:
        for name in ("b", "a", "b", "c") * 10:
            keys.create(connection, name)
    seen, after = [], ""
    while after is not None:
        found = (await browser.get("/admin/v1/keys", params={"limit": 7, "after": after})).json()
        seen += [(key["name"], key["id"]) for key in found["data"]]
        after = found["next"]
    assert len(seen) == 41 and seen == sorted(seen)


async def test_session_of_another_is_ended_by_its_name_alone(browser: httpx.AsyncClient, store: Store) -> None:
    with store.write(by=Actor("oidc:company:sato")) as connection:
        secret = sessions.begin(connection, Principal("oidc:company:sato", "佐藤", "engineer", "dx"))
    found = {one["principal"]: one for one in (await browser.get("/admin/v1/sessions")).json()["data"]}
    other = found["oidc:company:sato"]
    assert len(found) == 2 and other["name"] == "佐藤" and other["id"] == sessions.named(secret) and secret not in str(found)
    for wrong in (other["id"][:-1], other["id"] + "0", "%" * 16, "_" * 16):
        assert (await browser.delete(f"/admin/v1/sessions/{wrong}", headers=OWN)).status_code == 404
    answer = await browser.post(f"/console/sessions/{other['id']}/end", headers=HTMX)
    assert answer.status_code == 204
    with store.read() as connection:
        assert sessions.find(connection, secret) is None
        told = listing.find(connection, Filter(action=audit.Action.SESSION_END, object="oidc:company:sato"), 1)[0]
    assert told.actor != "oidc:company:sato" and told.role == "admin"


async def test_sessions_page_by_their_ids(store: Store) -> None:
    with store.write() as connection:
        made = {sessions.named(sessions.begin(connection, Principal(f"k{n}", "", "admin"))) for n in range(7)}
    seen, after = [], ""
    with store.read() as connection:
        while rows := sessions.page(connection, after=after, limit=3):
            seen += [one.id for one in rows]
            after = rows[-1].id
    assert len(seen) == 7 and set(seen) == made and seen == sorted(seen)


async def test_history_names_who_acted(browser: httpx.AsyncClient, store: Store) -> None:
    with store.read() as connection:
        own = keys.list_all(connection)[0]
        assert people.names(connection, [own.id, "cli:a@b", "system"]) == {own.id: own.name}
    rows = (await browser.get("/admin/v1/audit", params={"action": "session.begin"})).json()["data"]
    assert (rows[0]["actor"], rows[0]["actor_name"]) == (own.id, own.name)
    assert f'<bdi title="{own.id}">{own.name}</bdi>' in (await browser.get("/console/audit")).text


EMPTY = {
    "overview": "まだ何も配備されていません", "models": "まだモデルがありません", "deployments": "まだ切り替えはありません", "swap": "まだモデルがありません",
    "training": "学習ジョブはまだありません", "teams": "チームはまだありません", "usage": "この期間の利用はありません", "models/compare": "2つ選んでください",
    "audit?action=nothing": "条件を減らしてください",
}  # fmt: skip


@pytest.mark.parametrize(("path", "told"), EMPTY.items())
async def test_empty_home_says_what_to_do_next(browser: httpx.AsyncClient, path: str, told: str) -> None:
    page = (await browser.get(f"/console/{path}")).text
    empty = re.findall(r'<div class="empty">.*?</div>', page, flags=re.S)
    assert any(told in one for one in empty), path


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "–"), ("", "–"), ("普通の理由", "普通の理由"), ("a\u202eb", "a\\u202eb"), ("a\nb\x07", "a\\nb\\x07"), ("が" * 400, "が" * 299 + "…"),
        ("e" + "\u0301" * 10_000 + "z", "e" + "\u0301" * 4 + "…"), ("กี่ครั้ง", "กี่ครั้ง"), ("e\u0301" * 3, "e\u0301" * 3),
    ],
)  # fmt: skip
def test_words_of_others_are_cut_and_hold_no_trick(given: str | None, told: str) -> None:
    assert shown.told(given) == told


def test_numbers_are_written_as_people_write_them() -> None:
    assert [shown.written(n) for n in (3_500_000, 0.05, 0, 100, None, 1.4)] == ["3,500,000", "0.05", "0", "100", "", "1.4"]
    assert [shown.many(n, "ja") for n in (4.92e9, 12_345, 7)] == ["49.2億", "1.2万", "7"]
    assert [shown.many(n, "en") for n in (4.92e9, 1_234_567)] == ["4.9B", "1.2M"]


async def test_broken_off_sign_in_is_a_page_for_people_and_json_for_programs(browser: httpx.AsyncClient) -> None:
    for accept, kind in (("text/html,*/*", "text/html"), ("application/json", "application/json")):
        answer = await browser.get("/auth/callback?error=access_denied", headers={"accept": accept})
        assert answer.status_code >= 400 and answer.headers["content-type"].startswith(kind)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "path",
    [
        "/console/models/compare?a=base@1/export", "/console/models/compare?a=base@1%2Fexport&b=x", "/console/models/compare?a=..%2Faudit%2Fexport",
        "/console/models/base@1%2Fexport", "/console/swap/plan?alias=x%2F..&version=base@1", "/console/swap/plan?alias=..&version=base@1",
        "/console/deployments/..%2F..%2Faudit",
    ],
)  # fmt: skip
async def test_address_that_names_a_path_leads_nowhere_else(browser: httpx.AsyncClient, path: str) -> None:
    assert (await asyncio.wait_for(browser.get(path), 20)).status_code in (400, 404)
    assert (await browser.get("/health/live")).status_code == 200


async def test_nothing_that_is_answered_is_kept_by_anybody(browser: httpx.AsyncClient) -> None:
    """Secrets, logs and figures, as JSON or as a file; errors too. Only the console's own files may be."""
    answers = [await browser.post("/admin/v1/keys", json={"name": "x"}, headers=OWN)]
    paths = ("me", "keys", "audit", "audit/export", "audit/verify", "usage", "usage/csv", "limits", "sessions", "nothing")
    answers += [await browser.get(f"/admin/v1/{path}") for path in paths]
    answers += [
        await browser.get(path)
        for path in ("/v1/models", "/v1/files", "/metrics", "/openapi.json", "/console/keys", "/health/ready")
    ]
    assert answers[0].json()["key"].startswith("sk-")
    for answer in answers:
        assert answer.headers.get_list("cache-control") == ["no-store"], answer.url
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], answer.url
    static = await browser.get("/console/static/console.css")
    assert static.status_code == 200 and static.headers.get_list("cache-control") == ["public, max-age=31536000, immutable"]
