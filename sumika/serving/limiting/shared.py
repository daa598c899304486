"""Counters and places that several workers share, in Redis or Valkey.

A place is a member of a sorted set whose score is when it ends; whoever holds it renews it, so a worker that dies frees its
places within `PLACE_S`. Times are the server's own, so workers' clocks need not agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar, cast

from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sumika.serving.limiting.ledger import COUNTER_S, Ledger, LedgerGone

PLACE_S = 15
_TIMEOUT_S = 0.25
_PREFIX = "sumika"
T = TypeVar("T")

# KEYS: sets; ARGV: seconds a place lasts, its name, then the most of each set. Gives the number of the first that is full, or 0.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if redis.call('ZCARD', key) >= tonumber(ARGV[i + 2]) then return i end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[1], ARGV[2])
  redis.call('EXPIRE', key, ARGV[1] * 2)
end
return 0
"""
# KEYS: sets; ARGV: seconds, name. A place that ended meanwhile is taken again: its request is still under way.
_RENEW = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[1], ARGV[2])
  redis.call('EXPIRE', key, ARGV[1] * 2)
end
"""


class SharedLedger(Ledger):
    """What all workers on one server know of. `run` renews this worker's places until cancelled."""

    def __init__(self, url: str) -> None:
        self._counters = RedisStorage(
            f"async+{url}", wrap_exceptions=True, implementation="redispy", key_prefix=_PREFIX,
            socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S,
        )  # fmt: skip
        self._redis = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        self._take = self._redis.register_script(_TAKE)
        self._renew = self._redis.register_script(_RENEW)
        self._places: dict[str, list[str]] = {}

    async def add(self, amounts: Mapping[str, int]) -> list[int]:
        return await _told(asyncio.gather(*(self._counters.incr(name, COUNTER_S, by) for name, by in amounts.items())))

    async def read(self, names: Sequence[str]) -> list[int]:
        return await _told(asyncio.gather(*(self._counters.get(name) for name in names)))

    async def take(self, place: str, most: Mapping[str, int]) -> str | None:
        keys = [_set(name) for name in most]
        full = await _told(self._take(keys, [PLACE_S, place, *most.values()]))
        if full:
            return list(most)[int(cast(Any, full)) - 1]
        self._places[place] = keys
        return None

    async def leave(self, place: str, names: Sequence[str]) -> None:
        self._places.pop(place, None)
        await _told(asyncio.gather(*(self._redis.zrem(_set(name), place) for name in names)))

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PLACE_S / 3)
            try:
                for place, keys in list(self._places.items()):
                    await _told(self._renew(keys, [PLACE_S, place]))
            except LedgerGone:
                continue  # those who take a place meanwhile find out and say so

    async def close(self) -> None:
        await self._redis.aclose()


async def _told(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except (StorageError, RedisError, OSError, TimeoutError) as error:
        raise LedgerGone(type(error).__name__) from error


def _set(name: str) -> str:
    return f"{_PREFIX}:places:{name}"
