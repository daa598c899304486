"""The inference endpoints: of each its path here and at the engine, what it takes, and how it is counted."""

from __future__ import annotations

from dataclasses import dataclass

from sumika.models.tasks import Task
from sumika.models.usage.rows import Endpoint
from sumika.serving import dialects, requests
from sumika.serving.dialects import Dialect
from sumika.serving.requests.fields import Asked


@dataclass(frozen=True, slots=True)
class Operation:
    """`POST` of one kind of request. `task`: what a model must be made for; None: any. `at_engine`: vLLM's path, where
    it is not ours. `holds`: the field that an answer in one piece has."""

    path: str
    kind: type[Asked]
    endpoint: Endpoint
    task: Task | None = "chat"
    dialect: Dialect = dialects.OPENAI
    at_engine: str = ""
    holds: str = "choices"

    @property
    def engine_path(self) -> str:
        return self.at_engine or self.path


OPERATIONS: tuple[Operation, ...] = (
    Operation("/v1/chat/completions", requests.ChatRequest, "chat"),
    Operation("/v1/completions", requests.CompletionRequest, "completions"),
    Operation("/v1/embeddings", requests.EmbeddingRequest, "embeddings", "embedding", holds="data"),
    Operation("/v1/rerank", requests.RerankRequest, "rerank", "rerank", at_engine="/rerank", holds="results"),
    Operation("/v1/tokenize", requests.TokenizeRequest, "tokenize", None, dialects.UNCOUNTED, "/tokenize", "tokens"),
    Operation("/v1/detokenize", requests.DetokenizeRequest, "tokenize", None, dialects.UNCOUNTED, "/detokenize", "prompt"),
    Operation("/v1/responses", requests.ResponsesRequest, "responses", dialect=dialects.RESPONSES, holds="output"),
    Operation("/v1/messages", requests.MessagesRequest, "messages", dialect=dialects.ANTHROPIC, holds="content"),
    Operation(
        "/v1/messages/count_tokens", requests.CountTokensRequest, "messages", dialect=dialects.UNCOUNTED, holds="input_tokens"
    ),
)
