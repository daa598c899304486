"""Good bodies of every endpoint, gone wrong in one to three places, and bytes that are no JSON any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st

from sumika.serving.examples import EXAMPLES
from tests.fuzz.conftest import House
from tests.fuzz.judge import check
from tests.fuzz.runs import share, tried
from tests.fuzz.values import MARK, garbled, mutated, nasty, written

ALIASES = {"/v1/embeddings": "ruri", "/v1/rerank": "ranks"}
REFUSED = frozenset({400, 404, 413, 415, 422})
TALK = {"model": "talk", "messages": [{"role": "user", "content": MARK}]}
FULL = TALK | {
    "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "n": 1, "seed": 7, "stop": ["。"], "presence_penalty": 0.1, "frequency_penalty": 0.1,
    "repetition_penalty": 1.1, "logit_bias": {"5": 1.0}, "max_tokens": 8, "logprobs": True, "top_logprobs": 2, "user": "u", "metadata": {"a": "b"},
    "reasoning_effort": "low", "parallel_tool_calls": True, "stream": False,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}], "tool_choice": "auto",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": MARK}]}, {"role": "user", "content": MARK, "name": "taro"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ],
}  # fmt: skip


def bodies(path: str) -> list[dict[str, Any]]:
    """The document's own examples, to an alias that is there."""
    alias = ALIASES.get(path, "talk")
    good = [body | {"model": alias} for body in EXAMPLES[path].bodies.values()]
    return [*good, FULL] if path == "/v1/chat/completions" else good


@pytest.mark.parametrize("path", EXAMPLES)
def test_good_bodies_are_answered(house: House, path: str) -> None:
    for body in bodies(path):
        told = house.client.ask("POST", path, json.dumps(body).encode(), content_type="application/json")
        assert told.status == 200, told.body


@pytest.mark.parametrize("path", EXAMPLES)
def test_mutated_body_is_answered_or_refused(house: House, path: str) -> None:
    def ask(body: Any) -> None:
        check(house.client.ask("POST", path, written(body).encode(), content_type="application/json"), REFUSED | {200})

    part = 0.2 if path == "/v1/chat/completions" else 0.03
    tried(mutated(bodies(path)), share(part / 4), ask)
    with house.flat():
        tried(mutated(bodies(path)), share(part), ask)


def test_bytes_that_are_no_body_are_refused(house: House) -> None:
    def ask(case: tuple[str, bytes]) -> None:
        check(house.client.ask("POST", case[0], case[1], content_type="application/json"), REFUSED | {200})

    cases = st.sampled_from(sorted(EXAMPLES)).flatmap(lambda path: st.tuples(st.just(path), garbled(bodies(path))))
    tried(cases, share(0.02), ask)
    with house.flat():
        tried(cases, share(0.08), ask)


ADMIN: dict[str, dict[str, Any]] = {
    "/admin/v1/keys": {"name": "made", "role": "app", "team": None, "aliases": ["talk"], "endpoints": ["chat"], "sensitivity": None, "expires_at": None},
    "/admin/v1/keys/key-0/rotate": {"overlap_s": 5},
    "/admin/v1/teams": {"name": "sales", "title": "営業部"},
    "/admin/v1/aliases/talk/deploy": {"version": "base@1", "reason": "x", "override": False},
    "/admin/v1/aliases/made/deploy": {"version": "base@1", "reason": "x"},
    "/admin/v1/aliases/talk/canary": {"version": "base@9", "share": 5, "reason": "x"},
    "/admin/v1/aliases/talk/promote": {"reason": "x"},
    "/admin/v1/aliases/talk/rollback": {"reason": "x"},
    "/admin/v1/aliases/talk/abort": {"reason": "x"},
    "/admin/v1/limits/alias/made": {"requests_per_minute": 9, "tokens_per_minute": 9, "streams": 9, "tokens_per_month": 9, "weight": 9, "priority": "batch"},
    "/admin/v1/imports": {"source": "x", "name": "made", "base": None},
    "/v1/batches": {"input_file_id": "file-0", "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"a": "b"}},
    "/v1/fine_tuning/jobs": {"model": "base@1", "training_file": "file-0", "hyperparameters": {"n_epochs": 1, "batch_size": 1}, "suffix": "x", "seed": 1},
}  # fmt: skip


def test_mutated_acts_of_an_administrator_are_done_or_refused(house: House) -> None:
    def ask(case: tuple[str, Any]) -> None:
        check(
            house.client.ask("POST", case[0], written(case[1]).encode(), content_type="application/json"),
            REFUSED | {200, 201, 202, 409},
        )

    cases = st.sampled_from(sorted(ADMIN)).flatmap(lambda path: st.tuples(st.just(path), mutated([ADMIN[path]])))
    tried(cases, share(0.03), ask)
    with house.flat():
        tried(cases, share(0.12), ask)


def forms() -> Iterator[tuple[str, bytes]]:
    """(content type, body) of uploads."""
    line = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": TALK}).encode()
    head = b'--b\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    good = head % (b"purpose", b"", b"batch") + head % (b"file", b'; filename="a.jsonl"', line) + b"--b--\r\n"
    yield "multipart/form-data; boundary=b", good


def test_mutated_upload_is_kept_or_refused(house: House) -> None:
    kind, good = next(forms())
    kinds = st.sampled_from([kind, kind, kind, "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 300,
                             "application/json", "text/plain", "multipart/mixed; boundary=b", "", "multipart/form-data; boundary=\xff"])  # fmt: skip

    @st.composite
    def cases(draw: st.DrawFn) -> tuple[str, bytes]:
        data = good
        for _ in range(draw(st.integers(0, 3))):
            at, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
            put = draw(
                st.sampled_from(
                    [b"", b"\x00", b"--b\r\n", b"--b--", b"\r\n\r\n", b"\xff\xfe", written("あ").encode(), b"a" * 5_000]
                )
                | nasty.map(lambda v: written(v).encode())
            )
            data = data[:at] + put + data[at if draw(st.booleans()) else end :]
        return draw(kinds), data

    def ask(case: tuple[str, bytes]) -> None:
        check(house.client.ask("POST", "/v1/files", case[1], content_type=case[0]), REFUSED | {200, 408})

    tried(cases(), share(0.01), ask)
    with house.flat():
        tried(cases(), share(0.05), ask)
