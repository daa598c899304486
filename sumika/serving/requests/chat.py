"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sumika.serving.requests.fields import MAX_TOKENS, Dropped, Effort, Generating, Metadata, Name, ServiceTier, Strict, Text
from sumika.serving.requests.messages import Message, part_conversation
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.problems import refused
from sumika.serving.requests.schemas import AnswerSchema
from sumika.serving.requests.tools import NamedTool, ToolChoice, Tools


class JsonSchema(Strict):
    name: Name
    description: Text | None = None
    schema_: AnswerSchema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_where_named(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise _wrong(
                "type json_schema, and no other, needs json_schema", "json_schema は type が json_schema のときに必要です"
            )
        return self


class ChatRequest(Generating):
    DROPPED = Generating.DROPPED | {
        "messages",
        "store", "metadata", "service_tier", "modalities", "prompt_cache_key", "safety_identifier",
    }  # fmt: skip

    messages: list[Message] = Field(min_length=1, max_length=4_096)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    store: Literal[False] | None = None
    metadata: Metadata | None = None
    service_tier: ServiceTier | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    prompt_cache_key: Dropped | None = None
    safety_identifier: Dropped | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise _wrong("top_logprobs needs logprobs: true", "top_logprobs には logprobs: true が必要です")
        if self.tool_choice not in (None, "none") and self.tools is None:
            raise _wrong("tool_choice needs tools", "tool_choice には tools が必要です")
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        if named is not None and named not in {tool.function.name for tool in self.tools or ()}:
            raise _wrong("tool_choice names none of the tools", "tool_choice の関数が tools にありません")
        return self

    def _bound(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def uses_tools(self) -> bool:
        return self.tools is not None and self.tool_choice != "none"

    @property
    def grammar(self) -> Any:
        answer = self.response_format.json_schema if self.response_format is not None else None
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        must_call = named is not None or self.tool_choice == "required"
        functions = [tool.function for tool in self.tools or () if must_call and named in (None, tool.function.name)]
        called = [{function.name: function.parameters} for function in functions]
        return [*called, *([answer.schema_] if answer is not None else [])] or None

    def _body(self) -> dict[str, Any]:
        return super()._body() | {"messages": [message.told() for message in self.messages]}

    def _part(self, body: Body, plain: Plain) -> None:
        part_conversation(body, plain)


def _wrong(en: str, ja: str) -> Exception:
    return refused("invalid_request", f"{en}.", f"{ja}。")
