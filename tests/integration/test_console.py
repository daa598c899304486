"""The console in a real browser against the real stack: each page's main act, in the language and colours of its reader."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from sumika.models import audit, jobs, keys, moves
from sumika.models.audit import listing
from sumika.models.audit.listing import Filter
from tests import browser as browsers
from tests.conftest import ROOT, write_adapter
from tests.console_world import World
from tests.integration.conftest import Stack, finish, start, until

TRAINING = f'["{sys.executable}", "{ROOT / "tests" / "fake_training.py"}"]'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    stack = start(tmp_path_factory.mktemp("console"), SUMIKA_FINETUNE__COMMAND=TRAINING)
    made = World(stack)
    stack.script(chunks=24, chunk_delay_s=0.01)
    stack.deploy("gemma", made.base)
    stack.deploy("sakura-faq", made.first)
    made.fill()
    with made.at_work():
        yield made
    stack.script()
    finish(stack)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def page(world: World, chromium: Browser) -> Iterator[Page]:
    """An administrator's; afterwards no script failed, nothing broke the policy, and nobody outside was asked."""
    context = browsers.context(chromium, world.stack.url)
    made, said = browsers.watched(context)
    made.set_default_timeout(30_000)
    sign_in(made, world.stack.admin_key)
    yield made
    assert said == [] and context.strangers == []  # type: ignore[attr-defined]
    context.close()


def sign_in(page: Page, key: str) -> None:
    page.goto("/console/sign-in")
    page.get_by_label("管理者・エンジニアのキー").fill(key)
    page.get_by_role("button", name="キーでサインイン").click()
    page.wait_for_url("**/console/overview")


def acts(stack: Stack, action: str) -> list[tuple[str, str, str]]:
    with stack.store.read() as connection:
        return [(row.object, row.outcome, row.role) for row in listing.find(connection, Filter(action=action), 20)]


def test_sign_in_with_a_key_keeps_no_key_in_the_browser(page: Page, world: World) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("概況")
    cookie = next(one for one in page.context.cookies() if one["name"] == "__Host-sumika")
    assert (
        cookie["httpOnly"] and cookie["secure"] and cookie["sameSite"] == "Lax" and world.stack.admin_key not in cookie["value"]
    )
    page.get_by_role("button", name="サインアウト").click()
    page.wait_for_url("**/sign-in")
    page.goto("/console/keys")
    assert page.url.endswith("/console/sign-in?next=%2Fconsole%2Fkeys")
    page.get_by_label("管理者・エンジニアのキー").fill(world.stack.admin_key)
    page.get_by_role("button", name="キーでサインイン").click()
    page.wait_for_url("**/console/keys")


def test_wrong_key_is_refused_where_it_was_typed(page: Page, world: World) -> None:
    page.goto("/console/sign-in")
    page.get_by_label("管理者・エンジニアのキー").fill("sk-sumika-wrong")
    page.get_by_role("button", name="キーでサインイン").click()
    expect(page.locator("form .problem")).to_contain_text("このキーは無効です")
    secret, _ = world.stack.new_key(role="app")
    page.get_by_label("管理者・エンジニアのキー").fill(secret)
    page.get_by_role("button", name="キーでサインイン").click()
    expect(page.locator("form .problem")).to_contain_text("推論専用")


def test_overview_shows_what_is_served_and_the_last_day(page: Page, world: World) -> None:
    page.goto("/console/overview")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="sakura-faq", exact=True))
    expect(row).to_contain_text("稼働中")
    expect(page.locator("[data-figure=requests] canvas")).to_be_visible()
    before = world.stack.chat("gemma").status_code
    assert before == 200
    with page.expect_response("**/console/overview/live") as renewed:
        pass
    assert renewed.value.status == 200


def test_models_are_a_tree_with_cards_and_comparison(page: Page) -> None:
    page.goto("/console/models")
    tree = page.locator(".tree")
    expect(tree.locator("li li").filter(has_text="sakura-faq@2")).to_contain_text("合格")
    tree.get_by_role("link", name="sakura-faq@2").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("sakura-faq@2")
    expect(page.locator("main")).to_contain_text("13 / 15")
    page.get_by_role("link", name="2つの版を比較").click()
    page.get_by_label("2つ目").select_option("sakura-faq@1")
    page.get_by_role("button", name="比較する").click()
    expect(page.get_by_role("row").filter(has_text="training.config.lora.r")).to_contain_text("16")


def test_version_is_exported_and_an_archive_imported(page: Page, world: World, tmp_path: Path) -> None:
    page.goto("/console/models/sakura-faq@2")
    with page.expect_download() as download:
        page.get_by_role("link", name="書き出す").click()
    assert download.value.suggested_filename == "sakura-faq-2.sumika"
    download.value.save_as(world.home.incoming / "sakura-faq-2.sumika")
    write_adapter(world.home.incoming / "broken", fill=float("nan"))
    for source, name, ends in (("sakura-faq-2.sumika", "faq-copy", "faq-copy@1"), ("broken", "bad", "NaN")):
        page.goto("/console/models")
        page.get_by_role("button", name="取り込む").click()
        page.locator("#source").select_option(source)
        page.get_by_role("dialog").get_by_label("名前").fill(name)
        page.locator("#base").select_option("" if source.endswith(".sumika") else "gemma-3-270m@1")
        page.get_by_role("button", name="取り込みを始める").click()
        expect(page.locator("#imports li").first).to_contain_text(ends, timeout=180_000)
        expect(page.locator("#imports .badge.busy")).to_have_count(0)
    assert world.stack.version("faq-copy@1").digest == world.second.digest
    assert acts(world.stack, "model.export")[0] == ("sakura-faq@2", "done", "admin")


def test_swap_is_planned_proven_done_and_rolled_back(page: Page, world: World) -> None:
    page.goto("/console/swap")
    page.get_by_label("エイリアス").fill("sakura-faq")
    page.locator("#version").select_option("sakura-faq@2")
    page.get_by_role("button", name="何が起きるか見る").click()
    plan = page.locator("#plan")
    expect(plan).to_contain_text("追加のエンジンは不要です")
    expect(plan).to_contain_text("切り替える前に検証します")
    browsers.shoot(page, "swap-plan-light")
    assert browsers.violations(page) == []
    plan.get_by_label("理由").fill("9月の規程改定")
    plan.get_by_role("button", name="配備を始める").click()
    page.wait_for_url("**/moves/*")
    expect(page.locator("#move")).to_contain_text("sakura-faq は sakura-faq@2 になりました")
    expect(page.locator(".proof")).to_contain_text("ベースとの差")
    browsers.shoot(page, "move-light")
    assert world.stack.served("sakura-faq") == "sakura-faq@2"
    page.get_by_role("button", name="前の版に戻す").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("sakura-faq@2 から sakura-faq@1 に戻します")
    browsers.shoot(page, "rollback-light")
    dialog.get_by_role("button", name="前の版に戻す").click()
    expect(page.locator("#move")).to_contain_text("sakura-faq は sakura-faq@1 になりました")
    with world.stack.store.read() as connection:
        kinds = [(move.kind, move.reason) for move in moves.history(connection, "sakura-faq", limit=2)]
    assert kinds == [("rollback", ""), ("deploy", "9月の規程改定")]


def test_canary_is_shared_and_promoted(page: Page, world: World) -> None:
    page.goto("/console/swap?alias=sakura-faq&version=sakura-faq@2")
    page.get_by_label("一部のキーだけ").check()
    page.get_by_label("カナリアの割合").fill("30")
    page.get_by_role("button", name="配備を始める").click()
    expect(page.locator("#move")).to_contain_text("30% のキーが sakura-faq@2 を使います")
    expect(page.locator("#steps [aria-current]")).to_have_text("一部から全体へ")
    browsers.shoot(page, "canary-light")
    page.get_by_role("link", name="エイリアスを見る").click()
    page.wait_for_url("**/deployments/sakura-faq")
    page.go_back()
    page.get_by_role("button", name="全体に広げる").click()
    page.get_by_role("dialog").get_by_role("button", name="全体に広げる").click()
    expect(page.locator("#move")).to_contain_text("sakura-faq は sakura-faq@2 になりました")


def test_refused_version_is_refused_in_the_form(page: Page) -> None:
    page.goto("/console/swap?alias=mail&version=eigyo-mail@1")
    expect(page.locator("#plan")).to_contain_text("不合格の版です")
    page.locator("#plan").get_by_role("button", name="配備を始める").click()
    expect(page.locator("#plan .problem")).to_contain_text("評価に合格していないため配備できません")


def test_playground_streams_two_answers_side_by_side(page: Page) -> None:
    page.goto("/console/playground")
    page.locator("#left").select_option("sakura-faq")
    page.get_by_label("並べて比べる").select_option("gemma")
    page.locator("#question").fill("有給休暇は何日前までに申請しますか。")
    page.get_by_role("button", name="質問する").click()
    left, right = page.locator("[data-side=left]"), page.locator("[data-side=right]")
    expect(left.locator(".said")).to_contain_text(re.compile(r"sakura-faq@\d w0 .* w22"))
    expect(right.locator(".said")).to_contain_text(re.compile(r"gemma-3-270m@1 w0 .* w22"))
    expect(left.locator(".figures")).to_contain_text(re.compile(r"\d+\.\d tokens/s · 最初の応答まで \d+ ms · 24 トークン"))
    page.get_by_text("コードで見る").click()
    expect(page.locator("#python")).to_contain_text('model="sakura-faq"')
    browsers.shoot(page, "playground-asked-light")
    page.evaluate("document.cookie = '__Host-sumika=; max-age=0; path=/; secure'")


def test_training_watches_compares_and_cancels(page: Page, world: World) -> None:
    page.goto("/console/training")
    page.get_by_role("link", name="eigyo-mail").click()
    expect(page.locator("#log")).to_contain_text("step 61/132")
    expect(page.locator("[data-loss] canvas")).to_be_visible()
    page.get_by_role("link", name="2つのジョブを比較").click()
    page.get_by_label("2つ目").select_option(label=f"#{world.done} sakura-faq")
    page.get_by_role("button", name="比較する").click()
    expect(page.get_by_role("row").filter(has_text="job.seed")).to_contain_text("132")
    page.goto(f"/console/training/{world.running}")
    page.get_by_role("button", name="ジョブを中止").click()
    page.get_by_role("dialog").get_by_role("button", name="ジョブを中止").click()
    expect(page.locator("#live")).to_contain_text("停止処理中")
    with world.stack.store.read() as connection:
        assert jobs.get(connection, world.running).state == "stopping"


def test_job_with_a_slip_is_told_its_line_and_a_good_one_is_queued(page: Page, world: World, tmp_path: Path) -> None:
    from sumika.finetune import config
    from tests import tiny_llama

    tiny_llama.add(world.stack.store, world.home, tmp_path / "tiny")
    import yaml

    job = tiny_llama.job(tmp_path, "job.name=slow").model_dump(mode="json")
    with world.stack.client() as client:  # the same key that signed in

        def uploaded(name: str) -> str:
            file = {"file": (name, (tmp_path / name).read_bytes())}
            return str(client.post("/v1/files", files=file, data={"purpose": "fine-tune"}).json()["id"])

        job["data"]["train"][0]["path"] = uploaded("train.jsonl")
        job["evaluate"]["held_out"] = uploaded("held.jsonl")
    text = yaml.safe_dump(job, allow_unicode=True, sort_keys=False)
    page.goto("/console/training/new")
    page.get_by_label("設定(YAML)").fill(text.replace("  dropout:", "  dropuot:"))
    page.get_by_role("button", name="検査して始める").click()
    found = page.locator("#found")
    expect(found).to_contain_text("dropuot", timeout=180_000)
    expect(found).to_contain_text("行目")
    browsers.shoot(page, "job-problems-light")
    found.get_by_role("button").first.click()
    assert "dropuot" in page.evaluate(
        "(() => { const a = document.getElementById('config'); return a.value.slice(a.selectionStart, a.selectionEnd) })()"
    )
    page.get_by_label("設定(YAML)").fill(text)
    page.get_by_role("button", name="検査して始める").click()
    page.wait_for_url(re.compile(r"/training/\d+$"), timeout=180_000)
    job_id = int(page.url.rsplit("/", 1)[1])
    expect(page.locator("#log")).to_contain_text("step 3", timeout=120_000)
    with world.stack.store.read() as connection:
        queued = jobs.get(connection, job_id)
    assert queued.name == "slow" and config.load(world.home.runs / queued.run / "config.yaml").job.name == "slow"
    page.get_by_role("button", name="ジョブを中止").click()
    page.get_by_role("dialog").get_by_role("button", name="ジョブを中止").click()
    expect(page.locator("#live .badge").first).to_have_text("中止", timeout=120_000)


def test_key_is_made_shown_once_limited_rotated_and_revoked(page: Page, world: World) -> None:
    page.goto("/console/keys")
    page.get_by_role("button", name="キーを発行").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("名前").fill("Bad Name")
    dialog.get_by_label("チーム").select_option("soumu")
    dialog.get_by_label("sakura-faq").check()
    browsers.shoot(page, "key-new-light")
    dialog.get_by_label("名前").fill("intranet")
    dialog.get_by_role("button", name="発行する").click()
    secret = page.locator("#secret").inner_text()
    assert secret.startswith("sk-sumika-")
    browsers.shoot(page, "key-made-light")
    with world.stack.client(secret) as client:
        until(lambda: client.get("/v1/models").status_code == 200, what="the new key is known")
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["sakura-faq"]
        page.get_by_role("link", name="保管しました").click()
        page.wait_for_url(re.compile(r"/keys/[0-9a-f]{12}$"))
        assert secret not in page.content()
        page.get_by_role("button", name="変更").click()
        page.get_by_label("リクエスト/分").fill("1,200")
        page.get_by_role("button", name="保存").click()
        expect(page.locator("main")).to_contain_text("1,200")
        page.get_by_role("button", name="ローテーション").click()
        page.get_by_label("古いキーも使える期間").select_option("0")
        page.get_by_role("dialog").get_by_role("button", name="ローテーション").click()
        expect(page.locator("#secret")).not_to_have_text(secret)
        until(lambda: client.get("/v1/models").status_code == 401, what="the old secret has ended")
    page.get_by_role("link", name="保管しました").click()
    page.wait_for_url(re.compile(r"/keys/[0-9a-f]{12}$"))
    page.get_by_role("button", name="失効させる").click()
    page.get_by_role("dialog").get_by_role("button", name="失効させる").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("失効")
    with world.stack.store.read() as connection:
        key = keys.get(connection, page.url.rsplit("/", 1)[1])
    assert key.revoked_at and (key.aliases, key.team, key.role) == (("sakura-faq",), "soumu", "app")
    assert acts(world.stack, "key.revoke")[0] == (key.id, "done", "admin")


def test_team_is_made_and_removed(page: Page) -> None:
    page.goto("/console/teams")
    page.get_by_role("button", name="チームを作成").click()
    page.get_by_label("ID").fill("keiri")
    page.get_by_label("名前").fill("経理部")
    page.get_by_role("button", name="作成する").click()
    row = page.get_by_role("row").filter(has_text="経理部")
    row.get_by_role("button", name="削除").click()
    page.get_by_role("dialog").get_by_role("button", name="削除").click()
    expect(page.get_by_text("経理部")).to_have_count(0)
    page.get_by_role("row").filter(has_text="総務部").get_by_role("button", name="削除").click()
    page.get_by_role("dialog").get_by_role("button", name="削除").click()
    expect(page.get_by_role("dialog").locator(".problem")).to_contain_text("有効なキーがあります")


def test_usage_is_summed_and_costs_are_compared(page: Page) -> None:
    page.goto("/console/usage")
    expect(page.locator("[data-days] canvas")).to_be_visible()
    page.get_by_label("集計の単位").select_option("team")
    page.get_by_role("button", name="表示").click()
    expect(page.get_by_role("row").filter(has_text="総務部")).to_be_visible()
    page.goto("/console/costs")
    expect(page.locator("[data-costs] canvas")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="OpenAI").first).to_contain_text("LiteLLM 1.109.1")
    page.locator("#server").select_option("1")
    expect(page.get_by_role("row").filter(has_text="購入額").first).to_contain_text("15,000,000")


def test_usage_is_taken_away_and_the_sheet_is_edited(page: Page, world: World, tmp_path: Path) -> None:
    page.goto("/console/usage?by=team")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV を保存").click()
    download.value.save_as(tmp_path / "usage.csv")
    assert "soumu" in (tmp_path / "usage.csv").read_text("utf-8-sig")
    page.goto("/console/costs")
    page.get_by_role("link", name="価格表を編集").click()
    purchase = page.get_by_label("購入額", exact=True).first
    purchase.fill("いくらか")
    page.get_by_role("button", name="保存").click()
    expect(page.locator("form .problem")).to_contain_text("purchase: 0以上の数")
    purchase.fill("4,200,000")
    page.get_by_role("button", name="API を追加").click()
    added = page.locator("#apis tr").last
    for label, value in (("API", "house-model"), ("提供元", "社内"), ("入力", "30"), ("出力", "90"), ("出典", "見積書")):
        added.get_by_label(label, exact=True).fill(value)
    page.locator("#apis tr").first.get_by_role("button", name="削除").click()
    page.get_by_role("button", name="保存").click()
    page.wait_for_url("**/console/costs")
    expect(page.locator("td").filter(has_text="house-model")).to_contain_text("社内")
    expect(page.locator("td").get_by_text("見積書")).to_be_visible()
    expect(page.locator("td").filter(has_text="gpt-6-luna")).to_have_count(0)
    expect(page.get_by_role("row").filter(has_text="購入額").first).to_contain_text("4,200,000")
    page.get_by_role("link", name="価格表を編集").click()
    page.get_by_role("button", name="最初の価格表に戻す").click()
    page.get_by_role("dialog").get_by_role("button", name="最初の価格表に戻す").click()
    page.wait_for_url("**/console/costs")
    expect(page.locator("td").filter(has_text="gpt-6-luna")).to_be_visible()
    assert acts(world.stack, "prices")[0] == ("prices", "done", "admin")


def test_page_is_reached_and_left_by_keys_alone(page: Page) -> None:
    """The skip link first; then a dialog that holds the focus and gives it back."""
    page.goto("/console/teams")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="本文へ")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    opener = page.get_by_role("button", name="チームを作成")
    expect(opener).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Tab")
        outside = page.evaluate("document.activeElement !== document.body && !document.activeElement.closest('dialog')")
        assert not outside
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()


def test_renewed_part_leaves_who_goes_by_keys_where_they_are(page: Page) -> None:
    for path, part, name in (("overview", "**/overview/live", "sakura-faq"), ("training", "**/console/training", "eigyo-mail")):
        page.goto(f"/console/{path}")
        link = page.locator("#main").get_by_role("link", name=name, exact=True).first
        link.focus()
        page.evaluate("document.activeElement.dataset.before = 'yes'")
        with page.expect_response(part):
            pass
        expect(page.locator("[data-before]")).to_have_count(0)
        expect(link).to_be_focused()


def test_audit_is_searched_verified_and_exported(page: Page, world: World, tmp_path: Path) -> None:
    page.goto("/console/audit?action=alias")
    expect(page.get_by_role("row").filter(has_text="alias.deploy").first).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="team.create")).to_have_count(0)
    page.get_by_role("button", name="改ざんを検証").click()
    expect(page.locator("#verified")).to_contain_text("記録時のままです")
    with page.expect_download() as download:
        page.get_by_role("link", name="書き出す").click()
    download.value.save_as(tmp_path / "audit.jsonl")
    from sumika.models.audit import export

    assert export.verify_file(tmp_path / "audit.jsonl").ok
    assert acts(world.stack, audit.Action.AUDIT_EXPORT)[0][1:] == ("done", "admin")


def test_engineer_sees_what_an_engineer_may(world: World, chromium: Browser) -> None:
    secret, _ = world.stack.new_key(role="engineer", team="soumu")
    context = browsers.context(chromium, world.stack.url)
    page, said = browsers.watched(context)
    sign_in(page, secret)
    menu = page.locator("nav").first
    expect(menu.get_by_role("link", name="APIキー")).to_be_visible()
    expect(menu.get_by_role("link", name="監査ログ")).to_have_count(0)
    page.goto("/console/audit")
    expect(page.locator("main")).to_contain_text("管理者の権限が必要です")
    page.goto("/console/keys")
    expect(page.get_by_role("row").filter(has_text="soumu-bot")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="eigyo-bot")).to_have_count(0)
    page.goto("/console/usage?by=team")
    expect(page.get_by_role("row").filter(has_text="総務部")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="営業部")).to_have_count(0)
    assert said == []
    context.close()


# Charts are drawn, the plan is there, the playground knows its models.
SETTLED = """() => [...document.querySelectorAll(".chart")].every((one) => one.querySelector("canvas") || one.textContent.trim())
  && (document.querySelector("#plan")?.children.length ?? 1) && (document.querySelector("#left")?.options.length ?? 1)"""
PAGES = {
    "overview": "/console/overview", "models": "/console/models", "version": "/console/models/sakura-faq@2",
    "compare": "/console/models/compare?a=sakura-faq@1&b=sakura-faq@2", "deployments": "/console/deployments",
    "alias": "/console/deployments/sakura-faq", "swap": "/console/swap?alias=sakura-faq&version=sarashina2.2-1b@1",
    "playground": "/console/playground", "training": "/console/training", "job": "/console/training/1", "new-job": "/console/training/new?template=sakura-faq.yaml",
    "keys": "/console/keys", "teams": "/console/teams", "sessions": "/console/sessions", "usage": "/console/usage", "costs": "/console/costs",
    "prices": "/console/costs/prices", "audit": "/console/audit",
}  # fmt: skip


@pytest.mark.parametrize(
    ("look", "lang", "dark", "size"),
    [("light", "ja", False, browsers.WIDE), ("dark", "en", True, browsers.WIDE), ("narrow", "ja", False, browsers.NARROW)],
)
def test_every_page_is_seen_and_reached_by_everybody(
    world: World, chromium: Browser, look: str, lang: str, dark: bool, size: dict[str, int]
) -> None:
    """Screenshots of every page into var/screenshots; axe-core finds nothing serious; nothing is wider than the window."""
    context = browsers.context(chromium, world.stack.url, lang=lang, dark=dark, size=size)
    page, said = browsers.watched(context)
    page.goto("/console/sign-in")
    browsers.shoot(page, f"sign-in-{look}")
    found = {"sign-in": browsers.violations(page)}
    page.locator("#key").fill(world.stack.admin_key)
    page.locator("form button[type=submit]").click()
    page.wait_for_url("**/console/overview")
    for name, path in PAGES.items():
        page.goto(path)
        page.wait_for_function(SETTLED)
        browsers.shoot(page, f"{name}-{look}")
        found[name] = browsers.violations(page) if size is browsers.WIDE else []
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found[name] += [f"{wide} px wider than the window"] if wide > 0 else []
    assert {name: one for name, one in found.items() if one} == {} and said == []
    context.close()
