"""The OpenAPI document names what there is and nothing else, and its examples can be sent as they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sumika.models.home import Home
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import openapi
from sumika.serving.access import TABLE, at_console
from sumika.serving.app import create_app
from sumika.serving.examples import EXAMPLES
from sumika.serving.operations import OPERATIONS
from sumika.serving.requests import parse
from tests import fake_answers, fake_apis

METHODS = {"get", "post", "put", "delete", "patch"}
JAPANESE = re.compile("[ぁ-んァ-ン一-龥]")


@pytest.fixture
def document(store: Store, home: Home) -> dict[str, Any]:
    return openapi.document(create_app(Settings(home=home.root), store))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_document_has_every_route_and_no_other(document: dict[str, Any]) -> None:
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == {(rule.method, rule.path) for rule in TABLE if not at_console(rule.path)}
    assert all(set(methods) <= METHODS for methods in document["paths"].values())


def test_document_says_who_needs_which_key(document: dict[str, Any]) -> None:
    for rule in (rule for rule in TABLE if not at_console(rule.path)):
        security = document["paths"][rule.path][rule.method.lower()]["security"]
        assert bool(security) == (rule.endpoint is not None), rule.path
    assert {"bare_key": []} in document["paths"]["/v1/messages"]["post"]["security"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known
    assert document["openapi"].startswith("3.1") and json.loads(json.dumps(document)) == document


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_body_in_the_document_is_what_the_endpoint_takes(document: dict[str, Any], operation: Any) -> None:
    described = document["paths"][operation.path]["post"]["requestBody"]["content"]["application/json"]
    schema = document["components"]["schemas"][described["schema"]["$ref"].rpartition("/")[2]]
    fields = {field.alias or name: field for name, field in operation.kind.model_fields.items()}
    assert set(schema["properties"]) == set(fields) and schema["additionalProperties"] is False
    assert set(schema["required"]) == {name for name, field in fields.items() if field.is_required()}
    rule = next(rule for rule in TABLE if rule.path == operation.path)
    assert set(rule.fields) == set(fields)


def test_examples_are_taken_as_they_stand_and_are_in_japanese(document: dict[str, Any]) -> None:
    assert set(EXAMPLES) == {operation.path for operation in OPERATIONS}
    for operation in OPERATIONS:
        shown = document["paths"][operation.path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert shown
        for name, example in shown.items():
            assert JAPANESE.search(name)
            parse(operation.kind, json.dumps(example["value"]).encode())
        assert JAPANESE.search(document["paths"][operation.path]["post"]["summary"])


def test_answers_of_an_engine_fit_the_document() -> None:
    body = {"model": "m@1", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x", "query": "x", "documents": ["y"],
            "tokens": [1], "max_tokens": 5}  # fmt: skip
    made: dict[str, Any] = {
        "/v1/chat/completions": fake_answers.chat(body, ["a"]), "/v1/completions": fake_answers.completion(body, ["a"]),
        "/v1/embeddings": fake_apis.embeddings(body), "/v1/rerank": fake_apis.rerank(body), "/v1/tokenize": fake_apis.tokenize(body),
        "/v1/detokenize": fake_apis.detokenize(body), "/v1/responses": fake_apis.response(body, ["a"]),
        "/v1/messages": fake_apis.message(body, ["a"]), "/v1/messages/count_tokens": fake_apis.count_tokens(body),
    }  # fmt: skip
    assert set(made) == set(EXAMPLES)
    for path, answer in made.items():
        EXAMPLES[path].answer.model_validate(answer)
