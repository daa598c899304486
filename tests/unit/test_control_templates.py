"""No text that a client writes becomes a control token or a mark in any family's prompt: rendered as vLLM renders it, and tokenized.

A request with hostile texts has in its prompt just the tokens of the same request with an `x` for each text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("vllm")

from sumika.serving.requests import ChatRequest, MessagesRequest, ResponsesRequest, parse
from tests.chat_families import FAMILIES, Family, Model

TEXTS = 40
QUICK = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


@pytest.fixture(scope="module", params=[(family, normalizes) for family in FAMILIES for normalizes in (False, True)],
                ids=lambda param: f"{param[0].name}{'-normalized' * param[1]}")  # fmt: skip
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family, normalizes = request.param
    return Model(family, tmp_path_factory.mktemp(family.name), normalizes=normalizes)


def wide(token: str) -> str:
    return "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in token)


def hostile(family: Family) -> st.SearchStrategy[str]:
    tokens = [token for token in (*family.special, *family.marks, *family.labels) if token.strip()]
    spelled = [
        *tokens,
        *map(wide, tokens),
        *("\u200b".join(token) for token in tokens),
        *(token.replace("▁", " ") for token in tokens),
        *(f"{token[:at]}{word}{token[at:]}" for token in tokens for word in family.replaced for at in (1, len(token) - 1)),
    ]
    halves = [half for token in tokens for at in (1, len(token) // 2, len(token) - 1) for half in (token[:at], token[at:])]
    names = [token.strip("<>/|[]") for token in tokens]
    names += [name.replace("_", sign) for name in names for sign in family.replaced]
    pieces = st.sampled_from([*spelled, *halves, *names, *family.replaced, " ", "\n", "x", "これは普通の文です。"])
    return st.lists(pieces, min_size=1, max_size=5).map("".join)


Next = Callable[[], str]


def tool_schema(text: Next) -> dict[str, Any]:
    field = {"type": "string", "description": text(), "enum": [text(), f"e{text()}"], f"y{text()}"[1:] or "k": "v"}
    return {"type": "object", "properties": {f"p{text()}": field, "think": {"type": "string"}}, "x-note": text()}


def arguments(text: Next) -> str:
    written = json.dumps({f"a{text()}": text(), "list": [text(), {"in": text()}]}, ensure_ascii=False)
    return written.replace("<", "\\u003c").replace("[INST", "\\u005bINST").replace("｜", "\\uff5c")


def name(text: Next) -> str:
    return text()[:64]


def chat(family: Family, text: Next) -> dict[str, Any]:
    def parts() -> list[dict[str, str]]:
        return [{"type": "text", "text": text()} for _ in range(3)]

    call = {"id": text()[:20] or "c", "type": "function", "function": {"name": name(text), "arguments": arguments(text)}}
    called: list[dict[str, Any]] = [
        {"role": "assistant", "content": text(), "reasoning": text(), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": parts()},
        {"role": "assistant", "content": text()},
    ]
    body: dict[str, Any] = {"model": "m", "messages": [
        *([{"role": "system", "content": parts()}] if family.system else []), {"role": "user", "content": parts(), "name": text()[:64]},
        *(called if family.tools else [{"role": "assistant", "content": text()}]), {"role": "user", "content": text()},
    ]}  # fmt: skip
    if family.tools:
        body["tools"] = [{"type": "function", "function": {"name": "f", "description": text(), "parameters": tool_schema(text)}}]
    return body


def messages(family: Family, text: Next) -> dict[str, Any]:
    def blocks(count: int = 2) -> list[dict[str, Any]]:
        return [{"type": "text", "text": text()} for _ in range(count)]

    called: list[dict[str, Any]] = [
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": text()}, {"type": "thinking", "thinking": text()}, *blocks(),
            {"type": "tool_use", "id": "c", "name": "f", "input": {f"a{text()}": text()}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": blocks()}, *blocks()]},
    ]  # fmt: skip
    body: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [
        {"role": "user", "content": blocks()}, *(called if family.tools else []), {"role": "assistant", "content": blocks()},
        {"role": "user", "content": text() or "x"},
    ]}  # fmt: skip
    if family.system:
        body["system"] = [{"type": "text", "text": f"s{text()}"}, *blocks()]
    if family.system and family.tools:
        body["messages"][1:1] = [{"role": "system", "content": f"s{text()}"}, {"role": "system", "content": blocks()}]
    if family.tools:
        body["tools"] = [{"name": "f", "description": text(), "input_schema": tool_schema(text)}]
    return body


def responses(family: Family, text: Next) -> dict[str, Any]:
    def parts(kind: str) -> list[dict[str, Any]]:
        return [{"type": kind, "text": text()} for _ in range(2)]

    called: list[dict[str, Any]] = [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text()}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments(text)},
        {"type": "function_call_output", "call_id": "c", "output": parts("input_text")},
    ]
    body: dict[str, Any] = {"model": "m", "store": False, "input": [
        {"role": "user", "content": parts("input_text")}, *(called if family.tools else []),
        {"type": "message", "role": "assistant", "content": parts("output_text")}, {"role": "user", "content": text()},
    ]}  # fmt: skip
    if family.system:
        body["instructions"] = text()
    if family.tools:
        body["tools"] = [{"type": "function", "name": "f", "description": text(), "parameters": tool_schema(text)}]
    return body


def taken_from(texts: Iterator[str]) -> Next:
    return lambda: next(texts)


@QUICK
@given(data=st.data())
def test_chat(model: Model, data: st.DataObject) -> None:
    texts = data.draw(st.lists(hostile(model.family), min_size=TEXTS, max_size=TEXTS))

    def prompt(each: Iterator[str]) -> str:
        request = parse(ChatRequest, json.dumps(chat(model.family, taken_from(each))).encode())
        return model.chat(json.loads(request.upstream("v@1", None, model.controls)))

    assert model.marks(prompt(chain(texts, repeat("x")))) == model.marks(prompt(repeat("x")))


@QUICK
@given(data=st.data(), merges=st.booleans())
def test_messages(model: Model, data: st.DataObject, merges: bool) -> None:
    texts = data.draw(st.lists(hostile(model.family), min_size=TEXTS, max_size=TEXTS))

    def prompt(each: Iterator[str]) -> str:
        request = parse(MessagesRequest, json.dumps(messages(model.family, taken_from(each))).encode())
        return model.messages(json.loads(request.upstream("v@1", None, model.controls)), merges=merges)

    assert model.marks(prompt(chain(texts, repeat("x")))) == model.marks(prompt(repeat("x")))


@QUICK
@given(data=st.data())
def test_responses(model: Model, data: st.DataObject) -> None:
    texts = data.draw(st.lists(hostile(model.family), min_size=TEXTS, max_size=TEXTS))

    def prompt(each: Iterator[str]) -> str:
        request = parse(ResponsesRequest, json.dumps(responses(model.family, taken_from(each))).encode())
        return model.responses(json.loads(request.upstream("v@1", None, model.controls)))

    assert model.marks(prompt(chain(texts, repeat("x")))) == model.marks(prompt(repeat("x")))
