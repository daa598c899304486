"""What is fetched from an issuer: JSON, bounded in size and time, from exactly the address asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from sumika.models.errors import SumikaError
from sumika.models.oidc_settings import check_url

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_MOST_BYTES = 512 * 1024


class Unreachable(Exception):
    """The issuer did not answer as it must; why, in words for our log. `status`: what it answered, where it refused."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class Outside:
    """Connections to issuers, made when the first one is needed."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """Raises Unreachable."""
    return await _fetched(session, "GET", url)


async def post(
    session: aiohttp.ClientSession, url: str, form: Mapping[str, str], auth: aiohttp.BasicAuth | None
) -> dict[str, Any]:
    """Raises Unreachable."""
    return await _fetched(session, "POST", url, data=form, auth=auth)


async def _fetched(session: aiohttp.ClientSession, method: str, url: str, **more: Any) -> dict[str, Any]:
    try:
        headers = {"accept": "application/json"}
        async with session.request(method, check_url(url), headers=headers, allow_redirects=False, **more) as response:
            if response.status != 200:
                raise Unreachable(f"{url} answered {response.status}", response.status)
            data = await _read(response)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
        raise Unreachable(f"{url}: {type(error).__name__}") from error
    if not isinstance(data, dict):
        raise Unreachable(f"{url} answered no object")
    return data


async def _read(response: aiohttp.ClientResponse) -> Any:
    """Raises ValueError, for more than `_MOST_BYTES` or what is no JSON."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > _MOST_BYTES:
            raise ValueError("too long")
    return json.loads(body.decode("utf-8"))


def unreachable(name: str) -> SumikaError:
    return SumikaError(
        "issuer_unreachable",
        f"The sign-in service '{name}' does not answer, so nobody can be told by it now. API keys work; try again in a moment.",
        f"認証基盤「{name}」が応答しないため確認できません。APIキーは利用できます。少し待ってやり直してください。",
        status=503,
        retry_after=10,
    )
