"""`POST /v1/responses`: OpenAI's newer API, without what it would keep between requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from sumika.serving.requests.fields import (
    MAX_TOKENS,
    USUAL_TOKENS,
    Asked,
    Dropped,
    Effort,
    Id,
    Metadata,
    Name,
    ServiceTier,
    Strict,
    Text,
)
from sumika.serving.requests.parts import MAX_PARTS, no_media
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.problems import refused
from sumika.serving.requests.schemas import AnswerSchema, Schema
from sumika.serving.requests.tools import MAX_TOOLS, Arguments, Choice, part_call, part_tool

_MOST_ITEMS = 4_096
_STATUS = Literal["completed", "incomplete", "in_progress"]


class Part(Strict):
    """`annotations` and `logprobs` come back with an answer that is sent again; nobody reads them."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[list[dict[str, Any]], Field(max_length=64)] | None = None
    logprobs: Annotated[list[dict[str, Any]], Field(max_length=100_000)] | None = None


Parts = Annotated[list[Annotated[Part, BeforeValidator(no_media)]], Field(max_length=MAX_PARTS)]


class _Item(Strict):
    """`id` and `status` come back with an answer that is sent again; the engine gives its own."""

    id: Id | None = None
    status: _STATUS | None = None


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Parts
    phase: Literal["commentary", "final_answer"] | None = None

    def told(self) -> dict[str, Any]:
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"type": "message", "role": role, "content": self.content}
        more: dict[str, Any] = {"type": "output_text", "annotations": []} if role == "assistant" else {"type": "input_text"}
        return {"type": "message", "role": role, "content": [{"text": part.text, **more} for part in self.content]}


class CallItem(_Item):
    type: Literal["function_call"]
    call_id: Id
    name: Name
    arguments: Arguments
    namespace: None = None

    def told(self) -> dict[str, Any]:
        return self.model_dump(include={"type", "call_id", "name", "arguments"})


class ResultItem(_Item):
    type: Literal["function_call_output"]
    call_id: Id
    output: str | Parts

    def told(self) -> dict[str, Any]:
        text = self.output if isinstance(self.output, str) else "".join(part.text for part in self.output)
        return {"type": self.type, "call_id": self.call_id, "output": text}


class Thought(Strict):
    type: Literal["summary_text", "reasoning_text"]
    text: str


class ReasoningItem(_Item):
    type: Literal["reasoning"]
    summary: Annotated[list[Thought], Field(max_length=MAX_PARTS)] = Field(default_factory=list)
    content: Annotated[list[Thought], Field(max_length=MAX_PARTS)] | None = None
    encrypted_content: None = None

    def told(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, include={"type", "summary", "content"})


def _kind(item: Any) -> str:
    return str(item.get("type", "message")) if isinstance(item, dict) else str(getattr(item, "type", "message"))


Item = Annotated[
    Annotated[MessageItem, Tag("message")] | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")] | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]  # fmt: skip


class FunctionTool(Strict):
    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class NamedFunctionTool(Strict):
    type: Literal["function"]
    name: Name


class Format(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: Text | None = None
    schema_: AnswerSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _schema_where_named(self) -> Format:
        if (self.schema_ is not None and self.name is not None) != (self.type == "json_schema"):
            raise refused(
                "invalid_request",
                "type json_schema needs name and schema.",
                "type が json_schema のときは name と schema が必要です。",
            )
        return self


class TextOptions(Strict):
    format: Format | None = None


class Reasoning(Strict):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class StreamPadding(Strict):
    include_obfuscation: bool | None = None


def _nothing_kept(value: Any) -> Any:
    if value is not None:
        raise refused(
            "not_stored",
            "no response is kept here. Send the whole conversation as input.",
            "応答は保存されません。会話全体を input で送ってください。",
        )
    return value


def _not_kept(value: Any) -> Any:
    if value is True:
        raise refused(
            "not_stored",
            "no response is kept here; send store: false.",
            "応答は保存されません。store: false を指定してください。",
        )
    return value


_Kept = Annotated[None, BeforeValidator(_nothing_kept)]


class ResponsesRequest(Asked):
    DROPPED = frozenset({
        "input", "user", "metadata", "service_tier", "store", "background", "previous_response_id", "conversation", "stream_options",
        "prompt_cache_key", "safety_identifier", "include",
    })  # fmt: skip

    input: str | Annotated[list[Item], Field(min_length=1, max_length=_MOST_ITEMS)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: (
        Annotated[list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]], Field(max_length=8)] | None
    ) = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | NamedFunctionTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None
    stream_options: StreamPadding | None = None
    store: Annotated[bool | None, BeforeValidator(_not_kept)] = None
    background: Literal[False] | None = None
    previous_response_id: _Kept = None
    conversation: _Kept = None
    metadata: Metadata | None = None
    service_tier: ServiceTier | None = None
    user: Dropped | None = None
    prompt_cache_key: Dropped | None = None
    safety_identifier: Dropped | None = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def most_completion(self) -> int:
        return self.max_output_tokens or USUAL_TOKENS

    @property
    def bounds_completion(self) -> bool:
        return self.max_output_tokens is not None

    @property
    def uses_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def grammar(self) -> Any:
        answer = self.text.format if self.text is not None else None
        named = self.tool_choice.name if isinstance(self.tool_choice, NamedFunctionTool) else None
        must_call = named is not None or self.tool_choice == "required"
        called = [{tool.name: tool.parameters} for tool in self.tools or () if must_call and named in (None, tool.name)]
        return [*called, *([answer.schema_] if answer is not None and answer.schema_ is not None else [])] or None

    def _body(self) -> dict[str, Any]:
        body = super()._body() | {"store": False}
        body["input"] = self.input if isinstance(self.input, str) else [item.told() for item in self.input]
        if "message.output_text.logprobs" in (self.include or ()):
            body["include"] = ["message.output_text.logprobs"]
        return body

    def _part(self, body: Body, plain: Plain) -> None:
        for tool in body.get("tools", ()):
            part_tool(tool, plain)
        plain.texts(body, "instructions", "input")
        for item in body["input"] if isinstance(body["input"], list) else ():
            _part_item(item, plain)


def _part_item(item: Body, plain: Plain) -> None:
    if item["type"] == "function_call":
        part_call(item, plain)
    elif item["type"] == "reasoning":
        for thought in (*item.get("content", ()), *item["summary"]):
            plain.texts(thought, "text")
    elif isinstance(content := item.get("content"), list):
        item["content"] = plain.joined(content)
    else:
        plain.texts(item, "content", "output")
        plain.names(item, "call_id")
