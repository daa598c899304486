"""Who comes to the console, by their company's issuer or a key: what each role sees, whom an administrator signs out, and what
somebody's name can't do to a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from sumika.models import moves, teams
from sumika.models.principals import Role
from tests import browser as browsers
from tests.integration.conftest import Stack, finish, free_port, start, until
from tests.oidc_issuer import AUDIENCE, CONSOLE, Issuer

PEOPLE: dict[str, dict[str, Any]] = {
    "admin": {"sub": "a-1", "preferred_username": "tanaka", "groups": ["llm-admins"]},
    "engineer": {"sub": "e-1", "preferred_username": "sato", "groups": ["llm-engineers"]},
    "app": {"sub": "u-1", "preferred_username": "suzuki", "groups": ["everybody"]},
    "nobody": {"sub": "n-1", "preferred_username": "yamada", "groups": ["elsewhere"]},
    "hostile": {"sub": "h-1", "preferred_username": '"><svg onload=alert(1)><script>alert(2)</script>', "groups": ["llm-engineers"]},
}  # fmt: skip
# Each page, and who may see it; the menu offers exactly these, but for pages that lie below another.
STAFF, ADMIN = ("admin", "engineer"), ("admin",)
PAGES: dict[str, tuple[str, ...]] = {
    "overview": STAFF, "models": STAFF, "models/compare": STAFF, "deployments": STAFF, "swap": STAFF, "playground": ("admin", "engineer", "app"),
    "training": STAFF, "training/new": STAFF, "training/compare": STAFF, "keys": STAFF, "teams": STAFF, "sessions": ADMIN, "usage": STAFF,
    "costs": ADMIN, "costs/prices": ADMIN, "audit": ADMIN,
}  # fmt: skip
MENU = ("overview", "models", "deployments", "playground", "training", "keys", "teams", "sessions", "usage", "costs", "audit")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    made.people = PEOPLE
    yield made
    made.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Stack]:
    port = free_port()
    grants = [
        {"group": "llm-admins", "role": "admin"}, {"group": "llm-engineers", "role": "engineer", "team": "dx"},
        {"group": "everybody", "role": "app", "team": "dx"},
    ]  # fmt: skip
    trusted = {"name": "company", "issuer": issuer.url, "audience": AUDIENCE, "client_id": CONSOLE, "grants": grants}
    made = start(
        tmp_path_factory.mktemp("people"), SUMIKA_PORT=str(port), SUMIKA_OIDC__PUBLIC_URL=f"http://127.0.0.1:{port}",
        SUMIKA_OIDC__ISSUERS=json.dumps([trusted]),
    )  # fmt: skip
    with made.store.write() as connection:
        teams.create(connection, "dx", "DX推進室")
    yield made
    finish(made)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


class Comer:
    """A browser of somebody's own."""

    def __init__(self, chromium: Browser, stack: Stack, issuer: Issuer, lang: str = "ja") -> None:
        self._context = browsers.context(chromium, stack.url, lang=lang, issuer=issuer.url)
        self.page, self.said = browsers.watched(self._context)
        self.page.set_default_timeout(30_000)

    def sign_in(self, who: str) -> Page:
        """By the button, the issuer's own page, and back."""
        self.page.goto("/console/sign-in")
        self.page.locator("a.button.primary").click()
        self.page.get_by_role("link", name=who, exact=True).click()
        return self.page

    def close(self) -> None:
        assert self.said == [] and self._context.strangers == []  # type: ignore[attr-defined]
        self._context.close()


@pytest.fixture
def comer(chromium: Browser, stack: Stack, issuer: Issuer) -> Iterator[Comer]:
    made = Comer(chromium, stack, issuer)
    yield made
    made.close()


@pytest.mark.parametrize("role", ["admin", "engineer", "app"])
def test_each_role_is_offered_and_shown_what_it_may_see(comer: Comer, role: Role) -> None:
    page = comer.sign_in(role)
    page.wait_for_url("**/console/playground" if role == "app" else "**/console/overview")
    offered = [link.get_attribute("href") for link in page.locator("#nav nav a").all()]
    assert offered == [f"/console/{name}" for name in MENU if role in PAGES[name]]
    expect(page.locator(".who")).to_contain_text(PEOPLE[role]["preferred_username"])
    for name, roles in PAGES.items():
        answer = page.goto(f"/console/{name}")
        assert answer is not None and answer.status == (200 if role in roles else 403), name
        if role not in roles:
            expect(page.get_by_role("heading", level=1)).to_have_text("表示できません")
            expect(page.locator("main")).to_contain_text("管理者に依頼してください")
            expect(page.locator("#nav")).to_be_visible()
    page.goto("/console/audit" if role != "admin" else "/console/nothing")
    assert browsers.violations(page) == []
    if role == "app":
        browsers.shoot(page, "forbidden-light")


def test_somebody_from_the_issuer_asks_in_the_playground(comer: Comer, stack: Stack) -> None:
    stack.deploy("ask-me", stack.base("three", 3))
    stack.script(chunks=6)
    page = comer.sign_in("app")
    page.wait_for_url("**/console/playground")
    page.locator("#left").select_option("ask-me")
    page.locator("#question").fill("有給休暇は何日前までに申請しますか。")
    page.keyboard.press("Control+Enter")
    answer = page.locator("[data-side=left]")
    expect(answer.locator(".said")).to_contain_text("three@1 w0")
    expect(answer.locator(".figures")).to_contain_text("tokens/s")
    with stack.client(stack.admin_key) as client:

        def by_team() -> list[str]:
            return [row["team"] for row in client.get("/admin/v1/usage", params={"by": "team"}).json()["data"]]

        until(lambda: "dx" in by_team(), what="the question counts for the team of who asked")


def test_who_gives_up_or_has_no_role_is_told_on_a_page(comer: Comer, issuer: Issuer) -> None:
    page = comer.sign_in("Cancel")
    expect(page.get_by_role("heading", level=1)).to_have_text("表示できません")
    page.get_by_role("link", name="最初のページへ").click()
    page.wait_for_url("**/console/sign-in")
    browsers.shoot(page, "sign-in-issuer-light")
    comer.sign_in("nobody")
    expect(page.locator("main")).to_contain_text("no_role")
    page.goto("/console/sign-in")
    page.locator("a.button.primary").click()
    issuer.broken = 500
    try:
        page.get_by_role("link", name="admin", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("表示できません")
        expect(page.locator("main")).to_contain_text("issuer_unreachable")
    finally:
        issuer.broken = None
    comer.said[:] = [one for one in comer.said if "status of 503" not in one]


def test_administrator_signs_another_out(chromium: Browser, stack: Stack, issuer: Issuer, comer: Comer) -> None:
    other = Comer(chromium, stack, issuer)
    other.sign_in("engineer").wait_for_url("**/console/overview")
    page = comer.sign_in("admin")
    page.wait_for_url("**/console/overview")
    page.goto("/console/sessions")
    own = page.get_by_role("row").filter(has_text="このブラウザー")
    expect(own).to_contain_text("tanaka")
    expect(own.get_by_role("button")).to_have_count(0)
    browsers.shoot(page, "sessions-light")
    assert browsers.violations(page) == []
    while (row := page.get_by_role("row").filter(has_text="sato")).count():
        left = row.count()
        row.first.get_by_role("button", name="サインアウトさせる").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("sato をサインアウトさせますか")
        dialog.get_by_role("button", name="サインアウトさせる").click()
        expect(row).to_have_count(left - 1)
    other.page.goto("/console/models")
    assert other.page.url.endswith("/console/sign-in?next=%2Fconsole%2Fmodels")
    other.close()
    page.goto("/console/audit?action=session.end")
    expect(page.get_by_role("row").filter(has_text="tanaka").first).to_be_visible()


def test_names_and_reasons_are_shown_and_run_nothing(comer: Comer, stack: Stack) -> None:
    """Escaped, cut, isolated from the text around them, and no wider than the page."""
    page = comer.sign_in("hostile")
    page.wait_for_url("**/console/overview")
    expect(page.locator(".who bdi").first).to_contain_text('"><svg onload')
    zalgo, script = "Z" + "\u0301" * 100, '<script>alert(1)</script>"><svg onload=alert(2)>'
    long = "長い名前" * 30
    with stack.store.write() as connection:
        for n, title in enumerate((zalgo, script, long)):
            teams.create(connection, f"hostile-{n}", title)
    base, other = stack.base("one", 1), stack.base("two", 2)
    with stack.client(stack.admin_key) as client:
        for version, reason in ((base, "x" * 1000), (other, "承認済み \u202etxt.exe " + "e\u0301" * 3 + "\u0301" * 900)):
            asked = client.post("/admin/v1/aliases/talk/deploy", json={"version": str(version.ref), "reason": reason})
            assert asked.status_code == 202, asked.text
            with stack.store.read() as connection:
                move = moves.get(connection, asked.json()["id"])
            assert stack.ended(move).state == "done"
    for path in ("teams", "deployments", "deployments/talk", "keys"):
        page.goto(f"/console/{path}")
        assert page.locator("script:not([src])").count() == page.locator("main svg:not(.bar)").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
    page.goto("/console/teams")
    expect(page.locator("td bdi").filter(has_text="<script>alert(1)")).to_have_count(1)
    shown = page.locator("td bdi").filter(has_text="Z\u0301").inner_text()
    assert shown.count("\u0301") == 4
    page.goto("/console/deployments/talk")
    told = page.locator("td bdi").filter(has_text="承認済み").inner_text()
    assert "\\u202e" in told and "\u202e" not in told and told.count("\u0301") < 20
    assert len(page.locator("td bdi").filter(has_text="xxx").inner_text()) <= 301
    browsers.shoot(page, "hostile-light")


@pytest.mark.parametrize("typed", ["%", "_", "\\", "' or 1=1 --", "<b>"])
def test_search_takes_what_is_typed_as_it_is(comer: Comer, typed: str) -> None:
    page = comer.sign_in("admin")
    page.wait_for_url("**/console/overview")
    page.goto("/console/audit")
    for label in ("実行者", "操作", "対象"):
        page.goto("/console/audit")
        page.get_by_label(label).fill(typed)
        page.get_by_role("button", name="検索").click()
        expect(page.locator("main")).to_contain_text("条件に合う記録はありません")
        assert page.get_by_label(label).input_value() == typed
    assert page.get_by_label("対象").get_attribute("maxlength") == "255"
