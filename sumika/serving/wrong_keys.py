"""Who gives wrong keys again and again is answered later: guessing costs time, and nobody who gives a right one waits."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from starlette.types import Scope

from sumika.models.errors import SumikaError

# Wrong keys of one address within a minute that are answered at once: a program with an old key, and whoever types one.
FREE = 30
_MINUTE_S = 60.0
_DELAY_S = 1.0
# Answers that are held back at once, and addresses that are counted apart.
_MOST_HELD = 256
_MOST_ADDRESSES = 4096


class WrongKeys:
    """What one gateway worker counts. Behind a proxy all clients have its address: their wrong keys wait together, right ones never."""

    def __init__(self, delay_s: float = _DELAY_S) -> None:
        self._delay_s = delay_s
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._held = 0

    async def slow(self, scope: Scope) -> None:
        """Wait where the request's address gave many wrong keys.

        Raises:
            SumikaError: `too_many_wrong_keys` (429), where too many answers are held back already.
        """
        client = scope.get("client")
        if self._count(client[0] if client else "unknown") <= FREE:
            return
        if self._held >= _MOST_HELD:
            raise SumikaError(
                "too_many_wrong_keys",
                "Too many wrong keys come from this address. Stop sending this one, and ask your administrator for one that is valid.",
                "このアドレスから無効なキーが多数送られています。このキーでの送信を止め、有効なキーを管理者に依頼してください。",
                status=429,
                retry_after=60,
            )
        self._held += 1
        try:
            await asyncio.sleep(self._delay_s)
        finally:
            self._held -= 1

    def _count(self, address: str) -> int:
        began, count = self._counts.pop(address, (0.0, 0))
        if time.monotonic() - began > _MINUTE_S:
            began, count = time.monotonic(), 0
        self._counts[address] = (began, count + 1)
        while len(self._counts) > _MOST_ADDRESSES:
            self._counts.popitem(last=False)
        return count + 1
