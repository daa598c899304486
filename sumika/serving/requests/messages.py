"""The messages of a chat, as OpenAI's clients write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sumika.serving.requests.fields import Id, Strict
from sumika.serving.requests.parts import Parts
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.problems import refused
from sumika.serving.requests.tools import MAX_TOOLS, ToolCall, part_call, part_tool

# What a newer client says for `system`; chat templates know the older word.
_SYSTEM = ("system", "developer")
_PLAIN = {"role", "content"}


class Message(Strict):
    """One message. An assistant's may have `tool_calls` in place of content, and the `reasoning` that came with its answer; a
    tool's has the id of the call that it answers. What only OpenAI's own models write (`refusal`, `annotations`, `audio`) is
    taken as null, or an empty list, since clients send back what they were given."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Id | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    annotations: Annotated[list[None], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _belongs_to_its_role(self) -> Message:
        of_assistant = self.tool_calls is not None or self.reasoning is not None or self.reasoning_content is not None
        if of_assistant and self.role != "assistant":
            raise _wrong(
                "only an assistant's message has tool_calls or reasoning", "tool_calls と reasoning は assistant だけの項目です"
            )
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise _wrong(
                "a tool's message, and no other, names its call in tool_call_id", "tool_call_id は role が tool のときに必要です"
            )
        if self.content is None and not of_assistant:
            raise _wrong("content is missing", "content がありません")
        return self

    def told(self) -> dict[str, Any]:
        """As the engine takes it."""
        if isinstance(self.content, str) and self.model_fields_set == _PLAIN:  # nearly all of them
            return {"role": "system" if self.role in _SYSTEM else self.role, "content": self.content}
        body = self.model_dump(exclude_none=True, exclude={"annotations", "reasoning_content"})
        if self.role in _SYSTEM:
            body["role"] = "system"
        if self.reasoning_content is not None:
            body.setdefault("reasoning", self.reasoning_content)
        if not self.tool_calls:
            body.pop("tool_calls", None)
        for call in body.get("tool_calls", ()):
            call.pop("index", None)
        return body


def part_conversation(body: Body, plain: Plain) -> None:
    """The tools and messages of `body`."""
    for tool in body.get("tools", ()):
        part_tool(tool["function"], plain)
    for message in body.get("messages", ()):
        plain.texts(message, "name", "reasoning")
        if isinstance(content := message.get("content"), list):
            message["content"] = plain.joined(content)
        else:
            plain.texts(message, "content")
        for call in message.get("tool_calls", ()):
            part_call(call, plain)
        plain.names(message, "tool_call_id")


def _wrong(en: str, ja: str) -> Exception:
    return refused("invalid_request", f"{en}.", f"{ja}。")
