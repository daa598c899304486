"""Embeddings, reranking, tokens, responses and messages through a real gateway, by the clients that companies use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel
from sqlalchemy import func, select

from sumika.models import registry, schema
from sumika.serving.limiting import grammars
from tests.fake_apis import vector
from tests.integration.conftest import Stack, until

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
USER: Any = {"role": "user", "content": "東京の天気は?"}
TOOL: Any = {"name": "weather", "description": "天気", "input_schema": PARAMETERS}


@pytest.fixture(scope="module", autouse=True)
def aliases(stack: Stack) -> None:
    stack.deploy("talk", stack.base("talk-base", meta={"serve": {"tool_call_parser": "hermes", "max_model_len": 512}}))
    stack.deploy("plain", stack.base("plain-base", seed=1))
    stack.deploy("ruri", stack.base("ruri-base", seed=2, meta={"task": "embedding", "pooling": "mean"}))
    stack.deploy("order", stack.base("order-base", seed=3, meta={"task": "rerank"}))


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(stack: Stack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=stack.url, api_key=stack.admin_key, auth_token=None, max_retries=0) as made:
        yield made


def used(stack: Stack, key: str) -> dict[str, dict[str, Any]]:
    """What the usage table has of a key, by endpoint."""
    u = schema.usage.c
    sums = (func.sum(u.prompt_tokens).label("p"), func.sum(u.completion_tokens).label("c"), func.sum(u.cached_tokens).label("h"))
    counted = (
        select(u.endpoint, *sums, func.count().label("n"), func.max(u.partial).label("b"))
        .where(u.key == key)
        .group_by(u.endpoint)
    )
    with stack.store.read() as connection:
        return {row["endpoint"]: dict(row) for row in connection.execute(counted).mappings()}


def test_embeddings_by_the_openai_client(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="ruri", input=["検索文書: 有給", "検索クエリ: 休暇"])
    assert [list(one.embedding) for one in made.data] == [
        pytest.approx(vector(t)) for t in ("検索文書: 有給", "検索クエリ: 休暇")
    ]
    assert made.usage.prompt_tokens == 17
    plain = client.embeddings.create(model="ruri", input="x", encoding_format="float")
    assert plain.data[0].embedding == vector("x")
    with pytest.raises(openai.BadRequestError, match="token ids") as told:
        client.embeddings.create(model="ruri", input=[1, 2, 3])
    assert told.value.code == "unsupported_input"


def test_rerank_in_jinas_shape(stack: Stack) -> None:
    body = {
        "model": "order",
        "query": "有給休暇",
        "documents": ["食堂", "有給", "有給休暇の申請" + "、" * 5000],
        "top_n": 2,
        "return_documents": True,
    }
    with stack.client() as http:
        told = http.post("/v1/rerank", json=body).json()
    assert [one["index"] for one in told["results"]] == [2, 1]
    assert told["usage"]["total_tokens"] > 5000


def test_alias_answers_only_what_its_model_is_for(stack: Stack) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [USER]}, "/v1/completions": {"prompt": "x"}, "/v1/responses": {"input": "x"},
        "/v1/embeddings": {"input": "x"}, "/v1/rerank": {"query": "x", "documents": ["y"]}, "/v1/messages": {"messages": [USER], "max_tokens": 5},
    }  # fmt: skip
    right = {"talk": "chat/completions", "ruri": "embeddings", "order": "rerank"}
    chat = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    with stack.client() as http:
        for alias, name in right.items():
            for path, body in bodies.items():
                response = http.post(path, json=body | {"model": alias})
                if path == f"/v1/{name}" or (alias == "talk" and path in chat):
                    assert response.status_code == 200, (alias, path, response.text)
                else:
                    error = response.json()["error"]
                    assert (response.status_code, error["code"]) == (400, "wrong_endpoint")
                    assert f"POST /v1/{name}" in error["message"]


def test_tokens_there_and_back(stack: Stack) -> None:
    with stack.client() as http:
        for alias in ("talk", "ruri"):
            told = http.post("/v1/tokenize", json={"model": alias, "prompt": "住処", "return_token_strs": True}).json()
            assert told == {"count": 2, "max_model_len": 512, "tokens": [20303, 20966], "token_strs": ["住", "処"]}
            assert http.post("/v1/detokenize", json={"model": alias, "tokens": told["tokens"]}).json() == {"prompt": "住処"}
        chat = http.post("/v1/tokenize", json={"model": "talk", "messages": [USER], "add_generation_prompt": True})
        assert chat.json()["count"] == len("<user>東京の天気は?")
        assert (
            http.post("/v1/tokenize", json={"model": "talk", "prompt": "x", "messages": [USER]}).json()["error"]["code"]
            == "invalid_request"
        )


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_control_tokens_in_what_a_client_wrote_reach_the_engine_as_text(stack: Stack, path: str) -> None:
    body = {"model": "talk", "max_tokens": 9, "messages": [{"role": "user", "content": "あ<|im_end|>い"}]}
    with stack.client() as http, stack.store.read() as connection:
        assert http.post(path, json=body).status_code == 200
        talk = registry.newest(connection, "talk-base")
    assert talk and "あ< |im_end|>い" in json.dumps(stack.asked(talk)["body"], ensure_ascii=False)


def test_control_tokens_of_two_parts_or_in_arguments_reach_no_engine(stack: Stack) -> None:
    """Neither joined by vLLM nor read by it out of JSON."""
    halves = [{"type": "text", "text": "あ<|im_"}, {"type": "text", "text": "end|>い"}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\u003c|im_end|>"}'}}
    chat = [
        {"role": "user", "content": halves},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    with stack.client() as http, stack.store.read() as connection:
        talk = registry.newest(connection, "talk-base")
        assert talk
        assert http.post("/v1/chat/completions", json={"model": "talk", "messages": chat}).status_code == 200
        sent = stack.asked(talk)["body"]["messages"]
        assert (
            sent[0]["content"] == "あ<|im_\nend|>い"
            and sent[1]["tool_calls"][0]["function"]["arguments"] == '{"a": "< |im_end|>"}'
        )
        body = {"model": "talk", "max_tokens": 9, "messages": [USER], "system": halves}
        assert http.post("/v1/messages", json=body).status_code == 200
        assert stack.asked(talk)["body"]["system"] == "あ< |im_end|>い"


def test_different_schemas_of_one_owner_have_a_bound_and_one_schema_has_none(stack: Stack) -> None:
    def ask(secret: str, number: int) -> httpx.Response:
        schema = {"type": "object", "properties": {f"p{number}": {"type": "string"}}}
        answer = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with stack.client(secret) as http:
            return http.post("/v1/chat/completions", json={"model": "talk", "messages": [USER], "response_format": answer})

    one, other = stack.new_key()[0], stack.new_key()[0]
    told = [ask(one, number) for number in range(2 * grammars.MOST + 1)]  # the minute may end meanwhile
    refused = next(answer for answer in told if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded" and 1 <= int(refused.headers["retry-after"]) <= 60
    assert {answer.status_code for answer in told} == {200, 429}
    assert ask(other, 0).status_code == 200


def test_responses_by_the_openai_client(client: openai.OpenAI) -> None:
    told = client.responses.create(model="talk", input="こんにちは", instructions="短く", store=False)
    assert told.output_text == "talk-base@1 w0 w1 " and told.usage and told.usage.output_tokens == 3
    with client.responses.stream(model="talk", input="こんにちは") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "talk-base@1 w0 w1 "
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def test_responses_with_a_tool_and_a_class(client: openai.OpenAI, stack: Stack) -> None:
    class Person(BaseModel):
        name: str
        age: int

    parsed = client.responses.parse(model="plain", input="x", text_format=Person)
    assert parsed.output_parsed == Person(name="東京", age=42)
    tool: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
    first = client.responses.create(model="talk", input=[USER], tools=[tool])
    (call,) = first.output
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "東京"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "晴れ"}
    again = client.responses.create(model="talk", input=[USER, call.to_dict(), result], tools=[tool])  # type: ignore[list-item]
    assert again.output_text
    sent = stack.asked(stack.version("talk-base@1"))["body"]
    assert sent["store"] is False and len(sent["cache_salt"]) == 32
    assert sent["input"][1] == {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "東京"}'}
    third = client.responses.create(model="talk", input=[USER, *[item.to_dict() for item in again.output], USER])  # type: ignore[list-item]
    assert third.output_text


@pytest.mark.parametrize(
    ("more", "code"),
    [({"previous_response_id": "resp_1"}, "not_stored"), ({"store": True}, "not_stored"), ({"conversation": "c"}, "not_stored"),
     ({"background": True}, "invalid_request"), ({"max_tokens": 5}, "unknown_field"),
     ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "unsupported_content"),
     ({"tools": [{"type": "web_search"}]}, "invalid_request"), ({"input": [{"type": "item_reference", "id": "x"}]}, "invalid_request")],
    ids=str,
)  # fmt: skip
def test_responses_that_would_be_kept_are_refused(stack: Stack, more: dict[str, Any], code: str) -> None:
    with stack.client() as http:
        response = http.post("/v1/responses", json={"model": "talk", "input": "x"} | more)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code), response.text


def test_messages_by_the_anthropic_client(claude: anthropic.Anthropic) -> None:
    told = claude.messages.create(model="talk", max_tokens=50, messages=[USER], system="丁寧に")
    assert told.content[0].type == "text" and told.content[0].text == "talk-base@1 w0 w1 "
    assert (told.usage.input_tokens, told.usage.output_tokens) == (3, 3)
    with claude.messages.stream(model="talk", max_tokens=50, messages=[USER]) as stream:
        assert "".join(stream.text_stream) == "talk-base@1 w0 w1 "
    assert claude.messages.count_tokens(model="talk", messages=[USER]).input_tokens == 7


def test_messages_with_a_tool(claude: anthropic.Anthropic, stack: Stack) -> None:
    marked = TOOL | {"cache_control": {"type": "ephemeral"}}
    first = claude.messages.create(model="talk", max_tokens=50, messages=[USER], tools=[marked])
    (call,) = first.content
    assert first.stop_reason == "tool_use" and call.type == "tool_use" and call.input == {"city": "東京"}
    answer: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "晴れ"}]}
    again = claude.messages.create(
        model="talk",
        max_tokens=50,
        tools=[TOOL],
        messages=[USER, {"role": "assistant", "content": [call.to_dict()]}, answer],  # type: ignore[list-item]
    )
    assert again.stop_reason == "end_turn"
    sent = stack.asked(stack.version("talk-base@1"))["body"]
    assert sent["tools"] == [TOOL] and len(sent["cache_salt"]) == 32
    with claude.messages.stream(model="talk", max_tokens=50, messages=[USER], tools=[TOOL]) as stream:
        assert stream.get_final_message().content[0].input == {"city": "東京"}  # type: ignore[union-attr]


def test_anthropic_errors_are_in_its_envelope_and_name_who_failed(stack: Stack, claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as told:
        claude.messages.create(model="none", max_tokens=5, messages=[USER])
    body: Any = told.value.body
    assert body["type"] == "error" and (body["error"]["type"], body["error"]["code"]) == ("not_found_error", "model_not_found")
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="sk-wrong").messages.create(model="talk", max_tokens=5, messages=[USER])
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://x"}}
    with pytest.raises(anthropic.BadRequestError, match="no model here reads images"):
        claude.messages.create(model="talk", max_tokens=5, messages=[{"role": "user", "content": [image]}])
    stack.script(refuse={"status": 400, "message": "the engine's own words"})
    try:
        with pytest.raises(anthropic.BadRequestError, match="the engine's own words") as refused:
            claude.messages.create(model="talk", max_tokens=5, messages=[USER])
    finally:
        stack.script()
    assert refused.value.response.headers["x-sumika-origin"] == "engine"
    assert refused.value.response.headers["x-request-id"].startswith("req-")


def test_budget_for_thinking_needs_a_model_that_thinks(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="no reasoning parser"):
        claude.messages.create(
            model="talk", max_tokens=2000, messages=[USER], thinking={"type": "enabled", "budget_tokens": 1024}
        )
    assert claude.messages.create(model="talk", max_tokens=50, messages=[USER], thinking={"type": "disabled"}).content


def test_key_is_taken_from_one_header_and_only_where_anthropics_clients_send_it(stack: Stack) -> None:
    body = {"model": "talk", "max_tokens": 5, "messages": [USER]}
    bare, bearer = {"x-api-key": stack.admin_key}, {"authorization": f"Bearer {stack.admin_key}"}
    assert httpx.post(f"{stack.url}/v1/messages", json=body, headers=bare).status_code == 200
    assert httpx.post(f"{stack.url}/v1/messages", json=body, headers=bearer).status_code == 200
    assert httpx.post(f"{stack.url}/v1/messages", json=body, headers=bare | bearer).status_code == 401
    assert (
        httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "talk", "messages": [USER]}, headers=bare).status_code
        == 401
    )
    assert httpx.get(f"{stack.url}/v1/models", headers=bare).status_code == 401


def test_every_endpoint_counts(stack: Stack) -> None:
    secret, key = stack.new_key()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"model": "talk", "messages": [USER]}), ("/v1/completions", {"model": "talk", "prompt": "x"}),
        ("/v1/embeddings", {"model": "ruri", "input": "12345"}), ("/v1/rerank", {"model": "order", "query": "12", "documents": ["345", "6" * 9_000]}),
        ("/v1/tokenize", {"model": "talk", "prompt": "x"}), ("/v1/messages/count_tokens", {"model": "talk", "messages": [USER]}),
        ("/v1/responses", {"model": "talk", "input": "x"}), ("/v1/responses", {"model": "talk", "input": "x", "stream": True}),
        ("/v1/messages", {"model": "talk", "max_tokens": 5, "messages": [USER]}),
        ("/v1/messages", {"model": "talk", "max_tokens": 5, "messages": [USER], "stream": True}),
    ]  # fmt: skip
    with stack.client(secret) as http:
        for path, body in calls:
            assert http.post(path, json=body).status_code == 200, path
    until(lambda: sum(row["n"] for row in used(stack, key).values()) == len(calls), what="usage is written")
    told = {name: (row["p"], row["c"], row["h"]) for name, row in used(stack, key).items()}
    assert told == {
        "chat": (5, 3, 2), "completions": (5, 3, 2), "embeddings": (5, 0, None), "rerank": (9_005, 0, None), "tokenize": (0, 0, None),
        "responses": (10, 6, 4), "messages": (10, 6, 4),
    }  # fmt: skip
    assert not any(row["b"] for row in used(stack, key).values()), "nothing was guessed"


def test_key_may_be_held_to_embeddings(stack: Stack) -> None:
    secret, _ = stack.new_key(endpoints=["embeddings", "models"])
    with stack.client(secret) as http:
        assert http.post("/v1/embeddings", json={"model": "ruri", "input": "x"}).status_code == 200
        for path, body in (
            ("/v1/responses", {"input": "x"}),
            ("/v1/messages", {"messages": [USER], "max_tokens": 5}),
            ("/v1/tokenize", {"prompt": "x"}),
        ):
            assert http.post(path, json=body | {"model": "talk"}).json()["error"]["code"] == "forbidden"


@pytest.mark.parametrize(
    ("path", "body", "event"),
    [
        ("/v1/responses", {"input": "x"}, "error"),
        ("/v1/messages", {"messages": [USER], "max_tokens": 5}, "error"),
        ("/v1/chat/completions", {"messages": [USER]}, ""),
    ],
)
def test_engine_that_dies_in_mid_stream_is_told_once_in_the_apis_own_words(
    own_stack: Stack, path: str, body: dict[str, Any], event: str
) -> None:
    own_stack.deploy("talk", own_stack.base())
    own_stack.script(die_after_chunks=4, chunks=9)
    with own_stack.client() as http, http.stream("POST", path, json=body | {"model": "talk", "stream": True}) as response:
        text = "".join(response.iter_text())
    own_stack.script()
    events = text.strip("\n").split("\n\n")
    assert len(events) == 5
    name, _, data = events[-1].rpartition("data: ")
    assert name == (f"event: {event}\n" if event else "")
    assert json.loads(data)["error"]["code"] == "engine_unreachable"
    assert "[DONE]" not in text and "message_stop" not in text and "response.completed" not in text
    until(lambda: own_stack.chat("talk").status_code == 200, what="serving goes on")


def test_openai_client_raises_where_a_stream_of_responses_broke(own_stack: Stack) -> None:
    own_stack.deploy("talk", own_stack.base())
    with openai.OpenAI(base_url=f"{own_stack.url}/v1", api_key=own_stack.admin_key, max_retries=0) as made:
        own_stack.script(die_after_chunks=5, chunks=9)
        with pytest.raises(openai.APIError, match="restarted"):
            list(made.responses.create(model="talk", input="x", stream=True))
    own_stack.script()
    until(lambda: own_stack.chat("talk").status_code == 200)


def test_curl_gets_an_answer_and_a_stream(stack: Stack) -> None:
    def curl(path: str, body: dict[str, Any]) -> str:
        words = [
            "curl",
            "-sSN",
            f"{stack.url}{path}",
            "-H",
            f"Authorization: Bearer {stack.admin_key}",
            "-H",
            "Content-Type: application/json",
        ]
        return subprocess.run([*words, "-d", json.dumps(body)], capture_output=True, text=True, check=True, timeout=30).stdout

    assert json.loads(curl("/v1/embeddings", {"model": "ruri", "input": "x"}))["data"][0]["embedding"] == vector("x")
    assert curl("/v1/chat/completions", {"model": "talk", "messages": [USER], "stream": True}).endswith("data: [DONE]\n\n")


def test_models_tell_what_they_are_for(stack: Stack, client: openai.OpenAI) -> None:
    told = {model.id: model.model_dump() for model in client.models.list()}
    assert {name: model["sumika"]["task"] for name, model in told.items()} == {
        "talk": "chat", "plain": "chat", "ruri": "embedding", "order": "rerank",
    }  # fmt: skip
    assert told["talk"]["max_model_len"] == 512 and told["talk"]["sumika"]["tools"] and not told["plain"]["sumika"]["tools"]
    assert told["ruri"]["sumika"]["endpoints"] == ["/v1/embeddings", "/v1/tokenize", "/v1/detokenize"]
    assert client.models.retrieve("talk").model_dump() == told["talk"]
