"""Training jobs from the admin API: checked and put into the queue by a process of `sumika finetune`, since `serving` knows
nothing of learning and a check reads tokenizers and data that no gateway should hold."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from sumika.models.actor import Actor
from sumika.models.errors import SumikaError

_COMMAND = (sys.executable, "-m", "sumika.cli.main", "finetune", "enqueue")
_LONGEST_S = 120.0
# A check takes a gigabyte where the data is large.
_AT_ONCE = 1


class Submitting:
    """One at a time. The child finds the settings as this process did: in the file and the environment."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def submit(self, config: str, priority: int, by: Actor) -> dict[str, Any]:
        """The job's row. Raises SumikaError as the check does; `check_failed` (500), where it died."""
        return await self._run({"config": config, "priority": priority, "submit": True}, by)

    async def check(self, config: str, by: Actor) -> dict[str, Any]:
        """What the job would take, and warnings. Raises SumikaError as `submit`."""
        return await self._run({"config": config, "priority": 0, "submit": False}, by)

    async def _run(self, asked: dict[str, Any], by: Actor) -> dict[str, Any]:
        told = json.dumps(asked | {"by": [by.name, by.role, by.source]}).encode()
        async with self._turn:
            child = await asyncio.create_subprocess_exec(
                *_COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            try:
                answer, _ = await asyncio.wait_for(child.communicate(told), _LONGEST_S)
            except (TimeoutError, asyncio.CancelledError):
                child.kill()
                await child.wait()
                raise _failed() from None
        try:
            value: dict[str, Any] = json.loads(answer)
        except ValueError:
            raise _failed() from None
        if error := value.get("error"):
            raise SumikaError(error["code"], error["en"], error["ja"], status=error["status"], param=error["param"])
        return value


def _failed() -> SumikaError:
    return SumikaError(
        "check_failed",
        "The check of this job did not end well. Run 'sumika finetune check FILE' on the server to see why.",
        "ジョブの検査が正常に終わりませんでした。サーバーで sumika finetune check FILE を実行して原因を確認してください。",
        status=500,
    )
