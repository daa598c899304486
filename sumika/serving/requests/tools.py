"""Functions that a model may call, and its calls."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sumika.serving.requests.fields import Id, Name, Strict, Text
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.problems import refused
from sumika.serving.requests.reading import MAX_DEPTH, SURROGATE
from sumika.serving.requests.schemas import Schema

MAX_TOOLS = 128


def _check_arguments(arguments: str) -> str:
    """Where they are JSON, vLLM reads them, and a template writes them: not without end, and whole characters alone."""
    try:
        value = json.loads(arguments)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        return arguments
    _check_value(value, MAX_DEPTH)
    return arguments


def _check_value(value: Any, depth: int) -> None:
    if depth == 0:
        raise _too_deep()
    if isinstance(value, str) and SURROGATE.search(value):
        raise refused(
            "invalid_request",
            "a text in this JSON holds half of a surrogate pair.",
            "JSON内の文字列にサロゲートペアの片方だけが含まれています。",
        )
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_value(item, depth - 1)
    for name in value if isinstance(value, dict) else ():
        _check_value(name, depth)


def _too_deep() -> PydanticCustomError:
    return refused(
        "invalid_request",
        f"this JSON is nested deeper than {MAX_DEPTH} levels.",
        f"JSONの入れ子が {MAX_DEPTH} 段を超えています。",
    )


# What a call's arguments may be long: a model wrote them, as text that need not be JSON.
Arguments = Annotated[str, Field(max_length=262_144), AfterValidator(_check_arguments)]
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
