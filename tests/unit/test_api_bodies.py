"""What goes to the engine of a request to the other endpoints, and what is refused; models that are no chat models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sumika.models import pooling, tasks
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import EngineSettings
from sumika.serving import vllm
from sumika.serving.operations import OPERATIONS
from sumika.serving.requests import (
    CountTokensRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    MessagesRequest,
    RerankRequest,
    ResponsesRequest,
    TokenizeRequest,
    parse,
)
from tests.conftest import write_base

USER = {"role": "user", "content": "x"}
GOOD: dict[Any, dict[str, Any]] = {
    EmbeddingRequest: {"input": "x"}, RerankRequest: {"query": "x", "documents": ["y"]}, TokenizeRequest: {"prompt": "x"},
    DetokenizeRequest: {"tokens": [1]}, ResponsesRequest: {"input": "x"}, MessagesRequest: {"messages": [USER], "max_tokens": 5},
    CountTokensRequest: {"messages": [USER]},
}  # fmt: skip


def sent(kind: Any, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(
        parse(kind, json.dumps({"model": "m"} | GOOD[kind] | fields).encode()).upstream("v@1", "salt")
    )
    return body


def refused(kind: Any, **fields: Any) -> SumikaError:
    with pytest.raises(SumikaError) as told:
        parse(kind, json.dumps({"model": "m"} | GOOD[kind] | fields).encode())
    assert told.value.status == 400 and told.value.en.isprintable()
    return told.value


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_engine_gets_what_was_asked_and_the_salt_where_it_takes_one(kind: Any) -> None:
    salt = {"cache_salt": "salt"} if kind.SALTED else {}
    kept = {"store": False} if kind is ResponsesRequest else {}
    assert sent(kind) == {"model": "v@1", **GOOD[kind], **salt, **kept}
    for name in (
        "cache_salt",
        "priority",
        "request_id",
        "chat_template",
        "chat_template_kwargs",
        "kv_transfer_params",
        "lora_request",
    ):
        assert refused(kind, **{name: 1}).code == "unknown_field"


def test_what_costs_nothing_is_estimated_at_nothing() -> None:
    free = {operation.kind for operation in OPERATIONS if not operation.dialect.counts}
    assert free == {TokenizeRequest, DetokenizeRequest, CountTokensRequest}
    for kind, body in GOOD.items():
        estimate = parse(kind, json.dumps({"model": "m"} | body).encode()).estimate(300)
        assert (estimate == 0) == (kind in free)
    assert parse(MessagesRequest, json.dumps({"model": "m"} | GOOD[MessagesRequest]).encode()).estimate(300) == 105


def test_answer_that_is_sent_again_reaches_the_engine_in_its_own_words() -> None:
    given = [
        {"role": "developer", "content": "短く"}, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "天気は"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "考え"}], "encrypted_content": None},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}", "status": "completed", "namespace": None},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "晴"}, {"type": "input_text", "text": "れ"}]},
        {"type": "message", "id": "msg_1", "status": "incomplete", "role": "assistant",
         "content": [{"type": "output_text", "text": "晴れ", "annotations": [], "logprobs": None}]},
    ]  # fmt: skip
    assert sent(ResponsesRequest, input=given)["input"] == [
        {"type": "message", "role": "system", "content": "短く"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "天気は"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "考え"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "晴れ"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "晴れ", "annotations": []}]},
    ]  # fmt: skip


def test_include_names_only_what_the_engine_can_tell() -> None:
    both = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    assert sent(ResponsesRequest, include=both, top_logprobs=2)["include"] == both[:1]
    assert "include" not in sent(ResponsesRequest, include=both[1:])


def test_cache_marks_are_dropped_and_a_calls_own_fields_are_not() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", **mark}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": mark, **mark}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "b", **mark}], **mark}]},
    ]  # fmt: skip
    tool = {"name": "f", "input_schema": {"properties": mark}, "type": "custom", **mark}
    body = sent(MessagesRequest, messages=messages, tools=[tool], system=[{"type": "text", "text": "s", **mark}], thinking={"type": "disabled"},
                metadata={"user_id": "u"}, service_tier="auto", **mark)  # fmt: skip
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": mark}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "b"}]}]},
    ]  # fmt: skip
    assert body["tools"] == [{"name": "f", "input_schema": {"properties": mark}}]
    assert body["system"] == [{"type": "text", "text": "s"}] and body["thinking"] == {"type": "disabled"}
    assert not {"metadata", "service_tier", "cache_control"} & set(body)


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        (EmbeddingRequest, {"input": []}, "invalid_request"), (EmbeddingRequest, {"input": [[1, 2]]}, "unsupported_input"),
        (EmbeddingRequest, {"input": ["x"] * 2_049}, "invalid_request"), (EmbeddingRequest, {"encoding_format": "bytes"}, "invalid_request"),
        (EmbeddingRequest, {"dimension": 5}, "unknown_field"), (RerankRequest, {"documents": []}, "invalid_request"),
        (RerankRequest, {"documents": ["x"] * 1_001}, "invalid_request"), (RerankRequest, {"documents": [{"text": "x"}]}, "invalid_request"),
        (DetokenizeRequest, {"tokens": [2**31]}, "invalid_request"), (DetokenizeRequest, {"tokens": [True]}, "invalid_request"),
        (TokenizeRequest, {"tools": []}, "invalid_request"), (TokenizeRequest, {"add_generation_prompt": True}, "invalid_request"),
        (ResponsesRequest, {"input": []}, "invalid_request"), (ResponsesRequest, {"store": 1}, "invalid_request"),
        (ResponsesRequest, {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"$ref": "#"}}}}, "schema_refused"),
        (ResponsesRequest, {"text": {"format": {"type": "json_schema"}}}, "invalid_request"),
        (MessagesRequest, {"max_tokens": 0}, "invalid_request"), (MessagesRequest, {"temperature": 1.5}, "invalid_request"),
        (MessagesRequest, {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}]}, "invalid_request"),
        (MessagesRequest, {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "c"}]}]}, "invalid_request"),
        (MessagesRequest, {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "unsupported_content"),
        (MessagesRequest, {"tools": [{"name": "f", "input_schema": {"pattern": "(a+)+"}}]}, "schema_refused"),
        (MessagesRequest, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "invalid_request"),
        (MessagesRequest, {"thinking": {"type": "enabled"}}, "invalid_request"), (MessagesRequest, {"stop": ["x"]}, "unknown_field"),
        (MessagesRequest, {"tool_choice": {"type": "tool"}}, "invalid_request"),
    ],
    ids=lambda value: str(getattr(value, "__name__", value))[:60],
)  # fmt: skip
def test_what_an_endpoint_does_not_take_is_refused(kind: Any, fields: dict[str, Any], code: str) -> None:
    assert refused(kind, **fields).code == code


def test_task_is_told_by_what_lies_beside_the_weights(tmp_path: Path) -> None:
    assert tasks.told_by(tmp_path, "Gemma3ForCausalLM") == {"task": "chat"}
    assert tasks.told_by(tmp_path, "GPT2LMHeadModel") == {"task": "chat"}
    assert tasks.told_by(tmp_path, "ModernBertForSequenceClassification") == {"task": "rerank"}
    assert tasks.told_by(tmp_path, "ModernBertModel") == {"task": "embedding"}
    (tmp_path / "modules.json").write_text("[]")
    folder = tmp_path / "1_Pooling"
    folder.mkdir()
    for config, how in (
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"), ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"), ({"pooling_mode": "mean"}, "mean"), ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None), ([], None),
    ):  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        assert pooling.read(tmp_path) == how, config
    (folder / "config.json").write_text('{"pooling_mode": "mean"}')
    assert tasks.told_by(tmp_path, "Qwen3ForCausalLM") == {"task": "embedding", "pooling": "mean"}


@pytest.mark.parametrize(
    ("meta", "there", "absent"),
    [
        ({}, ["--enable-lora"], ["--runner"]),
        ({"task": "embedding", "pooling": "mean"}, ["--runner", "pooling", "embed", '{"seq_pooling_type": "MEAN"}'], ["--enable-lora"]),
        ({"task": "rerank"}, ["--runner", "classify"], ["--enable-lora", "--pooler-config"]),
        ({"serve": {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}}, ["--enable-auto-tool-choice", "hermes", "qwen3"], []),
    ],
)  # fmt: skip
def test_engine_is_started_for_its_task(tmp_path: Path, meta: dict[str, Any], there: list[str], absent: list[str]) -> None:
    base = Version(1, VersionRef("b", 1), "base", None, None, "b", "d", "none", meta, "2026-11-23")
    argv = vllm.arguments(EngineSettings(), "cpu", base, write_base(tmp_path / "b"), "/s", 1.0)
    assert set(there) <= set(argv) and not set(absent) & set(argv)
