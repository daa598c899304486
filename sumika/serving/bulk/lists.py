"""Lists as OpenAI's clients page through them: `after` is the id of the last thing seen, `has_more` whether others follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def listed(shown: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """The first `limit` of what is `shown`, which is one more where there is more."""
    data = shown[:limit]
    return {
        "object": "list", "data": data, "first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None,
        "has_more": len(shown) > limit,
    }  # fmt: skip
