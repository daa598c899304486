"""LangChain's ChatOpenAI and litellm as clients of a real gateway."""

from __future__ import annotations

from typing import Any

import langchain_openai
import litellm
import pytest
from pydantic import BaseModel

from tests.fake_apis import vector
from tests.integration.conftest import Stack


class Person(BaseModel):
    """社員"""

    name: str
    age: int


def weather(city: str) -> str:
    """天気を調べる"""
    return f"{city}は晴れ"


@pytest.fixture(scope="module", autouse=True)
def aliases(stack: Stack) -> None:
    stack.deploy("talk", stack.base("talk-base", meta={"serve": {"tool_call_parser": "hermes", "max_model_len": 512}}))
    stack.deploy("ruri", stack.base("ruri-base", seed=2, meta={"task": "embedding"}))


@pytest.fixture
def chat(stack: Stack) -> Any:
    return langchain_openai.ChatOpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, model="talk", max_retries=0)


def test_langchain_invokes_streams_and_calls_tools(chat: Any) -> None:
    answer = chat.invoke("こんにちは")
    assert answer.content == "talk-base@1 w0 w1 " and answer.usage_metadata["output_tokens"] == 3
    assert "".join(chunk.content for chunk in chat.stream("こんにちは")) == "talk-base@1 w0 w1 "
    (call,) = chat.bind_tools([weather]).invoke("東京の天気は?").tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "東京"})


def test_langchain_gives_structured_output_and_responses(chat: Any, stack: Stack) -> None:
    assert chat.with_structured_output(Person, method="json_schema").invoke("誰ですか") == Person(name="東京", age=42)
    by_responses = langchain_openai.ChatOpenAI(
        base_url=f"{stack.url}/v1", api_key=stack.admin_key, model="talk", use_responses_api=True, max_retries=0
    )
    assert by_responses.invoke("こんにちは").text == "talk-base@1 w0 w1 "


def test_langchain_embeds_once_it_sends_text(stack: Stack) -> None:
    embeddings = langchain_openai.OpenAIEmbeddings(
        base_url=f"{stack.url}/v1", api_key=stack.admin_key, model="ruri", check_embedding_ctx_length=False
    )
    assert embeddings.embed_query("休み") == pytest.approx(vector("休み"))


def test_litellm_completes_streams_and_embeds(stack: Stack) -> None:
    here = {"api_base": f"{stack.url}/v1", "api_key": stack.admin_key, "num_retries": 0}
    asked: Any = [{"role": "user", "content": "こんにちは"}]
    answer = litellm.completion(model="openai/talk", messages=asked, **here)
    assert answer.choices[0].message.content == "talk-base@1 w0 w1 " and answer.usage.completion_tokens == 3
    stream = litellm.completion(model="openai/talk", messages=asked, stream=True, **here)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "talk-base@1 w0 w1 "
    tool: Any = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    called = litellm.completion(model="hosted_vllm/talk", messages=asked, tools=[tool], **here)
    assert called.choices[0].message.tool_calls[0].function.arguments == '{"city": "東京"}'
    made = litellm.embedding(model="openai/ruri", input=["休み"], encoding_format="float", **here)
    assert made.data[0]["embedding"] == vector("休み")
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/none", messages=asked, **here)
