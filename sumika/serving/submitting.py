"""Training jobs from the admin API: checked and put into the queue by a process of `sumika finetune`, since `serving` knows
nothing of learning and a check reads tokenizers and data that no gateway should hold."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sumika.models import principals, runfiles
from sumika.models.errors import SumikaError
from sumika.models.principals import Principal, Sensitivity
from sumika.serving.threads import to_end

_COMMAND = (sys.executable, "-m", "sumika.cli.main", "finetune", "enqueue")
_LONGEST_S = 120.0
# Of one check, and of each parser that it starts: they run beside the gateway.
_MEMORY = 2 * 2**30
_LIMITS = {
    resource.RLIMIT_DATA: _MEMORY,
    resource.RLIMIT_CPU: int(_LONGEST_S),
    resource.RLIMIT_CORE: 0,
}
# Threads that a library starts for each core would take the memory of one check by themselves.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
# Checks at once of one gateway worker; of one owner one runs at a time, and so many may wait.
_AT_ONCE = 2
_WAITING = 3


class Submitting:
    """The child finds the settings as this process did: in the file and the environment."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._running = asyncio.Semaphore(_AT_ONCE)
        self._places: dict[str, asyncio.Lock] = {}
        self._asked: Counter[str] = Counter()

    async def submit(self, config: str, priority: int, who: Principal, sensitivity: Sensitivity) -> dict[str, Any]:
        """The job's row. Raises SumikaError as the check does; `too_many_checks` (429); `check_exceeded`, past its time or
        memory; `check_failed` (500), where it died otherwise."""
        return await self._run({"config": config, "priority": priority, "submit": True, "sensitivity": sensitivity}, who)

    async def check(self, config: str, who: Principal) -> dict[str, Any]:
        """What the job would take, and warnings. Raises SumikaError as `submit`."""
        return await self._run({"config": config, "priority": 0, "submit": False}, who)

    async def _run(self, asked: dict[str, Any], who: Principal) -> dict[str, Any]:
        workspace = f"{runfiles.WORKSPACE}{secrets.token_hex(8)}"
        by = [who.id, who.role, who.source]
        told = json.dumps(asked | {"by": by, "who": principals.as_json(who), "workspace": workspace}).encode()
        async with self._place(who.owner):
            try:
                answer = await _ended(told)
            finally:
                await to_end(shutil.rmtree, self._runs / workspace, ignore_errors=True)
        if error := answer.get("error"):
            raise SumikaError(error["code"], error["en"], error["ja"], status=error["status"], param=error["param"])
        return answer

    @asynccontextmanager
    async def _place(self, owner: str) -> AsyncIterator[None]:
        """Of one owner after the other, so that nobody's checks keep everybody else's waiting."""
        if self._asked[owner] > _WAITING:
            raise SumikaError(
                "too_many_checks", "Your team's jobs are being checked already; try again when one of these checks has ended.",
                "チームのジョブを検査中です。終わってからやり直してください。", status=429, retry_after=10,
            )  # fmt: skip
        self._asked[owner] += 1
        try:
            async with self._places.setdefault(owner, asyncio.Lock()), self._running:
                yield
        finally:
            self._asked[owner] -= 1
            if not self._asked[owner]:
                del self._asked[owner], self._places[owner]


async def _ended(told: bytes) -> dict[str, Any]:
    """What the child printed. It and whatever it started are gone then."""
    # A session of its own: its parsers of Excel and Parquet can be ended with it.
    child = await asyncio.create_subprocess_exec(
        *_COMMAND, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, env=os.environ | _ONE_THREAD
    )
    try:
        _limit(child)
        async with asyncio.timeout(_LONGEST_S):
            answer, _ = await child.communicate(told)
    except TimeoutError:
        raise _exceeded() from None
    finally:
        if child.returncode != 0:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGABRT):
        raise _exceeded()
    try:
        value: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise _failed() from None
    return value


def _limit(child: Process) -> None:
    """Set from here, since the child must not be able to forget it."""
    for kind, most in _LIMITS.items():
        with suppress(ProcessLookupError):
            resource.prlimit(child.pid, kind, (most, most))


def _exceeded() -> SumikaError:
    return SumikaError(
        "check_exceeded",
        f"The check of this job took more than {_LONGEST_S:.0f} s or {_MEMORY // 2**30} GiB. Name less data, or have the job submitted "
        "on the server ('sumika finetune submit FILE').",
        f"ジョブの検査が {_LONGEST_S:.0f} 秒または {_MEMORY // 2**30} GiB を超えました。データを減らすか、サーバー上で登録してください"
        "(sumika finetune submit FILE)。",
    )


def _failed() -> SumikaError:
    return SumikaError(
        "check_failed",
        "The check of this job did not end well. Run 'sumika finetune check FILE' on the server to see why.",
        "ジョブの検査が正常に終わりませんでした。サーバーで sumika finetune check FILE を実行して原因を確認してください。",
        status=500,
    )
