"""Keys, scopes and the admin API against running gateways."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from sumika.models import keys, teams
from tests.integration.conftest import Stack, finish, start, until
from tests.integration.test_audited import rows

CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", autouse=True)
def talk(stack: Stack) -> str:
    version = stack.base()
    stack.deploy("talk", version)
    stack.deploy("law", version)
    with stack.store.write() as connection:
        teams.create(connection, "soumu", "総務部")
        teams.create(connection, "eigyo", "営業部")
    return str(version.ref)


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


class Load:
    """Chats one after another with one key, and the moment and status of each."""

    def __init__(self, url: str, secret: str) -> None:
        self.answers: list[tuple[float, int]] = []
        self._url, self._secret = url, secret
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, headers={"authorization": f"Bearer {self._secret}"}, timeout=30) as client:
            while not self._stop.is_set():
                began = time.time()
                self.answers.append((began, client.post("/v1/chat/completions", json=CHAT).status_code))

    def end(self) -> list[tuple[float, int]]:
        self._stop.set()
        self._thread.join()
        return self.answers


def test_revoked_key_ends_within_a_second_on_every_gateway_under_load(tmp_path: Path) -> None:
    first = start(tmp_path)
    second = start(tmp_path, role="gateway")
    try:
        first.deploy("talk", first.base())
        until(lambda: second.served("talk") is not None, what="the second gateway knows the alias")
        secret, key_id = first.new_key()
        until(lambda: second.client(secret).get("/v1/models").status_code == 200, what="both know the key")
        loads = [Load(stack.url, secret) for stack in (first, second) for _ in range(3)]
        time.sleep(2)
        with first.store.write() as connection:
            keys.revoke(connection, key_id)
        revoked = time.time()
        time.sleep(2)
        for load in loads:
            answers = load.end()
            assert {status for began, status in answers if began > revoked + 1} == {401}
            before = [status for began, status in answers if began < revoked - 0.5]
            assert len(before) > 3 and set(before) == {200}
    finally:
        assert second.stop() == 0
        finish(first)


def test_answer_is_the_same_for_whatever_is_no_key(stack: Stack) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    revoked, revoked_id = stack.new_key()
    expired, _ = stack.new_key(expires_at=soon)
    with stack.store.write() as connection:
        keys.revoke(connection, revoked_id)
    until(lambda: stack.client(expired).get("/v1/models").status_code == 401, within=5, what="the key has expired")
    unknown, misspelt = keys._secret()[0], stack.admin_key[:-1] + "_"
    answers = [stack.client(secret).get("/v1/models") for secret in (revoked, expired, unknown, misspelt, "x")]
    until(lambda: stack.client(revoked).get("/v1/models").status_code == 401)
    assert len({(answer.status_code, answer.content) for answer in answers}) == 1 and answers[0].status_code == 401


def test_rotated_key_has_two_secrets_until_the_overlap_ends(stack: Stack) -> None:
    first, key_id = stack.new_key()
    with stack.client() as admin:
        answer = admin.post(f"/admin/v1/keys/{key_id}/rotate", json={"overlap_s": 2}).json()
    second = answer["key"]
    until(lambda: stack.client(second).get("/v1/models").status_code == 200, what="the new secret is known")
    assert stack.client(first).get("/v1/models").status_code == 200
    until(lambda: stack.client(first).get("/v1/models").status_code == 401, within=5, what="the old one has ended")
    assert stack.client(second).get("/v1/models").status_code == 200 and answer["id"] == key_id
    assert [row.object for row in rows(stack, action="key.rotate")] == [key_id]


def test_engineer_rules_the_apps_of_their_team_and_nothing_else(stack: Stack) -> None:
    engineer, engineer_id = stack.new_key(role="engineer", team="soumu", aliases=["talk"])
    _, foreign_id = stack.new_key(team="eigyo")
    with stack.client(engineer) as client:
        assert client.get("/admin/v1/me").json()["role"] == "engineer"
        made = client.post("/admin/v1/keys", json={"name": "bot", "team": "soumu", "aliases": ["talk"]})
        assert made.status_code == 201 and keys.well_formed(made.json()["key"])
        bot_id = made.json()["id"]
        assert [row["id"] for row in client.get("/admin/v1/keys").json()["data"]] == [bot_id]
        for wish, refused in (
            ({"role": "admin"}, "field_forbidden"), ({"team": "eigyo"}, "wider_than_creator"), ({"aliases": ["law"]}, "wider_than_creator"),
            ({"aliases": None}, "wider_than_creator"), ({"sensitivity": "confidential", "aliases": ["law"]}, "wider_than_creator"),
        ):  # fmt: skip
            given = {"name": "bot2", "team": "soumu", "aliases": ["talk"]} | wish
            assert code(client.post("/admin/v1/keys", json=given)) == (403, refused), wish
        for other in (foreign_id, engineer_id, "nothing", "' OR 1=1--"):
            assert code(client.get(f"/admin/v1/keys/{other}"))[0] == 404
            assert code(client.post(f"/admin/v1/keys/{other}/revoke"))[0] == 404
        assert code(client.get("/admin/v1/aliases/law")) == (404, "not_found")
        assert [row["alias"] for row in client.get("/admin/v1/aliases").json()["data"]] == ["talk"]
        assert code(client.post("/admin/v1/teams", json={"name": "mine"})) == (403, "forbidden")
        assert client.post(f"/admin/v1/keys/{bot_id}/revoke").json()["revoked_at"]
    refusals = [row for row in rows(stack, action="key.create") if row.outcome == "refused"]
    assert {"wider_than_creator"} <= {row.reason for row in refusals} and {row.actor for row in refusals} == {engineer_id}


def test_alias_is_moved_and_rolled_back_by_the_admin_api(stack: Stack, talk: str) -> None:
    base = stack.version(talk)
    first, second = (stack.adapter("api", base, seed=seed) for seed in (21, 22))
    with stack.client() as client:
        for version in (first, second):
            asked = client.post("/admin/v1/aliases/api/deploy", json={"version": str(version.ref), "reason": "試験"})
            assert asked.status_code == 202, asked.text
            move = asked.json()
            until(lambda: client.get(f"/admin/v1/moves/{move['id']}").json()["state"] == "done", what="the move")  # noqa: B023
        until(lambda: stack.served("api") == str(second.ref))
        rolled = client.post("/admin/v1/aliases/api/rollback", json={})
        until(lambda: stack.served("api") == str(first.ref))
        history = client.get("/admin/v1/moves", params={"alias": "api", "limit": 2}).json()
        assert history["data"][0]["id"] == rolled.json()["id"] and history["next"] is not None
        rest = client.get("/admin/v1/moves", params={"alias": "api", "after": history["next"]}).json()
        assert len(rest["data"]) == 1 and rest["next"] is None
        shown = client.get(f"/admin/v1/versions/{first.ref}").json()
        assert shown["digest"] == first.digest and shown["base"] == talk
        status = client.get("/admin/v1/status").json()
        assert {"alias": "api"}.items() <= next(
            a for a in status["aliases"] if a["alias"] == "api"
        ).items() and "socket" not in str(status)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/v1/keys", {"name": "Ａ"}), ("POST", "/admin/v1/keys", {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}),
        ("POST", "/admin/v1/keys", {"name": "x", "expires_at": 1}), ("POST", "/admin/v1/keys", {"name": "x", "expires_at": "2027-01-01"}),
        ("POST", "/admin/v1/keys", {"name": "x", "aliases": "talk"}), ("POST", "/admin/v1/keys", {"name": True}),
        ("POST", "/admin/v1/keys", {}), ("POST", "/admin/v1/teams", {"name": "a\u0000"}), ("POST", "/admin/v1/teams", {"name": "x" * 300}),
        ("GET", "/admin/v1/keys?limit=0", None), ("GET", "/admin/v1/keys?limit=1e3", None), ("GET", "/admin/v1/moves?after=-1", None),
        ("GET", "/admin/v1/moves?after=%27%20OR%201=1--", None), ("GET", "/admin/v1/versions?after=" + "9" * 40, None),
        ("GET", "/admin/v1/moves/99999999999999999999999", None), ("POST", "/admin/v1/aliases/talk/canary", {"version": "base@1", "share": 100}),
        ("GET", "/admin/v1/keys?team=%00", None), ("GET", "/admin/v1/versions/%00", None), ("DELETE", "/admin/v1/teams/%F0%9F%98%80", None),
    ],
)  # fmt: skip
def test_bad_input_is_told_and_changes_nothing(stack: Stack, method: str, path: str, body: Any) -> None:
    with stack.store.read() as connection:
        before = len(keys.list_all(connection)), len(teams.list_all(connection))
    with stack.client() as client:
        response = client.request(method, path, json=body) if body is not None else client.request(method, path)
    assert response.status_code in ((200, 400, 404) if method == "GET" else (400, 404)), response.text
    assert len(response.content) < 2_000
    with stack.store.read() as connection:
        assert (len(keys.list_all(connection)), len(teams.list_all(connection))) == before


def test_scope_of_endpoints_and_sensitivity_is_kept(stack: Stack) -> None:
    reader, _ = stack.new_key(endpoints=["models"])
    assert code(stack.client(reader).post("/v1/chat/completions", json=CHAT)) == (403, "forbidden")
    public, _ = stack.new_key(sensitivity="public")
    with stack.client(public) as client:
        assert code(client.post("/v1/chat/completions", json=CHAT)) == (403, "sensitivity_refused")
        for told, status in (("public", 200), ("confidential", 403), ("secret", 400), ("public, confidential", 400)):
            headers = {"x-sumika-sensitivity": told}
            assert client.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == status, told


def test_when_a_key_was_last_used_is_kept(own_stack: Stack) -> None:
    secret, key_id = own_stack.new_key()
    own_stack.client(secret).get("/v1/models")
    assert own_stack.stop() == 0
    with own_stack.store.read() as connection:
        used = keys.get(connection, key_id).last_used_at
    assert used is not None and datetime.now(UTC) - keys.clock.parse(used) < timedelta(minutes=1)
