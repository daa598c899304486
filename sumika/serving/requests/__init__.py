"""What a client may ask, field by field. Everything that goes to an engine is built from these and from nothing else."""

from sumika.serving.requests.anthropic import CountTokensRequest, MessagesRequest
from sumika.serving.requests.chat import ChatRequest
from sumika.serving.requests.completion import CompletionRequest
from sumika.serving.requests.embeddings import EmbeddingRequest
from sumika.serving.requests.problems import invalid
from sumika.serving.requests.reading import parse, read_json
from sumika.serving.requests.rerank import RerankRequest
from sumika.serving.requests.responses import ResponsesRequest
from sumika.serving.requests.tokens import DetokenizeRequest, TokenizeRequest

__all__ = [
    "ChatRequest", "CompletionRequest", "CountTokensRequest", "DetokenizeRequest", "EmbeddingRequest", "MessagesRequest", "RerankRequest",
    "ResponsesRequest", "TokenizeRequest", "invalid", "parse", "read_json",
]  # fmt: skip
