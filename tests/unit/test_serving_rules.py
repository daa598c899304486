"""The rules of serving that need no process: what is wanted, what may be unloaded, what a request may say."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumika.models import canary, clock
from sumika.models.aliases import Alias, has_canary
from sumika.models.canary import CanaryPrompt
from sumika.models.engines import GatewayRow
from sumika.models.errors import SumikaError
from sumika.models.moves import Move
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.serving import plan, replies
from sumika.serving.requests import ChatRequest, CompletionRequest, parse

USER = [{"role": "user", "content": "x"}]


def version(number: int, base_id: int | None = None) -> Version:
    kind: Any = "base" if base_id is None else "adapter"
    return Version(number, VersionRef(kind, number), kind, base_id, None, "f", "d", "none", {}, "")


def test_wishes_hold_each_base_once_with_all_its_adapters() -> None:
    versions = {1: version(1), 2: version(2, 1), 3: version(3, 1), 4: version(4)}
    wishes = plan.wishes([Alias("a", 2, 1, ""), Alias("b", 3, 1, ""), Alias("c", 4, 1, "")], [], versions)
    assert {base: set(wish.adapters) for base, wish in wishes.items()} == {1: {"adapter@2", "adapter@3"}, 4: set()}


def move(alias: str, to_id: int, step: Any = "asked", kind: Any = "deploy") -> Move:
    ref = VersionRef("to", to_id)
    return Move(1, alias, None, to_id, ref, kind, None, "open", step, "me", "", 1, None, None, "", None)


def test_wishes_follow_canaries_replicas_and_how_far_a_move_got() -> None:
    versions = {1: version(1), 2: version(2, 1), 3: version(3), 4: version(4, 3)}
    aliases = [Alias("a", 2, 1, "")]

    def wished(*moves: Move, canary: int | None = None, **scales: int) -> dict[int, tuple[int, list[str]]]:
        pointed = [Alias("a", 2, 1, "", canary, 10)] if canary else aliases
        found = plan.wishes(pointed, moves, versions, scales=scales)
        return {base: (wish.replicas, sorted(wish.adapters)) for base, wish in found.items()}

    assert wished() == {1: (1, ["adapter@2"])}
    assert wished(canary=4) == {1: (1, ["adapter@2"]), 3: (1, ["adapter@4"])}
    assert wished(base=3) == {1: (3, ["adapter@2"])}
    assert wished(move("a", 3), base=2) == {1: (2, ["adapter@2"]), 3: (2, [])}
    assert wished(move("a", 3, "rolling"), base=2) == {1: (1, ["adapter@2"]), 3: (2, [])}, "the old base makes room by one"
    assert wished(move("a", 3, "holding")) == {3: (1, [])}, "the old base is let go of"
    assert wished(move("a", 3, "returning")) == {1: (1, ["adapter@2"])}, "the new one is"
    assert wished(move("new", 3)) == {1: (1, ["adapter@2"]), 3: (1, [])}


def test_who_waits_is_counted_over_all_gateways() -> None:
    rows = [GatewayRow("g", 1, 1, {}, "", {1: 2}), GatewayRow("h", 1, 1, {}, "", {1: 1, 3: 1})]
    assert plan.waiting(rows) == {1: 3, 3: 1}


def test_share_of_keys_is_sticky_grows_and_differs_by_alias() -> None:
    ids = [f"key-{n}" for n in range(2000)]
    ten, twenty = ({i for i in ids if has_canary("faq", i, share)} for share in (10, 20))
    assert ten < twenty and 150 < len(ten) < 250 and 340 < len(twenty) < 460
    assert ten != {i for i in ids if has_canary("other", i, 10)}


def test_adapter_is_unused_only_when_every_gateway_has_seen_so_and_runs_none() -> None:
    def gateway(seen: int, **running: int) -> GatewayRow:
        return GatewayRow("g", 1, seen, {"engine": running}, clock.now())

    assert plan.unused("engine", 5, [], "v")
    assert plan.unused("engine", 5, [gateway(5), gateway(6, other=1)], "v")
    assert not plan.unused("engine", 5, [gateway(5), gateway(4)], "v")
    assert not plan.unused("engine", 5, [gateway(5, v=1)], "v")
    assert plan.unused("sibling", 5, [gateway(5, v=1)], "v")
    assert not plan.unused("engine", 5, [gateway(6, other=1)]), "an engine is unused when nothing at all runs on it"


def test_gateway_not_heard_of_is_gone() -> None:
    now = datetime.now(UTC)
    old = GatewayRow("g", 1, 1, {}, clock.spell(now - plan.GATEWAY_GONE - timedelta(seconds=1)))
    new = GatewayRow("h", 1, 1, {}, clock.spell(now))
    assert plan.live([old, new], now) == [new]


PROMPTS = [CanaryPrompt([1], [2, 3], [-0.1, -0.2], [-3.0, -4.0])]


def test_canary_takes_the_adapter_and_tells_base_and_stranger_apart() -> None:
    ref = VersionRef("faq", 1)
    verdict = canary.judge(ref, PROMPTS, [[-0.12, -0.25]])
    assert verdict.from_adapter < 0.05 and verdict.from_base > 3 and verdict.tokens == 2
    for told, code in (([[-3.0, -4.0]], "canary_base"), ([[-9.0, -9.0]], "canary_differs"), ([[-0.1]], "canary_differs"),
                       ([[float("nan"), -0.2]], "canary_differs"), ([], "canary_differs")):  # fmt: skip
        with pytest.raises(SumikaError) as refused:
            canary.judge(ref, PROMPTS, told)
        assert refused.value.code == code, told


def test_request_for_the_engine_is_built_from_known_fields_only() -> None:
    body = {
        "model": "faq",
        "messages": USER,
        "temperature": 0,
        "user": "me",
        "stream": False,
        "stream_options": {"include_usage": True},
    }
    sent = json.loads(parse(ChatRequest, json.dumps(body).encode()).upstream("faq@3"))
    assert sent == {"model": "faq@3", "messages": USER, "temperature": 0, "stream": False}
    streamed = json.loads(
        parse(ChatRequest, json.dumps(body | {"stream": True, "stream_options": {}}).encode()).upstream("faq@3")
    )
    assert streamed["stream_options"] == {"include_usage": True}


def bad(body: Any, kind: Any = ChatRequest) -> SumikaError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(SumikaError) as told:
        parse(kind, raw)
    assert told.value.status == 400 and len(told.value.en) < 600
    return told.value


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": -1}, {"temperature": 2.1}, {"temperature": "0"}, {"temperature": True}, {"top_p": 0}, {"n": 0}, {"n": 9}, {"n": 10**9},
        {"max_tokens": 0}, {"max_tokens": 1.5}, {"max_tokens": 10**30}, {"presence_penalty": 2.1}, {"repetition_penalty": 0},
        {"stop": ["a"] * 5}, {"stop": 1}, {"seed": 2**64}, {"logprobs": 1}, {"top_logprobs": 21}, {"user": "x" * 513},
        {"messages": []}, {"messages": None}, {"messages": [{"role": "root", "content": "x"}]}, {"messages": [{"role": ["user"], "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]}, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]},
        {"messages": USER * 5000}, {"model": 1}, {"model": "x" * 257},
    ],
    ids=lambda field: str(field)[:40],
)  # fmt: skip
def test_value_out_of_bounds_is_refused_by_name(field: dict[str, Any]) -> None:
    assert (bad({"model": "m", "messages": USER} | field).param or "").startswith(next(iter(field)))


@pytest.mark.parametrize(
    "name",
    ["lora_request", "chat_template", "chat_template_kwargs", "cache_salt", "priority", "request_id", "kv_transfer_params", "vllm_xargs",
     "documents", "add_generation_prompt", "bad_words", "allowed_token_ids", "prompt_logprobs", "best_of", "guided_regex",
     "__proto__", "__class__", "model_config", "constructor", "structured_outputs"],
)  # fmt: skip
def test_field_that_is_not_on_the_list_is_refused(name: str) -> None:
    told = bad({"model": "m", "messages": USER, name: 1})
    assert (told.code, told.param) == ("unknown_field", name)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"x"', b"1", b"{", b'{"model":"a","model":"b"}', b"\xff\xfe{\x00}\x00", b'\xef\xbb\xbf{"model":"a"}',
     b'{"temperature":NaN}', b'{"temperature":-Infinity}', b'{"seed":' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 5000,
     b'{"model":"\\ud800","messages":[]}', b'{"\\udc00":1}', b"{'model':'a'}", b'{"model":"a",}', b'{"model":"a"} x'],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_json_that_a_lenient_reader_would_take_is_refused(body: bytes) -> None:
    assert bad(body).code in ("invalid_json", "invalid_request")


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_with_a_sentence(body: bytes) -> None:
    bad(body)
    bad(body, CompletionRequest)


@pytest.mark.parametrize(
    ("header", "speaks"),
    [(b"ja", "ja"), (b"ja-JP,en;q=0.8", "ja"), (b"en,ja", "en"), (b"", "en"), (b"jam", "en"), (b"JA;q=1", "ja"), (b"\xff", "en")],
)
def test_language_is_what_the_client_puts_first(header: bytes, speaks: str) -> None:
    assert replies.language([(b"host", b"x"), (b"accept-language", header)]) == speaks
