"""One request as it is counted: who asked what, how it ended, how many tokens. Nothing of what was said."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

Endpoint = Literal["chat", "completions", "embeddings", "rerank", "responses", "messages", "tokenize"]


class UsageRow(NamedTuple):
    """`at`: when it came (the store's spelling). Tokens are vLLM's own count; None where it gave none.

    `partial`: the answer did not end (the client left, an engine or the gateway died). `estimated`: the engine told no count of it, so `prompt_tokens`
    and `completion_tokens` are the gateway's estimate. `first_ms`: to the first byte of the answer; None where there was none.
    `role`: the key's, for the audit log; the table has no column for it.
    """

    request: str
    at: str
    key: str
    team: str | None
    alias: str
    version: str
    endpoint: Endpoint
    status: int
    code: str
    partial: bool
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    first_ms: int | None
    duration_ms: int
    role: str = ""
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """What counts against limits and budgets."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)

    def values(self) -> dict[str, Any]:
        """A row of the table."""
        values = self._asdict()
        del values["role"]
        return values

    def encoded(self) -> bytes:
        """One line of JSON, without its end."""
        return json.dumps(self._asdict(), separators=(",", ":")).encode()


def decoded(line: bytes) -> UsageRow:
    """Raises ValueError or TypeError for what `encoded` did not write."""
    return UsageRow(**json.loads(line))
