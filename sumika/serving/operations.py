"""The inference endpoints: of each its path here and at the engine, what it takes, and how it is counted."""

from __future__ import annotations

from dataclasses import dataclass

from sumika.models.audit import Action
from sumika.models.tasks import Task
from sumika.models.usage.rows import Endpoint
from sumika.serving import dialects, requests
from sumika.serving.dialects import Dialect
from sumika.serving.requests.fields import Asked


@dataclass(frozen=True, slots=True)
class Operation:
    """`POST` of one kind of request. `task`: what a model must be made for; None: any. `at_engine`: vLLM's path, where
    it is not ours."""

    path: str
    kind: type[Asked]
    endpoint: Endpoint
    action: Action
    task: Task | None = "chat"
    dialect: Dialect = dialects.OPENAI
    at_engine: str = ""

    @property
    def engine_path(self) -> str:
        return self.at_engine or self.path


OPERATIONS: tuple[Operation, ...] = (
    Operation("/v1/chat/completions", requests.ChatRequest, "chat", Action.INFERENCE_CHAT),
    Operation("/v1/completions", requests.CompletionRequest, "completions", Action.INFERENCE_COMPLETION),
    Operation("/v1/embeddings", requests.EmbeddingRequest, "embeddings", Action.INFERENCE_EMBEDDING, "embedding"),
    Operation("/v1/rerank", requests.RerankRequest, "rerank", Action.INFERENCE_RERANK, "rerank", at_engine="/rerank"),
    Operation(
        "/v1/tokenize",
        requests.TokenizeRequest,
        "tokenize",
        Action.INFERENCE_TOKENIZE,
        None,
        dialects.UNCOUNTED,
        at_engine="/tokenize",
    ),
    Operation(
        "/v1/detokenize",
        requests.DetokenizeRequest,
        "tokenize",
        Action.INFERENCE_TOKENIZE,
        None,
        dialects.UNCOUNTED,
        at_engine="/detokenize",
    ),
    Operation("/v1/responses", requests.ResponsesRequest, "responses", Action.INFERENCE_RESPONSE, dialect=dialects.RESPONSES),
    Operation("/v1/messages", requests.MessagesRequest, "messages", Action.INFERENCE_MESSAGE, dialect=dialects.ANTHROPIC),
    Operation(
        "/v1/messages/count_tokens",
        requests.CountTokensRequest,
        "messages",
        Action.INFERENCE_TOKENIZE,
        dialect=dialects.UNCOUNTED,
    ),
)
