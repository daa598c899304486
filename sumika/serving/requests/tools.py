"""Functions that a model may call, and its calls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sumika.serving.requests.fields import Id, Name, Strict, Text
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.schemas import Schema

MAX_TOOLS = 128
# What a call's arguments may be long: a model wrote them, as text that need not be JSON.
Arguments = Annotated[str, Field(max_length=262_144)]
Choice = Literal["none", "auto", "required"]


class Function(Strict):
    name: Name
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    name: Name


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


class CalledFunction(Strict):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: Arguments


class ToolCall(Strict):
    id: Id
    type: Literal["function"]
    function: CalledFunction
    index: int | None = Field(default=None, ge=0, lt=MAX_TOOLS)


Tools = Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)]
ToolChoice = Choice | NamedTool


def part_tool(function: Body, plain: Plain, schema: str = "parameters") -> None:
    """Its name is one that no token has."""
    plain.texts(function, "description")
    if schema in function:
        function[schema] = plain.schema(function[schema])


def part_call(call: Body, plain: Plain) -> None:
    """One of OpenAI's, in a message or as an item of its own."""
    function: Body = call.get("function", call)
    plain.names(call, "id", "call_id")
    function["name"] = plain.key(function["name"])
    function["arguments"] = plain.arguments(function["arguments"])
