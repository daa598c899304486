"""What the inference endpoints answer, for the OpenAPI document. Engines write these; the gateway passes them on unread, so
further fields may stand beside those named here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class Usage(_Answer):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


class AnswerMessage(_Answer):
    """`reasoning`: what the model thought, where its base has a reasoning parser."""

    role: Literal["assistant"]
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(_Answer):
    index: int
    message: AnswerMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatAnswer(_Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(_Answer):
    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class CompletionAnswer(_Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Vector(_Answer):
    """`embedding`: numbers, or base64 of little-endian float32."""

    index: int
    object: Literal["embedding"]
    embedding: list[float] | str


class EmbeddingAnswer(_Answer):
    object: Literal["list"]
    model: str | None
    data: list[Vector]
    usage: Usage


class RankedDocument(_Answer):
    index: int
    relevance_score: float
    document: dict[str, Any]


class RerankAnswer(_Answer):
    id: str
    model: str
    usage: Usage
    results: list[RankedDocument]


class TokenizeAnswer(_Answer):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeAnswer(_Answer):
    prompt: str


class ResponseAnswer(_Answer):
    id: str
    object: Literal["response"]
    model: str
    status: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class MessageAnswer(_Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: dict[str, Any]


class CountAnswer(_Answer):
    input_tokens: int


class ErrorDetail(BaseModel):
    """`code` is stable and for programs; `message` is in the language of `Accept-Language`."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    error: ErrorDetail


class AnthropicErrorAnswer(BaseModel):
    type: Literal["error"]
    error: ErrorDetail
