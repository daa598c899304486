"""A request as the audit log tells of it where the policy is `metadata`: what was counted, and how it ended."""

from __future__ import annotations

from sumika.models.actor import Actor
from sumika.models.audit.actions import Action
from sumika.models.audit.chain import Entry, Outcome
from sumika.models.usage.rows import Endpoint, UsageRow

ACTIONS: dict[Endpoint, Action] = {
    "chat": Action.INFERENCE_CHAT,
    "completions": Action.INFERENCE_COMPLETION,
    "embeddings": Action.INFERENCE_EMBEDDING,
    "messages": Action.INFERENCE_MESSAGE,
    "rerank": Action.INFERENCE_RERANK,
    "responses": Action.INFERENCE_RESPONSE,
    "tokenize": Action.INFERENCE_TOKENIZE,
}


def entry(row: UsageRow) -> Entry:
    """`at` is when the request came; `ms` in its details says how long it took."""
    details = {"request": row.request, "version": row.version, "status": row.status, "ms": row.duration_ms}
    return Entry(ACTIONS[row.endpoint], row.alias, outcome(row.status), row.code, details, Actor(row.key, row.role), row.at)


def outcome(status: int) -> Outcome:
    return "done" if status < 400 else "refused" if status < 500 else "failed"
