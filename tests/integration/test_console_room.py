"""What the swap's plan says where memory is short: the old engine makes room, or the swap is not offered at all."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests import browser as browsers
from tests.integration.conftest import finish, start
from tests.integration.test_console import sign_in

# One fake engine plans 1 GiB of cache and 2 of runtime.
ROOM_FOR_ONE = "3.5"


def test_plan_tells_who_makes_room_and_when_nobody_can(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__MEMORY_GIB=ROOM_FOR_ONE)
    old, new = stack.base("one", seed=1), stack.base("two", seed=2)
    stack.deploy("talk", old)
    with browsers.chromium() as chromium:
        context = browsers.context(chromium, stack.url)
        page, said = browsers.watched(context)
        sign_in(page, stack.admin_key)
        plan = page.locator("#plan")
        page.goto(f"/console/swap?alias=other&version={new.ref}")
        expect(plan.locator("li.bad")).to_contain_text(f"{new.ref} のエンジンを起動するメモリーがありません")
        expect(plan.locator("li .bad")).to_contain_text("GiB")
        expect(plan.get_by_role("button", name="配備を始める")).to_have_count(0)
        browsers.shoot(page, "swap-no-room-light")
        assert browsers.violations(page) == []
        page.goto(f"/console/swap?alias=talk&version={new.ref}")
        expect(plan.locator("li.warn")).to_contain_text("その間のリクエストは待たされます")
        browsers.shoot(page, "swap-instead-light")
        assert browsers.violations(page) == []
        plan.get_by_role("button", name="配備を始める").click()
        page.wait_for_url("**/moves/*")
        expect(page.locator("#move")).to_contain_text(f"talk は {new.ref} になりました", timeout=120_000)
        assert stack.served("talk") == str(new.ref) and said == []
    finish(stack)
