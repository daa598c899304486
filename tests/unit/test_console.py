"""The console without a browser: its words, its files, who may sign in, and the policy on every answer."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml

from sumika.models import keys, prices
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.prices import Tokens
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.app import create_app
from sumika.serving.console import pages, training, words
from sumika.serving.console.words import Words
from tests.conftest import ROOT

CONSOLE = Path(pages.__file__).parent
SESSION = "__Host-sumika"
OWN = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
# As npm's packages htmx.org 2.0.11, uplot 1.6.32 and axe-core 4.14.1 carry them.
VENDORED = {
    "htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717", "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f", "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}  # fmt: skip
_WORD = re.compile(r'\bt\("([a-z_]+\.[A-Za-z_]+)"[,)]|\bt\(\'([a-z_]+\.[A-Za-z_]+)\'[,)]')
_GROUP = re.compile(r'\bt\("([a-z_]+)\.([a-z_]*)" ~')


@pytest.fixture
async def browser(store: Store, home: Home) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(home=home.root), store)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://127.0.0.1:8000") as client:
            yield client


def new_key(store: Store, **options: object) -> tuple[str, str]:
    with store.write() as connection:
        secret, key = keys.create(connection, "test", **options)  # type: ignore[arg-type]
    return secret, key.id


async def posted(browser: httpx.AsyncClient, data: dict[str, str], **headers: str) -> httpx.Response:
    for _ in range(50):
        answer = await browser.post("/console/sign-in", data=data, headers=OWN | headers)
        if answer.status_code != 401:
            break
        await asyncio.sleep(0.1)
    return answer


async def sign_in(browser: httpx.AsyncClient, secret: str, **headers: str) -> httpx.Response:
    """Posts the form, again for as long as the gateway has not heard of a new key; on a busy machine that takes a while."""
    return await posted(browser, {"key": secret}, **headers)


def test_each_word_is_there_in_both_languages_and_said_somewhere() -> None:
    catalogue = Words.read()
    known = set(catalogue)
    text = "\n".join(file.read_text(encoding="utf-8") for file in [*CONSOLE.rglob("*.html"), *CONSOLE.glob("*.py")])
    said = {one or other for one, other in _WORD.findall(text)}
    groups = {f"{group}.{start}" for group, start in _GROUP.findall(text)} | {
        f"{one}." for one in re.findall(r'"([a-z_]+)\." ~', text)
    }
    in_tests = set(re.findall(r't\("([a-z_]+\.[a-z_]+)" if .*? else "([a-z_]+\.[a-z_]+)"\)', text))
    said |= {word for pair in in_tests for word in pair}
    assert said - known == set(), "said and not in words.yaml"
    unsaid = {word for word in known - said if not any(word.startswith(group) for group in groups)}
    assert unsaid == set(), "in words.yaml and never said"
    for word in known:
        ja, en = (catalogue.text(word, language) for language in ("ja", "en"))  # type: ignore[arg-type]
        assert ja.strip() and en.strip() and not re.search(r"[ぁ-んァ-ン一-龥]", en), word
        assert set(re.findall(r"\{(\w+)\}", ja)) == set(re.findall(r"\{(\w+)\}", en)), word


def test_words_file_says_nothing_twice() -> None:
    groups = yaml.safe_load(words.FILE.read_text(encoding="utf-8"))
    text = words.FILE.read_text(encoding="utf-8")
    assert len(re.findall(r"^  \S+: ", text, re.M)) == sum(len(group) for group in groups.values())


def test_vendored_files_are_what_their_packages_carry_and_licences_lie_beside_them() -> None:
    for name, digest in VENDORED.items():
        assert hashlib.sha256((CONSOLE / "static" / name).read_bytes()).hexdigest() == digest, name
        assert (CONSOLE / "static" / f"{name.split('.')[0]}.LICENSE").is_file()
    assert (
        hashlib.sha256((ROOT / "tests" / "vendor" / "axe.min.js").read_bytes()).hexdigest()
        == "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
    )


def test_no_file_of_the_console_names_another_host() -> None:
    """But for uPlot's own name in its licence comment, and the names of XML."""
    harmless = {"https://github.com/leeoniya/uPlot", "http://www.w3.org/2000/svg"}
    for file in [*CONSOLE.rglob("*.html"), *(CONSOLE / "static").glob("*.*s*"), CONSOLE / "words.yaml"]:
        if file.suffix != ".LICENSE":
            found = set(re.findall(r"https?://[\w./-]+", file.read_text(encoding="utf-8")))
            assert found <= harmless, file.name


def test_no_template_has_script_or_style_of_its_own() -> None:
    for file in CONSOLE.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?![^>]* src=)|hx-on|\|safe|hx-vals=.js", text), file.name


async def test_pages_carry_the_policy_and_lead_strangers_to_the_sign_in(browser: httpx.AsyncClient) -> None:
    for path, back in (
        ("/console", ""), ("/console/keys", "?next=%2Fconsole%2Fkeys"), ("/console/usage?by=team", "?next=%2Fconsole%2Fusage%3Fby%3Dteam"),
    ):  # fmt: skip
        answer = await browser.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/console/sign-in{back}"), path
    part = {"hx-request": "true", "hx-current-url": "https://127.0.0.1:8000/console/overview"}
    renewed = await browser.get("/console/overview/live", headers=part)
    assert (renewed.status_code, renewed.headers["hx-redirect"]) == (401, "/console/sign-in?next=%2Fconsole%2Foverview")
    shown = await browser.get("/console/sign-in")
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert shown.headers["cache-control"] == "no-store" and shown.status_code == 200
    assert (await browser.get("/console/nothing")).status_code == 404
    assert (await browser.get("/console/static/words.yaml")).status_code == 404


@pytest.mark.parametrize(
    ("given", "leads"),
    [
        ("/console/usage?by=team", "/console/usage?by=team"), ("", "/console"), ("https://evil.example/console", "/console"),
        ("//evil.example/console", "/console"), ("/\\evil.example", "/console"), ("/auth/logout", "/console"), ("/consolefake", "/console"),
    ],
)  # fmt: skip
async def test_who_signs_in_goes_on_where_they_were_and_nowhere_else(
    browser: httpx.AsyncClient, store: Store, given: str, leads: str
) -> None:
    secret, _ = new_key(store, role="admin")
    shown = await browser.get("/console/sign-in", params={"next": given})
    assert f'name="next" value="{leads}"' in shown.text
    answer = await posted(browser, {"key": secret, "next": given})
    assert (answer.status_code, answer.headers["location"]) == (303, leads)


async def test_key_session_reaches_as_far_as_its_key_now(browser: httpx.AsyncClient, store: Store) -> None:
    secret, key_id = new_key(store, role="admin", endpoints=["admin"])
    assert (await sign_in(browser, secret)).status_code == 303
    assert (await browser.get("/console/overview")).status_code == 200
    assert (await browser.get("/v1/models")).status_code == 403, "the key's own scope stands"
    with store.write() as connection:
        keys.revoke(connection, key_id)
    assert (await browser.get("/console/overview")).status_code == 303
    assert (await browser.get("/admin/v1/me")).status_code == 401


@pytest.mark.parametrize(("options", "status"), [({"role": "app"}, 403), ({"role": "admin", "endpoints": ["chat"]}, 403)])
async def test_key_that_administers_nothing_begins_no_session(
    browser: httpx.AsyncClient, store: Store, options: dict[str, object], status: int
) -> None:
    secret, _ = new_key(store, **options)
    answer = await sign_in(browser, secret)
    assert answer.status_code == status and SESSION not in browser.cookies


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", ""])
async def test_page_of_another_site_neither_signs_in_nor_changes_anything(
    browser: httpx.AsyncClient, store: Store, site: str
) -> None:
    secret, _ = new_key(store, role="admin")
    assert (await sign_in(browser, secret, **{"sec-fetch-site": site})).status_code == 403
    assert (await sign_in(browser, secret)).status_code == 303
    told = {"sec-fetch-site": site} if site else {}
    for path in ("/console/teams", "/auth/logout"):
        assert (await browser.post(path, data={"name": "x"}, headers=told)).status_code == 403, path
    assert (await browser.post("/console/teams", data={"name": "x"}, headers=OWN)).status_code == 303


async def test_form_with_a_field_that_it_has_not_is_refused(browser: httpx.AsyncClient, store: Store) -> None:
    secret, _ = new_key(store, role="admin")
    await sign_in(browser, secret)
    for data in ({"name": "x", "role": "admin"}, {"name": "x", "__class__": "1"}):
        answer = await browser.post("/console/teams", data=data, headers=OWN | {"hx-request": "true"})
        assert answer.status_code == 400 and "未対応の項目" in answer.text
    assert (await browser.post("/console/teams", json={"name": "x"}, headers=OWN)).status_code == 415


async def test_what_somebody_wrote_is_text_on_a_page(browser: httpx.AsyncClient, store: Store) -> None:
    secret, _ = new_key(store, role="admin")
    await sign_in(browser, secret)
    title = '<img src=x onerror="alert(1)">'
    await browser.post("/console/teams", data={"name": "x", "title": title}, headers=OWN)
    shown = (await browser.get("/console/teams")).text
    assert title not in shown and "&lt;img" in shown


async def test_lists_page(browser: httpx.AsyncClient, store: Store) -> None:
    secret, _ = new_key(store, role="admin")
    await sign_in(browser, secret)
    for n in range(30):
        new_key(store, team=None, role="app", aliases=[f"a{n}"])
    first = (await browser.get("/console/keys")).text
    more = re.search(r'href="\?(after=[0-9a-f]+)"', first)
    assert more and len(re.findall(r"/console/keys/[0-9a-f]{12}", first)) == 25
    second = (await browser.get(f"/console/keys?{more[1]}")).text
    assert len(re.findall(r"/console/keys/[0-9a-f]{12}", second)) == 6


def test_problems_of_a_yaml_come_with_their_lines() -> None:
    error = SumikaError(
        "bad_config",
        "job.yaml can't be used (2 to mend):\n  line 7: unknown\n  a rule",
        "使えません:\n  7 行目: ありません\n  規則",
    )
    assert training.at_lines(error, "en") == [(7, "unknown"), (None, "a rule")]
    assert training.at_lines(error, "ja") == [(7, "ありません"), (None, "規則")]


def test_rent_or_own_is_reckoned_from_the_sheet() -> None:
    sheet = prices.load(ROOT / "configs" / "prices.yaml")
    luna, server = sheet.apis[0], sheet.servers[0]
    mix = Tokens(prompt=750_000, cached=0, completion=250_000)
    assert luna.yen(mix, 150) == pytest.approx(30)  # 0.75 * 0.10 + 0.25 * 0.50 dollars a million
    assert luna.yen(Tokens(prompt=1_000_000, cached=400_000, completion=0), 150) == pytest.approx((0.6 * 0.10 + 0.4 * 0.01) * 150)
    year = 12 * sum(server.parts().values())
    assert year == pytest.approx(3.5e6 / 4 + 0.1 * 3.5e6 + 0.7 * 8760 * 28 * 1.4)
    meets = prices.break_even(luna, year / 12, mix, 150)
    assert meets is not None and 12 * meets == pytest.approx(49e9, rel=0.02)
