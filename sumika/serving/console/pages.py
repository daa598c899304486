"""From values to a page: templates, the reader's language and colours, and the headers that keep a page to itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from sumika import __version__
from sumika.models.errors import Language, SumikaError
from sumika.models.principals import Principal
from sumika.serving.access import CONSOLE
from sumika.serving.console import shown
from sumika.serving.console.words import Words

STATIC = Path(__file__).with_name("static")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY, "x-content-type-options": "nosniff", "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin", "cache-control": "no-store",
}  # fmt: skip
_LANGUAGE, _THEME = "sumika_lang", "sumika_theme"
_OPERATE = ("overview", "models", "deployments", "playground", "training")
# What the menu offers each role; the table says what they may.
_MENU = {
    "app": [("operate", ("playground",))],
    "engineer": [("operate", _OPERATE), ("manage", ("keys", "teams", "usage"))],
    "admin": [("operate", _OPERATE), ("manage", ("keys", "teams", "sessions", "usage", "costs", "audit"))],
}


class Pages:
    """Renders templates. One environment for all requests; the reader's language goes in with the values."""

    def __init__(self) -> None:
        self._words = Words.read()
        self._env = Environment(
            loader=PackageLoader("sumika.serving.console", "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._env.filters |= shown.FILTERS
        # Files are asked for by their content, so that a browser keeps them until they change.
        self._env.globals |= {
            "asset": {path.name: _tag(path) for path in STATIC.iterdir()},
            "console": CONSOLE,
            "sumika": __version__,
            "menu": _MENU,
        }

    def show(self, request: Request, template: str, code: int = 200, **values: Any) -> Response:
        """A page, or for htmx the part of one."""
        who: Principal | None = getattr(request.state, "principal", None)
        return self._made(request.scope, template, code, who=who, path=request.url.path, query=request.query_params, **values)

    def goes_to(self, request: Request, path: str) -> Response:
        """After an act: where the reader goes on."""
        if _by_htmx(request.scope):
            return Response(status_code=204, headers={"HX-Redirect": path, **HEADERS})
        return RedirectResponse(path, status_code=303, headers=HEADERS)

    def told(self, error: SumikaError, scope: Scope) -> Response:
        """An error where it happened: a line for htmx, a page else; who is not signed in is led to where they can."""
        scope.setdefault("state", {})["code"] = error.code
        if error.status == 401 and not scope["path"].endswith("/sign-in"):
            path = f"{CONSOLE}/sign-in{_back_to(scope)}"
            if _by_htmx(scope):
                return Response(status_code=401, headers={"HX-Redirect": path, **HEADERS})
            return RedirectResponse(path, status_code=303, headers=HEADERS)
        template = "problem.html" if _by_htmx(scope) else "error.html"
        who = scope["state"].get("principal")
        return self._made(scope, template, error.status, who=who, path=scope["path"], query={}, error=error)

    def text(self, request: Request, key: str, **values: object) -> str:
        return self._words.text(key, language(request.scope), **values)

    def _made(self, scope: Scope, template: str, code: int, **values: Any) -> Response:
        speak, theme = language(scope), _cookies(scope).get(_THEME, "")

        def t(key: str, **named: object) -> str:
            return self._words.text(key, speak, **named)

        text = self._env.get_template(template).render(
            t=t, lang=speak, theme=theme if theme in ("light", "dark") else "", say=lambda error: said(error, speak), **values
        )
        return HTMLResponse(text, status_code=code, headers=HEADERS)


def language(scope: Scope) -> Language:
    """Japanese, unless the reader switched."""
    return "en" if _cookies(scope).get(_LANGUAGE) == "en" else "ja"


def said(error: Mapping[str, str] | SumikaError, speak: Language) -> str:
    """An error of ours, or one as rows keep it (`{"en": …, "ja": …}`), or any text in two languages."""
    return error.text(speak) if isinstance(error, SumikaError) else error[speak]


async def form(request: Request) -> dict[str, list[str]]:
    """What a form gives, by name; fields left empty are left out."""
    return parse_qs((await request.body()).decode("ascii"), max_num_fields=500)


def one(given: Mapping[str, list[str]], name: str) -> str:
    """A field's one value; empty where it was left empty."""
    return given.get(name, [""])[0].strip()


def _by_htmx(scope: Scope) -> bool:
    return any(name == b"hx-request" for name, _ in scope["headers"])


def _back_to(scope: Scope) -> str:
    """Where whoever signs in goes on: the page they asked for, or that a part of it was renewed on."""
    seen = dict(scope["headers"]).get(b"hx-current-url", b"").decode("latin-1") if _by_htmx(scope) else ""
    path, query = (
        (urlsplit(seen).path, urlsplit(seen).query) if seen else (scope["path"], scope["query_string"].decode("latin-1"))
    )
    if not path.startswith(f"{CONSOLE}/") or (scope["method"] not in ("GET", "HEAD") and not seen):
        return ""
    return f"?next={quote(f'{path}?{query}' if query else path, safe='')}"


def _cookies(scope: Scope) -> dict[str, str]:
    held = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
    return cookie_parser(held.decode("latin-1")) if held else {}


def _tag(path: Path) -> str:
    return f"{CONSOLE}/static/{path.name}?v={hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
