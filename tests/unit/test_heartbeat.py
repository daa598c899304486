"""Heartbeats as the listener counts them."""

from __future__ import annotations

import asyncio
import os

from sumika.serving import heartbeat
from sumika.serving.heartbeat import Heartbeat, beating


async def test_beats_are_missed_between_the_first_one_and_the_goodbye() -> None:
    listener = Heartbeat()
    assert [listener.missed() for _ in range(3)] == [0, 0, 0], "it has not begun"
    async with beating(os.dup(listener.fd)):
        await asyncio.sleep(0.05)
        assert [listener.missed() for _ in range(4)] == [0, 1, 2, 3]
        await asyncio.sleep(heartbeat.INTERVAL_S + 0.5)
        assert listener.missed() == 0, "it beats on"
    assert [listener.missed() for _ in range(20)] == [0] * 20, "it said goodbye"
    listener.started()
    listener.close()


async def test_process_that_nobody_listens_to_beats_into_nothing() -> None:
    async with beating(None):
        pass
    listener = Heartbeat()
    fd = os.dup(listener.fd)
    listener.started()
    listener.close()
    async with beating(fd):
        await asyncio.sleep(0.05)
