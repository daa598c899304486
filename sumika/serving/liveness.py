"""Does an engine still generate? Its server can answer 200 on /health while its GPU is dead (vllm#36960)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sumika.models.errors import SumikaError
from sumika.models.settings import EngineSettings
from sumika.serving.engine_client import EngineClient

log = logging.getLogger(__name__)


async def until_dead(client: EngineClient, model: str, settings: EngineSettings, asleep: Callable[[], bool]) -> None:
    """Ask for one real token now and then; return when an engine gave none in `liveness_timeout_s` and made no other
    progress.

    Slow is not dead: an engine whose counters of tokens moved meanwhile is only busy. Nor is one that sleeps.
    """
    while True:
        await asyncio.sleep(settings.liveness_every_s)
        if asleep():
            continue
        try:
            before = await client.progress()
            if await client.generates(model, settings.liveness_timeout_s) or await client.progress() != before or asleep():
                continue
        except SumikaError as error:
            log.warning("no sign of life: %s", error.en)
            continue  # a server that does not answer at all is /health's matter
        return
