"""The gateway to its clients: the OpenAI shape of every answer, keys, and the official client unchanged."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from sumika.models import keys
from tests.integration.conftest import Stack, until

JSON = {"content-type": "application/json"}
CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", autouse=True)
def talk(stack: Stack) -> str:
    version = stack.base()
    stack.deploy("talk", version)
    stack.deploy("other", version)
    return str(version.ref)


def error(response: httpx.Response) -> dict[str, str]:
    body: dict[str, dict[str, str]] = response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"].startswith("req-")
    return body["error"]


def test_chat_without_key_is_refused(stack: Stack) -> None:
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Bearer x"}, {"authorization": f"Basic {stack.admin_key}"},
                    {"authorization": f"Bearer {stack.admin_key[:-1]}x"}, {"authorization": "Bearer " + "x" * 9000}):  # fmt: skip
        response = httpx.post(f"{stack.url}/v1/chat/completions", json=CHAT, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert error(response)["code"] == "invalid_api_key"


def test_chat_with_unknown_model_is_not_found_in_the_readers_language(stack: Stack) -> None:
    for name in ("nope", "ｔａｌｋ", "talk@1", "../talk", "base@1", "talk\u0000"):
        with stack.client() as client:
            response = client.post("/v1/chat/completions", json=CHAT | {"model": name})
        assert response.status_code == 404
        assert error(response) | {"message": ""} == {
            "code": "model_not_found",
            "type": "not_found_error",
            "param": "model",
            "message": "",
        }
    with stack.client(**{"accept-language": "ja-JP,en;q=0.5"}) as client:
        assert "ありません" in error(client.post("/v1/chat/completions", json=CHAT | {"model": "nope"}))["message"]


def test_unknown_path_and_method_answer_in_the_envelope(stack: Stack) -> None:
    with stack.client() as client:
        assert error(client.get("/v1/nothing"))["code"] == "path_not_found"
        assert error(client.get("/v1/chat/completions"))["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/tokenize", "/v1/load_lora_adapter", "/sleep", "/collective_rpc", "/docs", "/ping"])
def test_engine_routes_are_out_of_reach(stack: Stack, path: str) -> None:
    with stack.client() as client:
        assert client.post(path, json={}).status_code == 404
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_request"),
        (b'{"model":"talk","model":"other","messages":[]}', "invalid_json"),
        (b'{"model":"talk","messages":[{"role":"user","content":"x"}],"temperature":NaN}', "invalid_json"),
        (b'{"model":"talk","messages":[{"role":"user","content":"x"}],"temperature":1e999}', "invalid_json"),
        (b'{"model":"talk","messages":[{"role":"user","content":"x"}],"n":true}', "invalid_request"),
        (b'{"model":"talk","messages":[{"role":"user","content":"x"}],"lora_request":{}}', "unknown_field"),
        (b'{"model":"talk","messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json"),
        (b'{"model":"talk","messages":[]}', "invalid_request"),
    ],
)
def test_chat_with_a_bad_body_is_refused_before_the_engine(stack: Stack, body: bytes, code: str) -> None:
    with stack.client() as client:
        response = client.post("/v1/chat/completions", content=body, headers=JSON)
    assert response.status_code == 400
    assert error(response)["code"] == code


def test_body_above_the_limit_is_413_and_compressed_is_415(stack: Stack) -> None:
    with stack.client() as client:
        big = client.post("/v1/chat/completions", content=b"x" * (stack.settings.gateway.max_body_bytes + 1), headers=JSON)
        assert (big.status_code, error(big)["code"]) == (413, "body_too_large")
        packed = client.post("/v1/chat/completions", content=b"x", headers=JSON | {"content-encoding": "gzip"})
        assert (packed.status_code, error(packed)["code"]) == (415, "unsupported_encoding")


def test_openai_client_works_unchanged(stack: Stack, talk: str) -> None:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0)
    assert {model.id for model in client.models.list()} == {"talk", "other"}
    raw = client.chat.completions.with_raw_response.create(model="talk", messages=[{"role": "user", "content": "hi"}])
    assert raw.headers["x-sumika-version"] == talk
    assert raw.parse().choices[0].message.content == f"{talk} w0 w1 "
    stream = client.chat.completions.create(model="talk", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == f"{talk} w0 w1 "
    assert client.completions.create(model="talk", prompt="hi").choices[0].text == f"{talk} w0 w1 "
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="sk-wrong", max_retries=0).models.list()


async def test_openai_async_client_streams(stack: Stack, talk: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as client:
        stream = await client.chat.completions.create(model="talk", messages=[{"role": "user", "content": "hi"}], stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == f"{talk} w0 w1 "


def test_key_sees_and_uses_only_its_aliases(stack: Stack) -> None:
    secret, _ = stack.new_key(aliases=["other"])
    with stack.client(secret) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["other"]
        assert client.post("/v1/chat/completions", json=CHAT | {"model": "other"}).status_code == 200
        assert error(client.post("/v1/chat/completions", json=CHAT))["code"] == "model_not_found"


def test_key_revoked_stops_within_a_second(stack: Stack) -> None:
    secret, key_id = stack.new_key()
    with stack.store.write() as connection:
        keys.revoke(connection, key_id)
    with stack.client(secret) as client:
        until(lambda: client.get("/v1/models").status_code == 401, within=1, what="the revocation bites")


def test_metrics_need_an_administrators_key(stack: Stack) -> None:
    secret, _ = stack.new_key()
    with stack.client(secret) as client:
        assert error(client.get("/metrics"))["code"] == "forbidden"
    assert httpx.get(f"{stack.url}/metrics").status_code == 401
    stack.chat("talk")
    with stack.client() as client:
        text = client.get("/metrics").text
    assert 'sumika_requests_total{alias="talk",status="200"}' in text
    assert 'sumika_engines{state="ready"} 1.0' in text


def test_health_tells_by_model_whether_it_is_ready(stack: Stack) -> None:
    with stack.client() as client:
        assert client.get("/health/ready", params={"model": "talk"}).status_code == 200
        assert client.get("/health/ready", params={"model": "nope"}).status_code == 503
    scoped, _ = stack.new_key(aliases=["other"])
    with stack.client(scoped) as client:
        assert client.get("/health/ready", params={"model": "talk"}).status_code == 503, "as one that is not there"


def test_health_tells_nobody_without_a_key_what_models_there_are(stack: Stack) -> None:
    for headers in ({}, {"authorization": "Bearer sk-sumika-wrong"}):
        answers = [
            httpx.get(f"{stack.url}/health/ready", params=p, headers=headers) for p in ({}, {"model": "talk"}, {"model": "nope"})
        ]
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, b'{"status":"ready","store":"available"}')}


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_ends_its_generation(stack: Stack, stream: bool) -> None:
    engine = stack.engine_of(stack.version("base@1"))
    stack.script(chunks=100, chunk_delay_s=0.1)
    try:
        with stack.client() as client, pytest.raises(httpx.ReadTimeout):
            if stream:
                with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
                    until(lambda: stack.running(engine) == 1)
                    assert response.status_code == 200
                    raise httpx.ReadTimeout("as a user who closes the tab")
            client.post("/v1/chat/completions", json=CHAT, timeout=0.5)
        until(lambda: stack.running(engine) == 0, within=2, what="the engine stops generating")
    finally:
        stack.script()


def test_users_text_and_keys_are_in_no_log(stack: Stack) -> None:
    marker = "秘密の診断名ABCDEF"
    for content in (marker, marker + "\ud800"):
        body = {"model": "talk", "messages": [{"role": "user", "content": content}], "user": marker}
        with stack.client() as client:
            client.post("/v1/chat/completions", content=__import__("json").dumps(body).encode(), headers=JSON)
    time.sleep(0.3)
    logs = stack.logs()
    assert "alias=talk" in logs
    assert marker not in logs and stack.admin_key not in logs


def test_files_are_private(stack: Stack) -> None:
    layout = stack.settings.layout
    for path in (layout.root, layout.sockets, layout.artifacts):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (layout.admin_key, layout.database):
        assert path.stat().st_mode & 0o777 == 0o600
