"""Every combination of role, route and field, and that the table and the application know the same routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import BaseRoute, Route

from sumika.models.home import Home
from sumika.models.principals import ENDPOINTS, ROLES, Principal, Role, Scopes
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.access import TABLE, Rule, Table
from sumika.serving.app import create_app
from sumika.serving.gate import Gate

PLACES = {
    "{session_id}": "0123456789abcdef", "{alias}": "faq", "{key_id}": "k1", "{name}": "soumu", "{move_id}": "7", "{ref}": "faq@1", "{kind}": "team", "{job_id}": "3",
          "{act}": "rollback", "{file}": "console.css", "{file_id}": "file-1", "{batch_id}": "batch_1"}  # fmt: skip


class Knows:
    """Tokens that are a role's name, some with a scope of endpoints behind a colon."""

    async def identify(self, token: str) -> Principal | None:
        role, _, endpoint = token.partition(":")
        if role not in ROLES:
            return None
        scopes = Scopes(endpoints=frozenset({endpoint}) if endpoint else None)  # type: ignore[arg-type]
        return Principal("id", "name", role, "soumu", scopes)


class Nobody:
    async def identify(self, token: str) -> None:
        return None


async def everybodys(who: Principal, rule: Rule, path: str) -> None:
    """Whose the things are is `test_ownership.py`'s."""


async def ask(
    method: str,
    path: str,
    token: str = "",
    body: object = None,
    query: str = "",
    raw: bytes | None = None,
    kind: str = "application/json",
) -> tuple[int, str | None]:
    """Status and code of the gate's answer; 200 where the handler was reached, which then saw the whole body."""
    sent = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    seen = {}

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert message["body"] == sent
        seen["principal"] = scope["state"].get("principal")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sent, "more_body": False}

    answers: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        answers.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    headers.append((b"content-type", kind.encode()))
    scope = {
        "type": "http", "method": method, "path": path, "headers": headers, "state": {},
        "query_string": query.encode(),
    }  # fmt: skip
    gate = Gate(handler, Table(), [Knows()], Nobody(), None, everybodys, lambda status: None)
    await gate(scope, receive, send)
    told = json.loads(answers[1]["body"]).get("error", {})
    return answers[0]["status"], told.get("code")


def spelled(rule: Rule) -> str:
    path = rule.path
    for place, value in PLACES.items():
        path = path.replace(place, value)
    assert "{" not in path, "give the new place a value in PLACES"
    return path


def routes_of(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        assert isinstance(route, Route), f"{route} has no row in the table's kind"
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, route.path


def test_every_route_of_the_application_has_a_row_and_every_row_a_route(store: Store, home: Home) -> None:
    app = create_app(Settings(home=home.root), store)
    assert set(routes_of(app.router.routes)) == {(rule.method, rule.path) for rule in TABLE}


@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: f"{rule.method} {rule.path}")
async def test_route_by_role(rule: Rule) -> None:
    for role in (None, "stranger", *ROLES):
        status, code = await ask(rule.method, spelled(rule), role or "")
        if rule.endpoint is None or role in rule.roles:
            assert (status, code) == (200, None), role
        else:
            assert (status, code) == ((403, "forbidden") if role in ROLES else (401, "invalid_api_key")), role


@pytest.mark.parametrize("rule", [rule for rule in TABLE if rule.endpoint], ids=lambda rule: f"{rule.method} {rule.path}")
async def test_route_by_scope(rule: Rule) -> None:
    for role in rule.roles:
        for endpoint in ENDPOINTS:
            status, code = await ask(rule.method, spelled(rule), f"{role}:{endpoint}")
            assert (status, code) == ((200, None) if endpoint == rule.endpoint else (403, "forbidden")), endpoint


@pytest.mark.parametrize("rule", [rule for rule in TABLE if rule.looks_inside], ids=lambda rule: f"{rule.method} {rule.path}")
async def test_field_by_role(rule: Rule) -> None:
    in_query = rule.method == "GET"
    for role in rule.roles:
        for name in (*rule.fields, "role", "user_role", "id", "__class__", "Name"):
            given: dict[str, Any] = {"query": f"{name}=1"} if in_query else {"body": {name: 1}}
            if rule.form:
                given = {"raw": f"{name}=1".encode(), "kind": "application/x-www-form-urlencoded"}
            status, code = await ask(rule.method, spelled(rule), role, **given)
            if name not in rule.fields:
                assert (status, code) == (400, "unknown_field"), name
            elif role not in rule.fields[name]:
                assert (status, code) == (403, "field_forbidden"), name
            else:
                assert (status, code) == (200, None), name


def test_what_the_table_must_say() -> None:
    """By hand, so that a slip in the table shows."""
    rules = {(rule.method, rule.path): rule for rule in TABLE}
    assert all(not rule.roles & {"app"} for rule in TABLE if rule.administers and not rule.path.endswith("/me"))
    assert rules["POST", "/admin/v1/keys"].fields["role"] == {"admin"}
    assert rules["POST", "/admin/v1/aliases/{alias}/deploy"].fields["override"] == {"admin"}
    assert rules["GET", "/metrics"].roles == rules["POST", "/admin/v1/teams"].roles == {"admin"}
    assert {rule.path for rule in TABLE if rule.endpoint is None} == {
        "/health/live", "/health/ready", "/auth/login", "/auth/callback", "/auth/logout", "/console/sign-in", "/console/static/{file}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin/v1/keys/", 404), ("GET", "//admin/v1/keys", 404), ("GET", "/admin/v1/../v1/keys", 404), ("GET", "/Admin/v1/keys", 404),
        ("GET", "/admin/v1/keys/a/b", 404), ("HEAD", "/admin/v1/keys", 405), ("OPTIONS", "/admin/v1/keys", 405), ("PUT", "/admin/v1/keys", 405),
        ("POST", "/v1/load_lora_adapter", 404), ("POST", "/invocations", 404), ("GET", "/docs", 404), ("GET", "", 404),
    ],
)  # fmt: skip
async def test_path_without_a_row_is_not_there_for_anybody(method: str, path: str, status: int) -> None:
    assert (await ask(method, path, "admin"))[0] == status


@pytest.mark.parametrize(
    "raw", [b"[]", b"null", b"1", b'"x"', b'{"name":"a","name":"b"}', b"{", b"\xff", b'{"name":"\\ud800"}', b"x" * 70_000], ids=range(9)
)  # fmt: skip
async def test_body_that_is_no_object_is_refused_before_the_handler(raw: bytes) -> None:
    status, _ = await ask("POST", "/admin/v1/teams", "admin", raw=raw)
    assert status in (400, 413)


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=1&%6cimit=2", "team=a&team="])
async def test_field_of_the_query_given_twice_is_refused(query: str) -> None:
    assert await ask("GET", "/admin/v1/keys", "admin", query=query) == (400, "invalid_request")


@pytest.mark.parametrize("role", ROLES)
async def test_role_is_never_read_from_what_is_sent(role: Role) -> None:
    status, code = await ask("POST", "/admin/v1/teams", "app", {"name": "x", "role": role, "user_role": role})
    assert (status, code) == (403, "forbidden")
