"""The `openai` client, unchanged, against a real gateway: tools, structured output, reasoning, and what it is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from sumika.models import teams
from sumika.models.principals import Sensitivity
from tests.integration.conftest import Stack, until

TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
USER: Any = {"role": "user", "content": "東京の天気は?"}


@pytest.fixture(scope="module", autouse=True)
def aliases(stack: Stack) -> None:
    able = stack.base("able", meta={"serve": {"tool_call_parser": "hermes", "reasoning_parser": "qwen3", "max_model_len": 512}})
    stack.deploy("able", able)
    stack.deploy("plain", stack.base("plain", seed=1))


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as made:
        yield made


def test_model_calls_a_tool_and_is_answered(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="able", messages=[USER], tools=[TOOL], tool_choice="auto")
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    call = choice.message.tool_calls[0]
    assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "東京"}')
    answer: Any = {"role": "tool", "tool_call_id": call.id, "content": "晴れ"}
    again = client.chat.completions.create(
        model="able",
        messages=[USER, choice.message.to_dict(), answer],
        tools=[TOOL],  # type: ignore[list-item]
    )
    assert again.choices[0].message.content and again.choices[0].finish_reason == "stop"


def test_streamed_call_is_put_together_by_the_client(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="able", messages=[USER], tools=[TOOL]) as stream:
        call = (stream.get_final_completion().choices[0].message.tool_calls or [None])[0]
    assert call is not None and call.function.arguments == '{"city": "東京"}'


async def test_async_client_streams_a_call(stack: Stack) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as client:
        stream = await client.chat.completions.create(model="able", messages=[USER], tools=[TOOL], stream=True)
        pieces = [c.function.arguments or "" async for e in stream for c in e.choices[0].delta.tool_calls or () if c.function]
    assert "".join(pieces) == '{"city": "東京"}'


def test_parse_gives_an_object_of_the_asked_class(client: openai.OpenAI) -> None:
    class Person(BaseModel):
        name: str
        age: int
        kind: Literal["社員", "派遣"]

    told = client.chat.completions.parse(model="plain", messages=[USER], response_format=Person)
    assert told.choices[0].message.parsed == Person(name="東京", age=42, kind="社員")


def test_reasoning_passes_through(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(model="able", messages=[USER], reasoning_effort="high")
    assert told.choices[0].message.model_dump()["reasoning"] == "よく考える"
    stream = client.chat.completions.create(model="able", messages=[USER], reasoning_effort="high", stream=True)
    first, *_ = [e.choices[0].delta.model_dump() for e in stream]
    assert first["reasoning"] == "よく考える"


def test_several_choices_with_logprobs(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(model="plain", messages=[USER], n=2, logprobs=True, top_logprobs=3, seed=1)
    assert [choice.index for choice in told.choices] == [0, 1]
    assert told.choices[0].logprobs and told.choices[0].logprobs.content
    assert len(told.choices[0].logprobs.content[0].top_logprobs) == 3


def test_stream_with_usage_is_asked_for_by_the_client(client: openai.OpenAI) -> None:
    events = list(client.chat.completions.create(
        model="plain", messages=[USER], stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert events[-1].usage and events[-1].usage.completion_tokens == 3
    assert not any(e.usage for e in client.chat.completions.create(model="plain", messages=[USER], stream=True))


@pytest.mark.parametrize("stream", [True, False])
def test_tools_on_a_model_without_a_parser_are_refused(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(model="plain", messages=[USER], tools=[TOOL], stream=stream)
    assert told.value.code == "tools_unsupported" and told.value.param == "tools"
    assert told.value.response.headers["x-sumika-origin"] == "gateway"
    assert client.chat.completions.create(model="plain", messages=[USER], tools=[TOOL], tool_choice="none").choices


def test_team_parts_the_prefix_cache_and_our_id_is_the_engines(stack: Stack, client: openai.OpenAI) -> None:
    with stack.store.write() as connection:
        for team in ("soumu", "keiri"):
            teams.create(connection, team, "")
    salts = {}
    for team, keys in (("soumu", 2), ("keiri", 1), (None, 2)):
        secrets = [stack.new_key(team=team)[0] for _ in range(keys)]
        asked = []
        for secret in secrets:
            raw = client.with_options(api_key=secret).chat.completions.with_raw_response.create(model="plain", messages=[USER])
            asked.append(stack.asked(stack.version("plain@1")))
            assert asked[-1]["request_id"] == raw.headers["x-request-id"]
        salts[team] = [told["body"]["cache_salt"] for told in asked]
    assert salts["soumu"][0] == salts["soumu"][1] != salts["keiri"][0]
    assert salts[None][0] != salts[None][1], "keys without a team share nothing"
    assert all(len(salt) == 32 for group in salts.values() for salt in group)


def test_public_request_finds_nothing_of_a_confidential_one_in_the_prefix_cache(stack: Stack) -> None:
    with stack.store.write() as connection:
        teams.create(connection, "jinji", "")
    wide, narrow = (stack.new_key(team="jinji", sensitivity=most)[0] for most in ("confidential", "public"))

    def salt(key: str, sensitivity: Sensitivity) -> str:
        with stack.client(key, **{"x-sumika-sensitivity": sensitivity}) as asking:
            assert asking.post("/v1/chat/completions", json={"model": "plain", "messages": [USER]}).status_code == 200
        return str(stack.asked(stack.version("plain@1"))["body"]["cache_salt"])

    public, confidential = salt(wide, "public"), salt(wide, "confidential")
    assert public == salt(narrow, "public") != confidential
    assert public != hashlib.sha256(b"team:jinji").hexdigest()[:32], "no salt follows from a team's name"
    assert stack.settings.layout.cache_key.stat().st_mode & 0o777 == 0o600


def test_silent_stream_is_kept_alive_by_comments(own_patience: Stack) -> None:
    own_patience.script(prefill_s=1.5)
    body = {"model": "talk", "messages": [USER], "stream": True}
    with own_patience.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[0] == lines[1] == ": keep-alive" and lines[-1] == "data: [DONE]"
    with openai.OpenAI(base_url=f"{own_patience.url}/v1", api_key=own_patience.admin_key, max_retries=0) as made:
        stream = made.chat.completions.create(model="talk", messages=[USER], stream=True)
        assert "".join(e.choices[0].delta.content or "" for e in stream) == "base@1 w0 w1 "


@pytest.fixture
def own_patience(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    from tests.integration.conftest import finish, start

    started = start(tmp_path_factory.mktemp("alive"), SUMIKA_GATEWAY__KEEP_ALIVE_S="0.5")
    started.deploy("talk", started.base())
    yield started
    started.script()
    until(lambda: started.chat("talk").status_code == 200)
    finish(started)
