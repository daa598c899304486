"""What a Prometheus is told: true figures of a running stack, by names of the registry alone."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Stack, until

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", autouse=True)
def faq(stack: Stack) -> None:
    base = stack.base()
    stack.deploy("talk", base)
    for seed in (1, 2):
        stack.deploy("faq", stack.adapter("faq", base, seed=seed, proven=True))


def figures(stack: Stack, path: str = "/metrics") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with stack.client() as client:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_tokens_and_their_pace_are_counted_by_alias(stack: Stack) -> None:
    before = figures(stack)
    stack.script(chunks=5, chunk_delay_s=0.05)
    with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json=CHAT | {"model": "faq", "stream": True}) as answer,
    ):
        answer.read()
    stack.script()

    def more(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return figures(stack).get(key, 0) - before.get(key, 0)

    until(lambda: more("sumika_requests_total", alias="faq", status="200") == 1, what="the request is counted")
    assert (
        more("sumika_tokens_total", alias="faq", kind="prompt") > 0
        and more("sumika_tokens_total", alias="faq", kind="completion") > 0
    )
    assert more("sumika_token_seconds_count", alias="faq") == 1


def test_engines_moves_audit_and_disk_stand_as_they_are(stack: Stack) -> None:
    told = figures(stack)
    assert told["sumika_base_engines", (("base", "base@1"), ("state", "ready"))] == 1
    assert told["sumika_alias_version", (("alias", "faq"), ("version", "faq@2"))] == 1
    assert told["sumika_moves_total", (("kind", "deploy"), ("state", "done"))] == 3
    assert told["sumika_move_seconds_count", (("kind", "deploy"),)] == 3
    assert told["sumika_audit_rows_total", ()] >= 3 and told["sumika_gateway_workers", ()] == 1
    assert 0 < told["sumika_disk_free_bytes", ()] < told["sumika_disk_size_bytes", ()]


def test_engines_tell_their_own_by_base_and_nothing_that_is_not_named(stack: Stack) -> None:
    told = figures(stack, "/metrics/engines")
    running = {labels: value for (name, labels), value in told.items() if name == "vllm:num_requests_running"}
    assert [dict(labels)["base"] for labels in running] == ["base@1"]
    assert all(name.startswith(("vllm:", "sumika_engine_answers")) for name, _ in told)
    assert not any("adapter" in dict(labels) or "model_name" in dict(labels) for _, labels in told)


def test_a_thousand_made_up_names_make_no_new_line(stack: Stack) -> None:
    lines = len(figures(stack))
    with stack.client() as client:
        for number in range(1_000):
            assert client.post("/v1/chat/completions", json=CHAT | {"model": f"none-{number}"}).status_code == 404
    assert len(figures(stack)) <= lines + 20


@pytest.mark.parametrize("path", ["/metrics", "/metrics/engines"])
def test_figures_are_for_keys_that_may(stack: Stack, path: str) -> None:
    secret, _ = stack.new_key()
    watcher, _ = stack.new_key(role="admin", endpoints=["metrics", "models"])
    url = f"{stack.url}{path}"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"authorization": f"Bearer {secret}"}).status_code == 403
    assert httpx.get(url, headers={"authorization": f"Bearer {watcher}"}).status_code == 200
