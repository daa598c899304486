"""What OpenAI's clients may ask of a chat, what goes to the engine of it, and what is refused with which words."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sumika.models.errors import SumikaError
from sumika.serving.requests import ChatRequest, parse

USER = {"role": "user", "content": "x"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather", "description": "天気を調べる",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "default": None}}, "required": ["city"]},
    },
}  # fmt: skip
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"東京"}'}}


def schema(inside: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": inside}}


def asked(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, json.dumps({"model": "m", "messages": [USER]} | fields).encode())


def sent(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(asked(**fields).upstream("v@1", "salt"))
    return body


def refused(**fields: Any) -> SumikaError:
    with pytest.raises(SumikaError) as told:
        asked(**fields)
    assert told.value.status == 400 and told.value.en.isprintable() and told.value.ja != told.value.en
    return told.value


def test_tools_go_to_the_engine_as_they_came() -> None:
    body = sent(tools=[TOOL], tool_choice="auto", parallel_tool_calls=False)
    assert body["tools"] == [TOOL], "a null inside a schema is a value and stays"
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", False)
    named = {"type": "function", "function": {"name": "weather"}}
    assert sent(tools=[TOOL], tool_choice=named)["tool_choice"] == named
    assert asked(tools=[TOOL]).uses_tools
    assert not asked(tools=[TOOL], tool_choice="none").uses_tools and not asked().uses_tools


def test_conversation_with_calls_goes_to_the_engine() -> None:
    given = [
        {"role": "developer", "content": "丁寧に"}, USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}], "refusal": None, "annotations": [], "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "晴れ"}]},
        {"role": "assistant", "content": "晴れです", "tool_calls": [], "reasoning_content": "考え"},
        {"role": "user", "content": "x", "name": "a"},
    ]  # fmt: skip
    assert sent(messages=given)["messages"] == [
        {"role": "system", "content": "丁寧に"}, USER,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "晴れ"}]},
        {"role": "assistant", "content": "晴れです", "reasoning": "考え"},
        {"role": "user", "content": "x", "name": "a"},
    ]  # fmt: skip


def test_what_changes_nothing_is_taken_and_dropped() -> None:
    body = sent(
        user="u", store=False, metadata={"a": "b"}, service_tier="auto", modalities=["text"], prompt_cache_key="k",
        safety_identifier="s", stream_options={"include_obfuscation": False},
    )  # fmt: skip
    assert body == {"model": "v@1", "messages": [USER], "cache_salt": "salt"}


def test_what_changes_the_answer_goes_on() -> None:
    given = {
        "n": 2, "seed": 7, "stop": ["。"], "logit_bias": {"5": -100, "6": 1.5}, "frequency_penalty": 0.5, "presence_penalty": -0.5,
        "logprobs": True, "top_logprobs": 3, "reasoning_effort": "low", "max_completion_tokens": 9, "temperature": 0,
        "response_format": schema({"type": "object", "properties": {"年齢": {"type": "integer"}}}),
    }  # fmt: skip
    body = sent(**given)
    assert {name: body[name] for name in given} == given
    assert sent(stream=True)["stream_options"] == {"include_usage": True}
    assert sent(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("fields", "code", "param", "hint"),
    [
        ({"max_token": 5}, "unknown_field", "max_token", "'max_tokens'"),
        ({"respons_format": {}}, "unknown_field", "respons_format", "'response_format'"),
        ({"messages": [USER | {"contents": "x"}]}, "unknown_field", "messages.0.contents", "'content'"),
        ({"cache_salt": "x"}, "unknown_field", "cache_salt", ""),
        ({"store": True}, "invalid_request", "store", ""),
        ({"service_tier": "priority"}, "invalid_request", "service_tier", ""),
        ({"tools": []}, "invalid_request", "tools", ""),
        ({"tool_choice": "auto"}, "invalid_request", None, "needs tools"),
        ({"tool_choice": "never", "tools": [TOOL]}, "invalid_request", "tool_choice", ""),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": [TOOL]}, "invalid_request", None, "none of the tools"),
        ({"top_logprobs": 2}, "invalid_request", None, "needs logprobs"),
        ({"logit_bias": {str(i): 1 for i in range(301)}}, "invalid_request", "logit_bias", "300"),
        ({"logit_bias": {"-1": 1}}, "invalid_request", "logit_bias.-1", "pattern"),
        ({"logit_bias": {"abc": 1}}, "invalid_request", "logit_bias.abc", ""),
        ({"logit_bias": {"1": 1e9}}, "invalid_request", "logit_bias.1", ""),
        ({"response_format": {"type": "structural_tag"}}, "invalid_request", "response_format.type", ""),
        ({"response_format": {"type": "json_schema"}}, "invalid_request", "response_format", "needs json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "invalid_request", "response_format.json_schema.schema", ""),
        ({"response_format": schema({})}, "invalid_request", "response_format.json_schema.schema", "at least 1"),
        ({"messages": [{"role": "user"}]}, "invalid_request", "messages.0", "content is missing"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_request", "messages.0", "tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "invalid_request", "messages.0", "assistant"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_taken_is_refused_by_name(fields: dict[str, Any], code: str, param: str | None, hint: str) -> None:
    told = refused(**fields)
    assert (told.code, told.param) == (code, param), told.en
    assert hint in told.en


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url", "file", "image"])
def test_pictures_and_sound_are_refused_by_kind(kind: str) -> None:
    told = refused(
        messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, kind: {"url": "data:"}}]}]
    )
    assert (told.code, told.param) == ("unsupported_content", "messages.0.content.1")
    assert "text parts only" in told.en and "モデルはありません" in told.ja


def deep(levels: int) -> Any:
    inside: Any = {"type": "string"}
    for _ in range(levels):
        inside = {"type": "array", "items": inside}
    return inside


@pytest.mark.parametrize(
    "inside",
    [
        {"$ref": "#"}, {"$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}}, "$ref": "#/$defs/a"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"properties": {"a": {"items": {"$ref": "#/properties"}}}}, {"$ref": "https://example.com/x.json"}, {"$ref": "#/$defs/none"}, {"$ref": 1},
        deep(26), {"enum": list(range(10_000))}, {"properties": {f"p{i}": {"enum": list(range(100))} for i in range(11)}},
        {"type": "string", "pattern": "(a+)+b"}, {"type": "string", "pattern": "(?:(?:a*)b?){9}"}, {"type": "string", "pattern": "(a{100}){100}"},
        {"type": "string", "pattern": "a{1,99999}"}, {"type": "string", "pattern": "a{1,129}"}, {"type": "string", "pattern": "(?=a)b"}, {"type": "string", "pattern": r"(a)\1"},
        {"type": "string", "pattern": "a" * 600}, {"patternProperties": {"(a*)*": {}}},
        {"type": "string", "maxLength": 10**9}, {"type": "array", "maxItems": 10**6}, {"minItems": -1},
        {"properties": {f"p{i}": {"type": "string"} for i in range(451)}}, {"description": "x" * 130_000}, {"const": "x" * 130_000},
        {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(150)} | {"d150": {}}, "$ref": "#/$defs/d0"},
        {"$defs": {f"d{i}": {} for i in range(300)}, "anyOf": [{"$ref": f"#/$defs/d{i}"} for i in range(300)]},
    ],
    ids=lambda inside: str(inside)[:60],
)  # fmt: skip
def test_schema_that_would_cost_too_much_is_refused_soon(inside: Any) -> None:
    began = time.thread_time()  # work, not waiting: the machine may be busy
    assert refused(response_format=schema(inside)).code in ("schema_refused", "invalid_json")
    told = refused(tools=[{"type": "function", "function": {"name": "f", "parameters": inside}}])
    assert told.code in ("schema_refused", "invalid_json")
    assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    "inside",
    [
        {"description": "何でも"}, deep(10), {"type": "string", "pattern": r"^[0-9]{3}-[0-9]{4}$"}, {"type": "string", "pattern": r"^(東京|大阪)+[ぁ-ん]*\d{1,3}(\.\d+)?$"},
        {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}, "enum": {"type": "string"}, "maxLength": {"type": "integer"}}},
        {"$defs": {"a": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a"}, "y": {"$ref": "#/$defs/a"}}},
        {"enum": [{"$ref": "https://example.com"}, None]}, {"default": {"pattern": "(a+)+"}}, {"type": "string", "pattern": "[(+*]+[)]"},
        {"properties": {f"p{i}": {"type": "string"} for i in range(450)}}, {"properties": {"oneOf": {"enum": ["x-guidance"]}, "x-guidance": {}}}, {"const": {"oneOf": 1}},
    ],
    ids=lambda inside: str(inside)[:60],
)  # fmt: skip
def test_schema_of_an_honest_client_is_taken_unchanged(inside: Any) -> None:
    assert sent(response_format=schema(inside))["response_format"] == schema(inside)


@pytest.mark.parametrize(
    ("inside", "compiled"),
    [
        ({"oneOf": [{"const": 1}, {"oneOf": []}]}, {"anyOf": [{"const": 1}, {"anyOf": []}]}),
        ({"oneOf": [{}], "anyOf": [{"type": "string"}]}, {"anyOf": [{"type": "string"}], "allOf": [{"anyOf": [{}]}]}),
        ({"type": "object", "x-guidance": {"lenient": True}}, {"type": "object"}),
        ({"properties": {"a": {"oneOf": [{}], "x-guidance": 1}}}, {"properties": {"a": {"anyOf": [{}]}}}),
    ],
)
def test_schema_is_told_as_the_engines_compiler_takes_it(inside: Any, compiled: Any) -> None:
    assert sent(response_format=schema(inside))["response_format"] == schema(compiled)
