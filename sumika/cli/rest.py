"""A small client of our own REST endpoint, for the commands that talk to a running gateway."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from sumika.cli.output import language
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings

KEY_VARIABLE = "SUMIKA_API_KEY"


def own_key(settings: Settings) -> str:
    """`SUMIKA_API_KEY`, else the admin key of this home."""
    if key := os.environ.get(KEY_VARIABLE):
        return key
    try:
        return settings.layout.admin_key.read_text().strip()
    except OSError:
        raise SumikaError(
            "no_key",
            f"No API key is at hand. Set {KEY_VARIABLE}.",
            f"APIキーが見つかりません。{KEY_VARIABLE} を設定してください。",
        ) from None


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a streamed answer; the last one says why it ended and which version spoke."""

    text: str
    version: str
    finish_reason: str | None


class Rest:
    """Requests to one gateway with one key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ready(self, model: str) -> bool:
        try:
            async with self._session.get("/health/ready", params={"model": model}) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def chat(self, model: str, messages: list[dict[str, str]], **options: Any) -> AsyncIterator[Piece]:
        """Stream one answer.

        Raises:
            SumikaError: with the gateway's own code and words; `gateway_unreachable` where none listens.
        """
        body = {"model": model, "messages": messages, "stream": True, **options}
        try:
            async with self._session.post("/v1/chat/completions", json=body) as response:
                if response.status != 200:
                    raise _told(await response.json(), response.status)
                version = response.headers.get("x-sumika-version", "")
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        yield _piece(json.loads(line[6:]), version)
        except (aiohttp.ClientError, OSError) as error:
            raise SumikaError(
                "gateway_unreachable",
                f"No gateway answers at {self._session._base_url}. Start it: 'sumika up'.",
                f"{self._session._base_url} で応答がありません。sumika up で起動してください。",
                status=503,
            ) from error

    async def answer(self, model: str, question: str, **options: Any) -> tuple[str, Piece]:
        """The whole answer to one question, and its last piece."""
        text, last = "", Piece("", "", None)
        async for last in self.chat(model, [{"role": "user", "content": question}], **options):
            text += last.text
        return text, last


@asynccontextmanager
async def connected(settings: Settings, key: str) -> AsyncIterator[Rest]:
    headers = {"authorization": f"Bearer {key}", "accept-language": language()}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=600)
    async with aiohttp.ClientSession(settings.url, headers=headers, timeout=timeout) as session:
        yield Rest(session)


def _piece(event: dict[str, Any], version: str) -> Piece:
    if "error" in event:
        raise _told(event, 502)
    choices = event.get("choices") or [{}]
    return Piece(choices[0].get("delta", {}).get("content") or "", version, choices[0].get("finish_reason"))


def _told(body: dict[str, Any], status: int) -> SumikaError:
    error = body.get("error", {})
    message = str(error.get("message", body))
    return SumikaError(str(error.get("code", "error")), message, message, status=status)
