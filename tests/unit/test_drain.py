"""The end of a drain, without a process: who is cut is told, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from sumika.models.errors import SumikaError
from sumika.serving.drain import Drain


async def test_request_that_runs_too_long_is_cut_with_an_error() -> None:
    drain = Drain()

    async def request() -> None:
        with drain.running():
            async with asyncio.timeout(60):
                await asyncio.sleep(60)

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    drain.begin()
    assert not task.done() and drain.cut() == 1
    with pytest.raises(SumikaError) as caught:
        await task
    assert (caught.value.code, caught.value.status) == ("shutting_down", 503) and caught.value.retry_after
    assert task.cancelling() == 0, "what still has to be told can be awaited"
    with pytest.raises(SumikaError, match="stopped or restarted"):
        await request()


async def test_what_runs_in_no_request_is_cancelled_as_ever() -> None:
    """A line of a batch: it goes back to be asked again, and has not failed."""
    drain = Drain()

    async def line() -> None:
        with drain.told():
            await asyncio.sleep(60)

    task = asyncio.create_task(line())
    await asyncio.sleep(0)
    assert drain.cut() == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_request_that_is_cancelled_before_the_deadline_is_cancelled() -> None:
    drain = Drain()

    async def request() -> None:
        with drain.running():
            await asyncio.sleep(60)

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    drain.begin()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
