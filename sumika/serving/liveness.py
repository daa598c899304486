"""Does an engine still generate? Its server can answer 200 on /health while its GPU is dead (vllm#36960)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sumika.models.errors import SumikaError
from sumika.models.settings import EngineSettings
from sumika.serving.engine_client import EngineClient

log = logging.getLogger(__name__)


_LOOK_EVERY_S = 1.0
# An engine that neither takes a step nor computes for so long, with a request before it, waits for something that never comes.
_STILL_S = 4.0
# Of one core: a server that only answers /health and /metrics takes less.
_WORK = 0.1


async def until_dead(
    client: EngineClient, model: str, settings: EngineSettings, asleep: Callable[[], bool], worked: Callable[[], float]
) -> None:
    """Ask for one real token where none was made since the last look; return when an engine gave none, and no other sign of life.

    `worked`: seconds of processor time that its processes took. Slow is not dead: one whose counters of tokens moved is busy, and so
    is one that computes, up to `liveness_timeout_s`. Nor is one that sleeps.
    """
    seen = -1.0
    while True:
        await asyncio.sleep(settings.liveness_every_s)
        if asleep():
            continue
        try:
            before, seen = seen, await client.progress()
            if seen == before:
                if await _is_dead(client, model, settings, seen, worked) and not asleep():
                    return
                seen = await client.progress()
        except SumikaError as error:
            log.warning("no sign of life: %s", error.en)  # a server that does not answer at all is /health's matter


async def _is_dead(
    client: EngineClient, model: str, settings: EngineSettings, before: float, worked: Callable[[], float]
) -> bool:
    probe = asyncio.create_task(client.generates(model, settings.liveness_timeout_s))
    try:
        work, sign_at = worked(), time.monotonic()
        while not (await asyncio.wait({probe}, timeout=_LOOK_EVERY_S))[0]:
            if await client.progress() != before:
                return False
            since, work = work, worked()
            if work - since > _WORK * _LOOK_EVERY_S:
                sign_at = time.monotonic()
            if time.monotonic() - sign_at > _STILL_S:
                return True
        return not probe.result() and await client.progress() == before
    finally:
        probe.cancel()
