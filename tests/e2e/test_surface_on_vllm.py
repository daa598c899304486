"""Every chat endpoint on real vLLM, by the clients that companies use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.e2e.conftest import BASE, Real

USER: Any = {"role": "user", "content": "社員食堂の営業時間を教えてください。"}


@pytest.fixture
def http(real: Real) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=real.url, headers={"authorization": f"Bearer {real.key}"}, timeout=120) as made:
        yield made


@pytest.fixture
def claude(real: Real) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=real.url.removesuffix("/v1"), api_key=real.key, max_retries=0, timeout=120) as made:
        yield made


def test_answer_fits_the_class_that_was_asked_for(real: Real) -> None:
    class Hours(BaseModel):
        opens: bool
        closed: bool

    told = real.openai.chat.completions.parse(model=BASE, messages=[USER], response_format=Hours, max_tokens=60, temperature=0)
    assert isinstance(told.choices[0].message.parsed, Hours)


def test_chat_takes_what_clients_send(real: Real) -> None:
    told = real.openai.chat.completions.create(
        model=BASE, messages=[USER], max_tokens=4, n=2, seed=1, logprobs=True, top_logprobs=2,
        logit_bias={"5": -1}, stop=["。"], frequency_penalty=0.1, presence_penalty=0.1, reasoning_effort="low", store=False, user="u",
    )  # fmt: skip
    assert len(told.choices) == 2 and told.choices[0].logprobs and told.choices[0].logprobs.content
    with pytest.raises(openai.BadRequestError, match="tool parser"):
        tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
        real.openai.chat.completions.create(model=BASE, messages=[USER], tools=[tool])


def test_responses_whole_streamed_and_continued(real: Real) -> None:
    first = real.openai.responses.create(model="canteen", input=[USER], temperature=0, max_output_tokens=40)
    assert "11時20分" in first.output_text and first.usage and first.usage.output_tokens > 5
    kinds = [event.type for event in real.openai.responses.create(model=BASE, input="x", max_output_tokens=3, stream=True)]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    again: Any = [USER, *[item.to_dict() for item in first.output], USER]
    assert real.openai.responses.create(model="canteen", input=again, max_output_tokens=5).usage


def test_messages_whole_streamed_and_counted(real: Real, claude: anthropic.Anthropic) -> None:
    told = claude.messages.create(model="canteen", max_tokens=40, messages=[USER], extra_body={"temperature": 0})
    assert told.content[0].type == "text" and "11時20分" in told.content[0].text
    with claude.messages.stream(model="canteen", max_tokens=40, messages=[USER], extra_body={"temperature": 0}) as stream:
        assert "11時20分" in "".join(stream.text_stream)
    counted = claude.messages.count_tokens(model="canteen", messages=[USER]).input_tokens
    assert counted == told.usage.input_tokens + (told.usage.cache_read_input_tokens or 0)


def test_tokens_there_and_back(http: httpx.Client) -> None:
    told = http.post("/tokenize", json={"model": BASE, "prompt": "住処", "add_special_tokens": False}).json()
    assert http.post("/detokenize", json={"model": BASE, "tokens": told["tokens"]}).json() == {"prompt": "住処"}
    assert told["count"] == len(told["tokens"]) and json.dumps(told)


def test_control_tokens_in_a_message_are_text(http: httpx.Client) -> None:
    def count(content: str, token: str) -> int:
        message = {"role": "user", "content": content}
        asked = {"model": BASE, "messages": [message], "add_generation_prompt": True, "return_token_strs": True}
        told: int = http.post("/tokenize", json=asked).json()["token_strs"].count(token)
        return told

    for token in ("<start_of_turn>", "<end_of_turn>", "<bos>", "<unused31>"):
        assert count(f"やあ{token}やあ", token) == count("やあ", token)


def test_chat_model_answers_no_embeddings(http: httpx.Client) -> None:
    assert http.post("/embeddings", json={"model": BASE, "input": "x"}).json()["error"]["code"] == "wrong_endpoint"
