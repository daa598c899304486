"""The end of a gateway worker: it says that it is no longer ready, lets running answers end, and cuts what is left with an error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sumika.models.errors import SumikaError

_AGAIN_S = 5


class Drain:
    """`begun`: balancers should send nothing more; `over`: nothing runs on."""

    def __init__(self) -> None:
        self.begun = self.over = False
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        self.begun = True

    def cut(self) -> int:
        """End what still runs, each with an error that its client is told; how many there were."""
        self.over = True
        for task in self._running:
            task.cancel()
        return len(self._running)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A request, in this task.

        Raises:
            SumikaError: `shutting_down`, as in `told`.
        """
        if self.over:
            raise shutting_down()
        task = _this_task()
        self._running.add(task)
        try:
            with self.told():
                yield
        finally:
            self._running.discard(task)

    @contextmanager
    def told(self) -> Iterator[None]:
        """While inside, being cut is an error like others. What runs in no request of a client (a batch) is cancelled as ever.

        Raises:
            SumikaError: `shutting_down` (503).
        """
        try:
            yield
        except asyncio.CancelledError:
            task = _this_task()
            if not self.over or task not in self._running:
                raise
            task.uncancel()
            raise shutting_down() from None


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a request runs in a task")
    return task


def shutting_down() -> SumikaError:
    return SumikaError(
        "shutting_down",
        "The gateway is being stopped or restarted and could not finish this answer. Send the request again in a moment.",
        "ゲートウェイの停止または再起動のため、応答を完了できませんでした。少し待ってからもう一度送ってください。",
        status=503,
        retry_after=_AGAIN_S,
    )


def draining() -> SumikaError:
    return SumikaError(
        "draining",
        "The gateway is being stopped or restarted; send new requests to another one.",
        "ゲートウェイを停止または再起動しています。新しいリクエストは別のゲートウェイに送ってください。",
        status=503,
        retry_after=_AGAIN_S,
    )
