"""Everything that /openapi.json names, asked for as it says and a little otherwise: each answer is one that it names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.conftest import House
from tests.fuzz.from_schema import Document
from tests.fuzz.judge import check, check_envelope
from tests.fuzz.runs import share, tried
from tests.fuzz.values import written

# Each starts a process of its own, which reads tokenizers and data: a few are enough.
COSTLY = {"/admin/v1/jobs", "/admin/v1/jobs/check"}
STRAY = {"content_type": "application/json"}


@pytest.fixture(scope="module")
def document(house: House) -> Document:
    told = json.loads(house.client.ask("GET", "/openapi.json").body)
    for path in COSTLY:
        told["paths"][path].pop("post")
    return Document(told)


def test_every_operation_answers_as_documented(house: House, document: Document) -> None:
    operations = document.operations()
    reached: set[tuple[str, str]] = set()

    @st.composite
    def cases(draw: st.DrawFn) -> tuple[str, str, dict[str, Any], str, Any]:
        method, path, told = draw(st.sampled_from(operations))
        body = document.body(told)
        return method, path, dict(told), draw(document.target(path, told)), draw(body) if body is not None else None

    def ask(case: tuple[str, str, dict[str, Any], str, Any]) -> None:
        method, path, told, target, body = case
        data = written(body).encode() if body is not None else None
        answer = house.client.ask(method, target, data, **(STRAY if data is not None else {}))
        reached.add((method, path))
        if any(escaped in target.partition("?")[0] for escaped in ("%2F", "%5C")):
            assert answer.status == 400  # by the protocol, before there is a request to number
            check_envelope(answer.body)
        else:
            check(answer, frozenset(int(status) for status in told["responses"]) - {500})

    tried(cases(), share(0.05), ask)
    with house.flat():
        tried(cases(), share(0.3), ask)
    assert len(reached) > len(operations) * 0.9


@pytest.mark.parametrize(
    "config", ["", "a: [", "!!python/object/apply:os.system ['x']", "base: talk\ndata: /etc/passwd", "a: &a [*a, *a]", "\x00"]
)
def test_job_that_is_none_is_refused(house: House, config: str) -> None:
    told = house.client.ask("POST", "/admin/v1/jobs/check", json.dumps({"config": config}).encode(), **STRAY)
    check(told, frozenset({200, 400, 404}))
