"""How many different grammars an owner may have made, and what of a request is one."""

from __future__ import annotations

import json
from itertools import islice, permutations
from typing import Any

import pytest

from sumika.models.errors import SumikaError
from sumika.serving.limiting import grammars
from sumika.serving.limiting.grammars import MOST, GrammarBudget
from sumika.serving.requests import ChatRequest, MessagesRequest, ResponsesRequest, parse

PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
OTHER = {"type": "object", "properties": {"b": {"type": "string"}}}
ANSWER = {"type": "object", "properties": {"c": {"type": "string"}}}
USER = {"role": "user", "content": "x"}


class Clock:
    now = 60_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(grammars, "time", made)
    return made


def test_budget_is_of_different_ones_by_owner_and_minute(clock: Clock) -> None:
    budget = GrammarBudget()
    for number in range(MOST):
        budget.take("team:a", [{"const": number}])
    clock.now += 20
    budget.take("team:a", [{"const": 5}])
    budget.take("team:a", None)
    budget.take("team:b", [{"const": MOST}])
    for _ in range(3):
        with pytest.raises(SumikaError) as told:
            budget.take("team:a", [{"const": MOST}])
    assert (told.value.status, told.value.code, told.value.retry_after) == (429, "rate_limit_exceeded", 40)
    clock.now += 40
    budget.take("team:a", [{"const": MOST}])


def test_another_order_of_properties_is_another_grammar() -> None:
    budget, orders = GrammarBudget(), permutations("abcdef")
    with pytest.raises(SumikaError, match="different JSON schemas"):
        for order in islice(orders, 2 * MOST + 1):  # the minute may end meanwhile
            budget.take("team:a", [{"properties": dict.fromkeys(order, True)}])


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "parameters": parameters}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None), ({"response_format": {"type": "json_object"}}, None),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": ANSWER}}}, [ANSWER]),
        ({"tools": "both", "tool_choice": "auto"}, None), ({"tools": "both", "tool_choice": "required"}, [{"f": PARAMETERS}, {"g": OTHER}]),
        ({"tools": "both", "tool_choice": {"type": "function", "function": {"name": "g"}}}, [{"g": OTHER}]),
    ],
    ids=str,
)  # fmt: skip
def test_of_a_chat(fields: dict[str, Any], grammar: Any) -> None:
    both = [{"type": "function", "function": tool("f", PARAMETERS)}, {"type": "function", "function": tool("g", OTHER)}]
    body = {"model": "m", "messages": [USER]} | fields | ({"tools": both} if "tools" in fields else {})
    assert parse(ChatRequest, json.dumps(body).encode()).grammar == grammar


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None), ({"text": {"format": {"type": "json_schema", "name": "x", "schema": ANSWER}}}, [ANSWER]),
        ({"tool_choice": "required"}, [{"f": PARAMETERS}, {"g": OTHER}]), ({"tool_choice": {"type": "function", "name": "g"}}, [{"g": OTHER}]),
    ],
    ids=str,
)  # fmt: skip
def test_of_a_response(fields: dict[str, Any], grammar: Any) -> None:
    tools = [{"type": "function"} | tool("f", PARAMETERS), {"type": "function"} | tool("g", OTHER)]
    body = {"model": "m", "input": "x", "tools": tools} | fields
    assert parse(ResponsesRequest, json.dumps(body).encode()).grammar == grammar


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None), ({"output_config": {"format": {"type": "json_schema", "schema": ANSWER}}}, [ANSWER]),
        ({"tool_choice": {"type": "any"}}, [{"f": PARAMETERS}, {"g": OTHER}]), ({"tool_choice": {"type": "tool", "name": "g"}}, [{"g": OTHER}]),
        ({"tool_choice": {"type": "auto"}}, None),
    ],
    ids=str,
)  # fmt: skip
def test_of_anthropics_messages(fields: dict[str, Any], grammar: Any) -> None:
    tools = [{"name": "f", "input_schema": PARAMETERS}, {"name": "g", "input_schema": OTHER}]
    body = {"model": "m", "max_tokens": 5, "messages": [USER], "tools": tools} | fields
    assert parse(MessagesRequest, json.dumps(body).encode()).grammar == grammar
