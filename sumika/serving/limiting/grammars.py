"""How many different grammars one owner may have made in a minute: an engine compiles each in front of everybody else's answers."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from typing import Any

from sumika.models.errors import SumikaError
from sumika.serving.limiting import window

# Two a second. Who sends one schema again and again, as programs do, uses one.
MOST = 120


class GrammarBudget:
    """What was asked of this worker in the minute that runs, by owner."""

    def __init__(self) -> None:
        self._minute = 0
        self._seen: defaultdict[str, set[bytes]] = defaultdict(set)

    def take(self, owner: str, grammar: Any) -> None:
        """Count `grammar`, what an engine would make one of, unless it was counted in this minute; None is none. The same properties
        in another order are another one.

        Raises:
            SumikaError: `rate_limit_exceeded` (429).
        """
        if grammar is None:
            return
        now = time.time()
        if self._minute != (minute := window.minute(now)):
            self._minute = minute
            self._seen.clear()
        seen, digest = self._seen[owner], hashlib.sha256(json.dumps(grammar).encode()).digest()
        if digest not in seen and len(seen) >= MOST:
            raise _too_many(max(1, math.ceil(window.SECONDS - now % window.SECONDS)))
        seen.add(digest)


def _too_many(wait: int) -> SumikaError:
    return SumikaError(
        "rate_limit_exceeded",
        f"More than {MOST} different JSON schemas came within a minute, and each costs the model's other users time. "
        f"Use a schema again, or try again in {wait} s.",
        f"1分間に {MOST} 種類を超えるJSONスキーマが送られました。スキーマごとの準備は他の利用者を待たせます。"
        f"同じスキーマを使い回すか、{wait} 秒後にやり直してください。",
        status=429,
        retry_after=wait,
    )
