"""`POST /v1/tokenize` and `/v1/detokenize`, in vLLM's shape. No model works for them, so they cost no tokens."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sumika.serving.requests.fields import Asked
from sumika.serving.requests.messages import Message, part_conversation
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.problems import refused
from sumika.serving.requests.tools import Tools


class TokenizeRequest(Asked):
    """A text, or a conversation as the model's chat template writes it."""

    SALTED = COUNTED = False

    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=4_096)
    tools: Tools | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise refused("invalid_request", "give prompt or messages.", "prompt か messages のどちらかを指定してください。")
        if self.prompt is not None and (self.tools is not None or self.add_generation_prompt is not None):
            raise refused(
                "invalid_request",
                "tools and add_generation_prompt go with messages.",
                "tools と add_generation_prompt は messages と使います。",
            )
        return self

    def _body(self) -> dict[str, Any]:
        told = {"messages": [message.told() for message in self.messages]} if self.messages is not None else {}
        return super()._body() | told

    def _part(self, body: Body, plain: Plain) -> None:
        part_conversation(body, plain)


class DetokenizeRequest(Asked):
    SALTED = COUNTED = False

    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=1_000_000)]
