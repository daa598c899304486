"""The admin API as a page asks it: in this process, as the person who is signed in, under the same table.

So a page shows and does nothing that a program with the same rights could not, and no rule stands twice.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response
from starlette.types import Message

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.serving import requests
from sumika.serving.access import Table, check_fields, check_route
from sumika.serving.admin.asking import MOST
from sumika.serving.ownership import Ownership

_PREFIX = "/admin/v1"


class Api:
    """Call it with who asks, a method and a path below `/admin/v1`; what comes back is the answer's JSON."""

    def __init__(self, admin: APIRouter, ownership: Ownership) -> None:
        self._ownership = ownership
        self._app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        self._app.include_router(admin)
        self._app.add_exception_handler(SumikaError, _kept)  # type: ignore[arg-type]
        self._app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
        self._table = Table()

    async def get(self, who: Principal, path: str, **query: object) -> Any:
        """Raises SumikaError, whatever the route refuses with. What is None or empty in `query` is not asked."""
        return await self._ask(who, "GET", path, {name: value for name, value in query.items() if value not in (None, "")}, {})

    async def every(self, who: Principal, path: str, **query: object) -> list[Any]:
        """All rows of a list that pages, for a page that offers them to choose from. Raises SumikaError, as `get`."""
        rows, after = [], ""
        while True:
            found = await self.get(who, path, after=after, limit=MOST, **query)
            rows += found["data"]
            if (after := found["next"]) is None:
                return rows

    async def post(self, who: Principal, path: str, **body: object) -> Any:
        """Raises SumikaError."""
        return await self._ask(who, "POST", path, {}, body)

    async def delete(self, who: Principal, path: str) -> Any:
        """Raises SumikaError."""
        return await self._ask(who, "DELETE", path, {}, {})

    async def _ask(self, who: Principal, method: str, path: str, query: dict[str, object], body: dict[str, Any]) -> Any:
        path = f"{_PREFIX}{path}"
        rule = self._table.find(method, path)
        check_route(who, rule)
        check_fields(who.role, rule, [*query, *body])
        await self._ownership.check(who, rule, path)
        sent = json.dumps(body).encode() if method == "POST" else b""
        state: dict[str, Any] = {"principal": who}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method, "path": path,
            "raw_path": quote(path).encode(), "root_path": "", "query_string": urlencode(query).encode(), "server": None, "client": None,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(sent)).encode())], "state": state,
        }  # fmt: skip
        answer = bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Message) -> None:
            answer.extend(message.get("body", b""))

        await self._app(scope, receive, send)
        if (error := state.get("error")) is not None:
            raise error
        return json.loads(answer)


async def _kept(request: Request, error: SumikaError) -> Response:
    """The error itself, for whoever asked in this process: it speaks both languages."""
    request.state.error = error
    return Response(status_code=error.status)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return await _kept(request, requests.invalid([{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]))
