"""A real headless Chromium (Debian's) in front of the console, and axe-core to look at what it shows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.conftest import ROOT

CHROMIUM = os.environ.get("SUMIKA_TEST_CHROMIUM", "/usr/bin/chromium")
SHOTS = ROOT / "var" / "screenshots"
AXE = (ROOT / "tests" / "vendor" / "axe.min.js").read_text()
# Root needs no sandbox; nothing of the browser's own may look for a host outside.
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb", "--font-render-hinting=none",
]  # fmt: skip
# A refusal that a page asked for and shows.
_REFUSED = re.compile(r"status of 4\d\d|Status Error Code 4\d\d")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Patient: other tests have the two cores at the same time."""
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def context(
    browser: Browser, url: str, *, lang: str = "ja", dark: bool = False, size: dict[str, int] = WIDE, issuer: str | None = None
) -> BrowserContext:
    """A reader. Whatever a page asks of another host, but the company's `issuer`, is refused and remembered in `strangers`."""
    made = browser.new_context(
        base_url=url, viewport=size, color_scheme="dark" if dark else "light", locale="ja-JP", reduced_motion="reduce"
    )  # type: ignore[arg-type]
    made.add_cookies([{"name": "sumika_lang", "value": lang, "url": url}])
    made.strangers = []  # type: ignore[attr-defined]

    def gate(route: Any) -> None:
        if route.request.url.startswith((url, issuer or url)):
            route.continue_()
        else:
            made.strangers.append(route.request.url)  # type: ignore[attr-defined]
            route.abort()

    made.route("**/*", gate)
    return made


def watched(context: BrowserContext) -> tuple[Page, list[str]]:
    """A page, and what its console complains of: faults of scripts, breaches of the policy."""
    page, said = context.new_page(), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "console",
        lambda message: said.append(message.text) if message.type == "error" and not _REFUSED.search(message.text) else None,
    )
    return page, said


def violations(page: Page) -> list[str]:
    """What axe-core finds serious or critical, by rule and place. Evaluated by the debugger, which the page's policy lets be."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})")
    return [
        f"{one['id']}: {json.dumps([node['target'] for node in one['nodes']][:4])} {one['nodes'][0]['failureSummary'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def shoot(page: Page, name: str) -> Path:
    SHOTS.mkdir(parents=True, exist_ok=True)
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path
