"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sumika.serving.requests.anthropic_parts import part_conversation
from sumika.serving.requests.fields import MAX_TOKENS, Asked, Dropped, Id, Name, StopText, Strict, Text
from sumika.serving.requests.parts import MAX_PARTS, no_media
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.problems import refused
from sumika.serving.requests.schemas import AnswerSchema, Schema
from sumika.serving.requests.tools import MAX_TOOLS


class CacheControl(Strict):
    """Taken and dropped: the engine's prefix cache needs no telling."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Strict):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


_Texts = Annotated[list[Annotated[TextBlock, BeforeValidator(no_media)]], Field(max_length=MAX_PARTS)]
Told = str | _Texts


class CallBlock(Strict):
    type: Literal["tool_use"]
    id: Id
    name: Name
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ResultBlock(Strict):
    type: Literal["tool_result"]
    tool_use_id: Id
    content: Told | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: Annotated[str, Field(max_length=65_536)] | None = None


class RedactedBlock(Strict):
    type: Literal["redacted_thinking"]
    data: Annotated[str, Field(max_length=1_048_576)]


Block = Annotated[
    Annotated[TextBlock | CallBlock | ResultBlock | ThinkingBlock | RedactedBlock, Field(discriminator="type")],
    BeforeValidator(no_media),
]


class AnthropicMessage(Strict):
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(min_length=1, max_length=MAX_PARTS)]

    @model_validator(mode="after")
    def _belongs_to_its_role(self) -> AnthropicMessage:
        kinds = {block.type for block in self.content} if not isinstance(self.content, str) else set()
        if kinds & {"tool_use", "thinking", "redacted_thinking"} and self.role != "assistant":
            raise refused(
                "invalid_request",
                "only an assistant's message holds tool_use or thinking.",
                "tool_use と thinking は assistant だけの項目です。",
            )
        if "tool_result" in kinds and self.role != "user":
            raise refused("invalid_request", "only a user's message holds tool_result.", "tool_result は user だけの項目です。")
        return self


class AnthropicTool(Strict):
    type: Literal["custom"] | None = None
    name: Name
    description: Text | None = None
    input_schema: Schema
    strict: bool | None = None
    cache_control: CacheControl | None = None


class AnthropicChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> AnthropicChoice:
        if (self.name is not None) != (self.type == "tool"):
            raise refused("invalid_request", "type tool, and no other, needs name.", "name は type が tool のときに必要です。")
        return self


class Thinking(Strict):
    """`display` is taken and dropped: what a model thinks is always shown."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1024, le=MAX_TOKENS)
    display: Literal["summarized", "omitted"] | None = None

    @model_validator(mode="after")
    def _budget(self) -> Thinking:
        if (self.budget_tokens is not None) != (self.type == "enabled"):
            raise refused(
                "invalid_request",
                "type enabled, and no other, needs budget_tokens.",
                "budget_tokens は type が enabled のときに必要です。",
            )
        return self


class OutputFormat(Strict):
    type: Literal["json_schema"]
    schema_: AnswerSchema = Field(alias="schema")


class OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class UserMetadata(Strict):
    user_id: Dropped | None = None


class CountTokensRequest(Asked):
    """A conversation to be counted, which costs nothing."""

    SALTED = COUNTED = False
    DROPPED = frozenset({"cache_control"})

    messages: list[AnthropicMessage] = Field(min_length=1, max_length=4_096)
    system: Told | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = _without_marks(super()._body())
        return body

    def _part(self, body: Body, plain: Plain) -> None:
        part_conversation(body, plain, plain.alone())


class MessagesRequest(CountTokensRequest):
    SALTED = COUNTED = True
    DROPPED = CountTokensRequest.DROPPED | {"metadata", "service_tier"}

    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    stop_sequences: Annotated[list[StopText], Field(max_length=4)] | None = None
    stream: bool | None = None
    metadata: UserMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def most_completion(self) -> int:
        return self.max_tokens

    @property
    def bounds_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type == "enabled"

    @property
    def uses_tools(self) -> bool:
        return bool(self.tools) and (self.tool_choice is None or self.tool_choice.type != "none")

    @property
    def grammar(self) -> Any:
        choice = self.tool_choice
        must_call = choice is not None and choice.type in ("any", "tool")
        tools = [tool for tool in self.tools or () if must_call and choice and choice.name in (None, tool.name)]
        called = [{tool.name: tool.input_schema} for tool in tools]
        answer = self.output_config.format if self.output_config is not None else None
        return [*called, *([answer.schema_] if answer is not None else [])] or None


def _without_marks(body: dict[str, Any]) -> dict[str, Any]:
    """Blocks and tools less what is not the engine's. A call's `input` and a schema are the client's own and stay whole."""
    for holder in (*body["messages"], {"content": body.get("system")}):
        for block in holder["content"] if isinstance(holder["content"], list) else ():
            _strip(block)
    for tool in body.get("tools", ()):
        _strip(tool)
        tool.pop("type", None)
    _strip(body.get("thinking", {}))
    if not body.get("tools"):
        body.pop("tools", None)
    return body


def _strip(block: dict[str, Any]) -> None:
    block.pop("cache_control", None)
    block.pop("display", None)
    for inside in block["content"] if isinstance(block.get("content"), list) else ():
        inside.pop("cache_control", None)
