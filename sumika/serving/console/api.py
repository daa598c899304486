"""The admin API as a page asks it: in this process, as the person who is signed in, under the same table.

So a page shows and does nothing that a program with the same rights could not, and no rule stands twice. Pages ask for JSON
alone: a route that gives a file is not there, since a file may be endless and belongs into no page.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.serving import requests
from sumika.serving.access import Table, check_fields, check_route, nothing_here
from sumika.serving.admin.asking import MOST
from sumika.serving.ownership import Ownership

_PREFIX = "/admin/v1"
# Of one answer: a page of 200 jobs with their configurations is some 2 MiB.
_MOST_BYTES = 16 * 2**20
# Parts that a reader of paths takes for a direction.
_DIRECTIONS = (".", "..")


class Api:
    """Call it with who asks, a method and the parts of a path below `/admin/v1`; what comes back is the answer's JSON."""

    def __init__(self, admin: APIRouter, ownership: Ownership) -> None:
        self._ownership = ownership
        self._app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        self._app.include_router(_json_routes(admin))
        self._app.add_exception_handler(SumikaError, _kept)  # type: ignore[arg-type]
        self._app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
        self._app.add_exception_handler(HTTPException, _missing)  # type: ignore[arg-type]
        self._table = Table()

    async def get(self, who: Principal, *parts: object, **query: object) -> Any:
        """Raises SumikaError, whatever the route refuses with. What is None or empty in `query` is not asked."""
        return await self._ask(who, "GET", parts, {name: value for name, value in query.items() if value not in (None, "")}, {})

    async def every(self, who: Principal, *parts: object, **query: object) -> list[Any]:
        """All rows of a list that pages, for a page that offers them to choose from. Raises SumikaError, as `get`."""
        rows, after = [], ""
        while True:
            found = await self.get(who, *parts, after=after, limit=MOST, **query)
            rows += found["data"]
            if (after := found["next"]) is None:
                return rows

    async def post(self, who: Principal, *parts: object, **body: object) -> Any:
        """Raises SumikaError."""
        return await self._ask(who, "POST", parts, {}, body)

    async def delete(self, who: Principal, *parts: object, **query: object) -> Any:
        """Raises SumikaError."""
        return await self._ask(who, "DELETE", parts, query, {})

    async def _ask(
        self, who: Principal, method: str, parts: tuple[object, ...], query: dict[str, object], body: dict[str, Any]
    ) -> Any:
        texts = [_checked(str(part)) for part in parts]
        path = "/".join([_PREFIX, *texts])
        rule = self._table.find(method, path)
        check_route(who, rule)
        check_fields(who.role, rule, [*query, *body])
        await self._ownership.check(who, rule, path)
        sent = json.dumps(body).encode() if method == "POST" else b""
        state: dict[str, Any] = {"principal": who}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method, "path": path,
            "raw_path": "/".join([_PREFIX, *(quote(text, safe="") for text in texts)]).encode(), "root_path": "",
            "query_string": urlencode(query).encode(), "server": None, "client": None,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(sent)).encode())], "state": state,
        }  # fmt: skip
        answer = _Answer(sent)
        await self._app(scope, answer.receive, answer.send)
        if (error := state.get("error")) is not None:
            raise error
        return json.loads(answer.whole())


class _Answer:
    """One exchange in this process: a body for the route to read, and what it answers."""

    def __init__(self, sent: bytes) -> None:
        self._sent: bytes | None = sent
        self._body = bytearray()
        self._bytes = 0

    async def receive(self) -> Message:
        """The body, once; then nothing, as from a client that waits for its answer."""
        if self._sent is None:
            await asyncio.Event().wait()
        sent, self._sent = self._sent, None
        return {"type": "http.request", "body": sent, "more_body": False}

    async def send(self, message: Message) -> None:
        piece = message.get("body", b"")
        self._bytes += len(piece)
        if self._bytes <= _MOST_BYTES:
            self._body += piece

    def whole(self) -> bytearray:
        """Raises SumikaError `answer_too_large` (413)."""
        if self._bytes > _MOST_BYTES:
            raise SumikaError(
                "answer_too_large",
                f"What this page shows is longer than {_MOST_BYTES // 2**20} MiB. Ask for fewer rows at once.",
                f"このページに表示する内容が {_MOST_BYTES // 2**20} MiB を超えています。一度に表示する行を減らしてください。",
                status=413,
            )
        return self._body


def _json_routes(admin: APIRouter) -> APIRouter:
    """Those that say what JSON they answer with; a route that makes its response itself says nothing."""
    chosen = APIRouter()
    chosen.routes += [route for route in admin.routes if isinstance(route, APIRoute) and route.response_model is not None]
    return chosen


def _checked(part: str) -> str:
    """A part of a path, which stays one.

    Raises:
        SumikaError: `path_not_found`, for what a path would part or lead elsewhere.
    """
    if not part or "/" in part or part in _DIRECTIONS:
        raise nothing_here()
    return part


async def _kept(request: Request, error: SumikaError) -> Response:
    """The error itself, for whoever asked in this process: it speaks both languages."""
    request.state.error = error
    return Response(status_code=error.status)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return await _kept(request, requests.invalid([{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]))


async def _missing(request: Request, _: HTTPException) -> Response:
    return await _kept(request, nothing_here())
