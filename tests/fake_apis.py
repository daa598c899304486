"""What the fake engine says on vLLM's other endpoints, in the shapes of vLLM 0.32."""

from __future__ import annotations

import base64
import json
import struct
import sys
from collections.abc import Iterator
from typing import Any

from tests.fake_answers import event, example


def vector(text: str) -> list[float]:
    """The same for a text each time."""
    return [round((sum(text.encode()) % 97 + i) / 100, 2) for i in range(4)]


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    vectors = [vector(str(text)) for text in texts]
    packed = (
        [base64.b64encode(struct.pack("<4f", *v)).decode() for v in vectors]
        if body.get("encoding_format") == "base64"
        else vectors
    )
    data = [{"index": i, "object": "embedding", "embedding": v} for i, v in enumerate(packed)]
    tokens = sum(len(str(text)) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    return {"id": "embd-1", "object": "list", "created": 1, "model": body["model"], "data": data, "usage": usage}


def rerank(body: dict[str, Any]) -> dict[str, Any]:
    """Usage first, then results that may be long."""
    found = [
        {"index": i, "document": {"text": text, "multi_modal": None}, "relevance_score": len(set(text) & set(body["query"])) / 10}
        for i, text in enumerate(body["documents"])
    ]
    found.sort(key=lambda one: one["relevance_score"], reverse=True)
    tokens = len(body["query"]) + sum(map(len, body["documents"]))
    return {"id": "rerank-1", "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": found[: body.get("top_n") or len(found)]}  # fmt: skip


def tokenize(body: dict[str, Any]) -> dict[str, Any]:
    text = body["prompt"] if "prompt" in body else "".join(f"<{m['role']}>{m.get('content', '')}" for m in body["messages"])
    ids = [ord(c) for c in text]
    strings = list(text) if body.get("return_token_strs") else None
    return {"count": len(ids), "max_model_len": 512, "tokens": ids, "token_strs": strings}


def detokenize(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": "".join(chr(token) for token in body["tokens"] if token <= sys.maxunicode)
    }  # tokenizers pass over what they don't know


def _response(body: dict[str, Any], output: list[dict[str, Any]], status: str) -> dict[str, Any]:
    usage = {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 3,
             "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 8}  # fmt: skip
    return {
        "id": "resp_1", "created_at": 1, "incomplete_details": None, "instructions": body.get("instructions"), "metadata": None,
        "model": body["model"], "object": "response", "output": output, "parallel_tool_calls": True, "temperature": 1.0,
        "tool_choice": body.get("tool_choice", "auto"), "tools": body.get("tools", []), "top_p": 1.0, "background": False,
        "max_output_tokens": 100, "previous_response_id": None, "service_tier": "auto", "status": status, "text": body.get("text"),
        "truncation": "disabled", "usage": usage if status == "completed" else None, "user": None,
    }  # fmt: skip


def _said(body: dict[str, Any], text: str) -> dict[str, Any]:
    answered = not isinstance(body["input"], str) and any(item.get("type") == "function_call_output" for item in body["input"])
    if body.get("tools") and not answered:
        tool = body["tools"][0]
        arguments = json.dumps(example(tool.get("parameters") or {}), ensure_ascii=False)
        return {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "call_1",
            "name": tool["name"],
            "arguments": arguments,
            "status": "completed",
        }
    form = (body.get("text") or {}).get("format") or {}
    said = json.dumps(example(form["schema"]), ensure_ascii=False) if form.get("type") == "json_schema" else text
    part = {"type": "output_text", "text": said, "annotations": [], "logprobs": None}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def response(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
    return _response(body, [_said(body, "".join(words))], "completed")


def response_events(body: dict[str, Any], words: list[str]) -> Iterator[bytes]:
    """Up to the last, which is `response_end`."""
    begun = _response(body, [], "in_progress")
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", "part": empty, **where},
        *({"type": "response.output_text.delta", "delta": word, "logprobs": [], **where} for word in words),
        {"type": "response.output_text.done", "text": "".join(words), "logprobs": [], **where},
        {"type": "response.content_part.done", "part": empty | {"text": "".join(words)}, **where},
        {"type": "response.output_item.done", "output_index": 0, "item": _said(body, "".join(words))},
    ]  # fmt: skip
    for number, one in enumerate(told):
        yield event(one | {"sequence_number": number}, one["type"])


def response_end(body: dict[str, Any], words: list[str]) -> bytes:
    end = {"type": "response.completed", "sequence_number": 99, "response": response(body, words)}
    return event(end, "response.completed")


_USAGE = {"input_tokens": 3, "output_tokens": 3, "cache_read_input_tokens": 2}


def _blocks(body: dict[str, Any], text: str) -> tuple[list[dict[str, Any]], str]:
    last = body["messages"][-1]["content"]
    answered = not isinstance(last, str) and any(block["type"] == "tool_result" for block in last)
    if body.get("tools") and not answered:
        tool = body["tools"][0]
        return [{"type": "tool_use", "id": "call_1", "name": tool["name"], "input": example(tool["input_schema"])}], "tool_use"
    return [{"type": "text", "text": text}], "end_turn"


def message(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
    blocks, why = _blocks(body, "".join(words))
    return {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": blocks, "model": body["model"],
            "stop_reason": why, "usage": _USAGE}  # fmt: skip


def message_events(body: dict[str, Any], words: list[str]) -> Iterator[bytes]:
    begun = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": [], "model": body["model"], "stop_reason": None,
             "stop_sequence": None, "usage": _USAGE | {"output_tokens": 0}}  # fmt: skip
    yield event({"type": "message_start", "message": begun}, "message_start")
    (block,), _ = _blocks(body, "")
    if block["type"] == "tool_use":
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"], ensure_ascii=False)}]
        block = block | {"input": {}}
    else:
        deltas = [{"type": "text_delta", "text": word} for word in words]
    yield event({"type": "content_block_start", "index": 0, "content_block": block}, "content_block_start")
    for delta in deltas:
        yield event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
    yield event({"type": "content_block_stop", "index": 0}, "content_block_stop")


def message_end(body: dict[str, Any], words: list[str]) -> bytes:
    _, why = _blocks(body, "")
    delta = {"type": "message_delta", "delta": {"stop_reason": why, "stop_sequence": None}, "usage": _USAGE}
    return event(delta, "message_delta") + event({"type": "message_stop"}, "message_stop")


def count_tokens(body: dict[str, Any]) -> dict[str, Any]:
    return {"input_tokens": sum(len(str(m["content"])) for m in body["messages"])}
