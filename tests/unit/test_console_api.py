"""The console's way to the admin API in its own process: JSON alone, paths that stay what they are, answers that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.principals import Principal
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import admin
from sumika.serving.console import api as console_api
from sumika.serving.console.api import Api
from sumika.serving.ownership import Ownership

WHO = Principal("key_admin", "test", "admin")


@pytest.fixture
def whole(store: Store, home: Home) -> Iterator[Api]:
    yield Api(admin.router(store, Settings(home=home.root)), Ownership(store))


async def refusal(asked: Any) -> SumikaError:
    with pytest.raises(SumikaError) as caught:
        await asyncio.wait_for(asked, 20)
    return caught.value


@pytest.mark.parametrize(
    "parts",
    [("versions", "base@1", "export"), ("audit", "export"), ("usage", "csv")],
    ids=["a model's archive", "the log", "usage as a file"],
)
async def test_files_are_no_answers_for_a_page(whole: Api, parts: tuple[str, ...]) -> None:
    assert (await refusal(whole.get(WHO, *parts))).code == "path_not_found"


@pytest.mark.parametrize("part", ["base@1/export", "../audit/export", "..", ".", "", "a/b", "/"])
async def test_part_of_a_path_stays_one_part(whole: Api, part: str) -> None:
    assert (await refusal(whole.get(WHO, "versions", part))).status == 404


@pytest.mark.parametrize("part", ["base@1%2Fexport", "base@1?x=1", "base@1#x", "版", "a b"])
async def test_part_of_a_path_means_what_it_says(whole: Api, part: str) -> None:
    """It comes to the route as it is, which then says what it thinks of it."""
    assert (await refusal(whole.get(WHO, "versions", part))).code == "bad_version"


def _made(routes: APIRouter, store: Store, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(console_api, "check_fields", lambda *_: None)
    made = APIRouter(prefix="/admin/v1")
    made.include_router(routes)
    return Api(made, Ownership(store))


async def test_answer_that_streams_is_refused_however_it_is_declared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = APIRouter()

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    @routes.get("/status")
    async def status() -> StreamingResponse:
        return StreamingResponse(pieces())

    assert (await refusal(_made(routes, store, monkeypatch).get(WHO, "status"))).code == "path_not_found"


async def test_route_that_listens_for_the_clients_end_waits_for_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Starlette does beside an answer; a `receive` that returned at once for ever would stop the loop."""
    routes = APIRouter()

    @routes.get("/status")
    async def status(request: Request) -> dict[str, Any]:
        await request.body()
        try:
            await asyncio.wait_for(request.receive(), 0.05)
        except TimeoutError:
            return {"waited": True}
        return {"waited": False}

    assert await _made(routes, store, monkeypatch).get(WHO, "status") == {"waited": True}


async def test_answer_beyond_measure_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = APIRouter()

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        return {"text": "x" * 2_000}

    api = _made(routes, store, monkeypatch)
    assert len((await api.get(WHO, "status"))["text"]) == 2_000
    monkeypatch.setattr(console_api, "_MOST_BYTES", 1_000)
    assert (await refusal(api.get(WHO, "status"))).code == "answer_too_large"
