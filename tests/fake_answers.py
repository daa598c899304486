"""What the fake engine says, in the shapes of vLLM 0.32: chat and completions here, the other endpoints in `fake_apis.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def usage(completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 5,
        "completion_tokens": completion,
        "total_tokens": 5 + completion,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def event(body: dict[str, Any], name: str = "") -> bytes:
    data = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
    return b"event: " + name.encode() + b"\n" + data if name else data


def example(schema: Any) -> Any:
    """Something that fits a JSON schema of the usual kind."""
    if not isinstance(schema, dict):
        return None
    if "enum" in schema:
        return schema["enum"][0]
    made: dict[str, Any] = {"string": "東京", "integer": 42, "number": 1.5, "boolean": True, "array": [], "null": None}
    if schema.get("type", "object") != "object":
        return made.get(str(schema["type"]))
    return {name: example(inside) for name, inside in schema.get("properties", {}).items()}


def no_grammar(body: dict[str, Any]) -> str | None:
    """Why llguidance makes no grammar of the schema that an answer must fit: the pinned vLLM asks it before a request is taken."""
    form = body.get("response_format", {}).get("json_schema") or body.get("text", {}).get("format", {})
    if "schema" not in form:
        return None
    from llguidance import LLMatcher  # here: most tests need none

    return LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(form["schema"]))) or None


def message(body: dict[str, Any], text: str) -> tuple[dict[str, Any], str]:
    """What one choice says, and why it ends: a call where tools are given, JSON where a schema is, else `text`."""
    said: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if body.get("reasoning_effort") not in (None, "none"):
        said["reasoning"] = "よく考える"
    form = body.get("response_format", {})
    if form.get("type") == "json_schema":
        said["content"] = json.dumps(example(form["json_schema"]["schema"]), ensure_ascii=False)
    answered = any(m["role"] == "tool" for m in body["messages"])
    if body.get("tools") and body.get("tool_choice") != "none" and not answered:
        function = body["tools"][0]["function"]
        arguments = json.dumps(example(function.get("parameters") or {}), ensure_ascii=False)
        call = {"id": "chatcmpl-tool-1", "type": "function", "function": {"name": function["name"], "arguments": arguments}}
        return said | {"content": None, "tool_calls": [call]}, "tool_calls"
    return said, "stop"


def logprobs(body: dict[str, Any], text: str) -> dict[str, Any] | None:
    if not body.get("logprobs"):
        return None
    told = {"token": text, "logprob": -0.1, "bytes": list(text.encode())}
    return {"content": [told | {"top_logprobs": [told] * int(body.get("top_logprobs", 0))}]}


def chat(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """A whole answer of `POST /v1/chat/completions`."""
    text = "".join(words)
    said, why = message(body, text)
    choices = [
        {"index": i, "message": said, "logprobs": logprobs(body, text), "finish_reason": why, "stop_reason": None}
        for i in range(body.get("n") or 1)
    ]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": choices,
            "usage": usage(len(words) * len(choices)), "prompt_logprobs": None}  # fmt: skip


def completion(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
    choice = {"index": 0, "text": "".join(words), "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"], "choices": [choice],
            "usage": usage(len(words))}  # fmt: skip


def chunks(body: dict[str, Any], words: list[str], kind: str, each: int = 1) -> Iterator[bytes]:
    """The events of a stream before its usage. `each`: tokens that one stands for, as with speculative decoding."""
    head = {"id": "x", "object": kind, "created": 1, "model": body["model"]}
    said, why = message(body, "") if kind == "chat.completion.chunk" else ({}, "stop")
    deltas: list[dict[str, Any]] = [{"content": word} for word in words]
    if said.get("reasoning"):
        deltas.insert(0, {"reasoning": said["reasoning"]})
    if calls := said.get("tool_calls"):
        name, arguments = calls[0]["function"]["name"], calls[0]["function"]["arguments"]
        first = calls[0] | {"index": 0, "function": {"name": name, "arguments": ""}}
        pieces = [arguments[:4], arguments[4:]]
        deltas = [{"tool_calls": [first]}, *({"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in pieces)]
    elif body.get("response_format", {}).get("type") == "json_schema":
        deltas = [{"content": said["content"]}]
    for number, delta in enumerate(deltas, start=1):
        choice = {
            "index": 0,
            "delta": delta,
            "text": delta.get("content", ""),
            "finish_reason": why if number == len(deltas) else None,
        }
        asked = (body.get("stream_options") or {}).get("continuous_usage_stats")
        told = {"usage": {"prompt_tokens": 5, "total_tokens": 5 + number * each, "completion_tokens": number * each}}
        yield event(head | {"choices": [choice]} | (told if asked else {}))


def last(body: dict[str, Any], words: list[str], kind: str, each: int = 1) -> bytes:
    """The usage, where it was asked for, and the end."""
    told = {"id": "x", "object": kind, "created": 1, "model": body["model"], "choices": [], "usage": usage(len(words) * each)}
    asked = (body.get("stream_options") or {}).get("include_usage")
    return (event(told) if asked else b"") + b"data: [DONE]\n\n"
