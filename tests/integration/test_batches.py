"""`/v1/batches` by the `openai` client on a real stack: what comes back, what is refused, and what a kill, a revoked key, a
cancellation and a lack of room make of it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import select

from sumika.models import batches, clock, keys, limits, schema, teams
from tests.integration.conftest import Stack, start, until

CHAT = "/v1/chat/completions"


def request(custom_id: str, text: str = "こんにちは", url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"model": "faq", "messages": [{"role": "user", "content": text}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked}


def jsonl(*rows: Any) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows).encode()


class Client(openai.OpenAI):
    def batch(self, content: bytes, endpoint: Any = CHAT, **more: Any) -> openai.types.Batch:
        file = self.files.create(file=("in.jsonl", content), purpose="batch")
        return self.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)

    def ended(self, batch: openai.types.Batch, within: float = 60) -> openai.types.Batch:
        over = ("completed", "failed", "expired", "cancelled")
        found: openai.types.Batch = until(
            lambda: now if (now := self.batches.retrieve(batch.id)).status in over else None,
            within=within,
            what=f"{batch.id} ends",
        )
        return found

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        return [json.loads(line) for line in self.files.content(file_id).read().decode().split("\n")[:-1]]


def of(stack: Stack, key: str | None = None) -> Client:
    return Client(base_url=f"{stack.url}/v1", api_key=key or stack.admin_key, max_retries=0)


@pytest.fixture(scope="module", autouse=True)
def alias(stack: Stack) -> None:
    stack.deploy("faq", stack.base())


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with of(stack) as made:
        yield made
    stack.script()


def usage(stack: Stack, key_id: str | None = None) -> list[Any]:
    """Rows of usage that are in the table by now."""
    asked = select(schema.usage)
    with stack.store.read() as connection:
        return list(connection.execute(asked if key_id is None else asked.where(schema.usage.c.key == key_id)))


def test_batch_answers_each_line_and_tells_errors_apart(client: Client, stack: Stack) -> None:
    rows = [request(f"質問-{n}", f"問{n}") for n in range(20)]
    rows[7]["body"]["model"] = "no-such-model"
    rows[11]["body"]["temperature"] = 9
    made = client.batch(jsonl(*rows), metadata={"部署": "総務"}, output_expires_after={"anchor": "created_at", "seconds": 3600})
    assert made.status == "validating" and made.expires_at == made.created_at + 24 * 3600
    ended = client.ended(made)
    assert ended.status == "completed" and ended.completed_at and ended.in_progress_at and ended.finalizing_at
    assert ended.request_counts and ended.request_counts.model_dump() == {"completed": 18, "failed": 2, "total": 20}
    assert ended.metadata == {"部署": "総務"} and ended.usage and ended.usage.output_tokens == 18 * 3
    answers, errors = client.lines(ended.output_file_id), client.lines(ended.error_file_id)
    assert [line["custom_id"] for line in answers] == [f"質問-{n}" for n in range(20) if n not in (7, 11)]
    for line in answers:
        assert line["error"] is None and line["response"]["status_code"] == 200 and line["id"].startswith("batch_req_")
        assert line["response"]["body"]["choices"][0]["message"]["content"].startswith("base@1 ")
    assert [(line["custom_id"], line["response"]["status_code"], line["response"]["body"]["error"]["code"]) for line in errors] == [
        ("質問-7", 404, "model_not_found"), ("質問-11", 400, "invalid_request"),
    ]  # fmt: skip
    file = client.files.retrieve(str(ended.output_file_id))
    assert file.purpose == "batch_output" and file.expires_at and file.expires_at - file.created_at == 3600
    assert not list((stack.settings.layout.batches).iterdir())
    told = {line["response"]["request_id"] for line in (*answers, *errors)}
    until(lambda: told <= {row.request for row in usage(stack)}, what="every request is counted")
    assert len(told) == 20


def test_completions_are_an_endpoint_too_and_the_list_is_paged(client: Client) -> None:
    body = {"model": "faq", "prompt": "日本の首都は"}
    row = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": body}
    ids = [client.batch(jsonl(row), "/v1/completions").id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=2)][:3] == ids[::-1]
    ended = client.ended(client.batches.retrieve(ids[0]))
    assert (
        client.lines(ended.output_file_id)[0]["response"]["body"]["object"] == "text_completion" and ended.error_file_id is None
    )


def test_embeddings_are_an_endpoint_too(client: Client, stack: Stack) -> None:
    stack.deploy("ruri", stack.base("ruri-base", seed=2, meta={"task": "embedding", "pooling": "mean"}))
    rows = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/embeddings", "body": {"model": "ruri", "input": [f"文書{n}"]}}
        for n in range(3)
    ]
    rows.append({"custom_id": "chat", "method": "POST", "url": "/v1/embeddings", "body": {"model": "faq", "input": "x"}})
    ended = client.ended(client.batch(jsonl(*rows), "/v1/embeddings"))
    assert [line["response"]["body"]["data"][0]["object"] for line in client.lines(ended.output_file_id)] == ["embedding"] * 3
    (error,) = client.lines(ended.error_file_id)
    assert (error["custom_id"], error["response"]["body"]["error"]["code"]) == ("chat", "wrong_endpoint")


def test_wrong_lines_fail_the_batch_with_their_numbers_and_ask_nothing(stack: Stack) -> None:
    good = request("1")
    rows: list[Any] = [
        good, "{", "[]", '"x"', "NaN", '{"custom_id": "a", "custom_id": "b"}', request("1"), good | {"custom_id": 7}, good | {"custom_id": ""},
        good | {"custom_id": "x" * 300}, good | {"custom_id": "m", "method": "GET"}, good | {"custom_id": "u", "url": "/v1/completions"},
        good | {"custom_id": "b", "body": "text"}, good | {"custom_id": "s", "body": good["body"] | {"stream": True}},
        {k: v for k, v in good.items() if k != "method"}, good | {"custom_id": "f", "extra": 1}, "[" * 10_000,
        '{"custom_id": "z", "method": "POST", "url": "/v1/chat/completions", "body": {"x": "\\ud800"}}', "", request("last"),
    ]  # fmt: skip
    secret, key_id = stack.new_key()
    with of(stack, secret) as fresh:
        ended = fresh.ended(fresh.batch(jsonl(*rows)))
    assert ended.status == "failed" and ended.failed_at and ended.output_file_id is None and ended.error_file_id is None
    assert ended.errors and ended.errors.data
    assert [(error.line, error.code) for error in ended.errors.data] == [
        (2, "invalid_json_line"), (3, "invalid_json_line"), (4, "invalid_json_line"), (5, "invalid_json_line"), (6, "invalid_json_line"),
        (7, "duplicate_custom_id"), (8, "invalid_request"), (9, "invalid_request"), (10, "invalid_request"), (11, "invalid_method"),
        (12, "invalid_url"), (13, "invalid_request"), (14, "stream_in_batch"), (15, "missing_required_parameter"), (16, "unknown_field"),
        (17, "invalid_json_line"), (18, "invalid_json_line"),
    ]  # fmt: skip
    time.sleep(2)  # by then a row would be in the table
    assert usage(stack, key_id) == []


def test_lines_without_a_last_end_with_a_mark_and_from_windows_are_lines(client: Client) -> None:
    content = b"\xef\xbb\xbf" + jsonl(request("1"), request("2")).replace(b"\n", b"\r\n") + jsonl(request("3")).rstrip(b"\n")
    ended = client.ended(client.batch(content))
    assert [line["custom_id"] for line in client.lines(ended.output_file_id)] == ["1", "2", "3"]


def test_too_many_lines_are_told(client: Client) -> None:
    row = json.dumps(request("#"))
    ended = client.ended(client.batch("".join(row.replace("#", str(n)) + "\n" for n in range(50_001)).encode()), within=120)
    assert ended.status == "failed" and ended.errors and ended.errors.data and ended.errors.data[0].code == "too_many_tasks"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"endpoint": "/v1/messages"}, 400, "invalid_request"), ({"endpoint": "/metrics"}, 400, "invalid_request"),
        ({"completion_window": "1h"}, 400, "invalid_request"), ({"input_file_id": "file-nope"}, 404, "not_found"),
        ({"input_file_id": "../x"}, 404, "not_found"), ({"x": 1}, 400, "unknown_field"), ({"metadata": {"a": 1}}, 400, "invalid_request"),
        ({"metadata": {str(n): "x" for n in range(17)}}, 400, "invalid_request"), ({"metadata": {"a": "x" * 600}}, 400, "invalid_request"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "invalid_request"),
    ],
    ids=range(10),
)  # fmt: skip
def test_batch_that_is_none_is_refused(client: Client, stack: Stack, body: dict[str, Any], status: int, code: str) -> None:
    file = client.files.create(file=("in.jsonl", jsonl(request("1"))), purpose="batch")
    with stack.client() as plain:
        asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | body
        answer = plain.post("/v1/batches", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_scope_purpose_and_owner_of_a_batch(client: Client, stack: Stack) -> None:
    narrow, _ = stack.new_key(endpoints=["batches", "files", "models"])
    with of(stack, narrow) as other:
        with pytest.raises(openai.PermissionDeniedError):
            other.batch(jsonl(request("1")))
        made = client.batch(jsonl(request("1")))
        for act in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                act(made.id)
        assert made.id not in [batch.id for batch in other.batches.list()]
    file = client.files.create(file=("in.jsonl", jsonl(request("1"))), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as told:
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert told.value.code == "wrong_purpose"


def test_cancelled_batch_keeps_what_is_done_and_ends_its_requests(client: Client, stack: Stack) -> None:
    stack.script(chunks=2, chunk_delay_s=0.4)
    made = client.batch(jsonl(*(request(str(n)) for n in range(200))))
    until(lambda: _done(client, made) > 20, what="some are done")
    with pytest.raises(openai.ConflictError) as told:
        client.files.delete(made.input_file_id)
    assert told.value.code == "file_in_use"
    assert client.batches.cancel(made.id).status == "cancelling"
    ended = client.ended(made, within=15)
    assert ended.status == "cancelled" and ended.cancelled_at and ended.cancelling_at
    answers, errors = client.lines(ended.output_file_id), client.lines(ended.error_file_id)
    assert len(answers) > 20 and len(answers) + len(errors) == 200
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"} and {line["response"] for line in errors} == {None}
    until(lambda: stack.running(stack.engine_of(stack.version("base@1"))) == 0, within=5, what="the engine works for it no more")
    assert client.files.delete(made.input_file_id).deleted
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(made.id)


def test_revoked_key_ends_its_batch(client: Client, stack: Stack) -> None:
    stack.script(chunks=2, chunk_delay_s=0.4)
    with stack.store.write() as connection:
        teams.create(connection, "soumu", "総務部")
    secret, key_id = stack.new_key(team="soumu")
    other, _ = stack.new_key(team="soumu")
    with of(stack, secret) as doomed:
        made = doomed.batch(jsonl(*(request(str(n)) for n in range(300))))
        until(lambda: _done(doomed, made) > 10, what="some are done")
    with stack.store.write() as connection:
        keys.revoke(connection, key_id)
    revoked = time.monotonic()
    with of(stack, other) as colleague:
        ended = colleague.ended(made, within=15)
        assert time.monotonic() - revoked < 10
        assert ended.status == "failed" and ended.errors and ended.errors.data and ended.errors.data[0].code == "key_ended"
        done = len(colleague.lines(ended.output_file_id))
        assert done + len(colleague.lines(ended.error_file_id)) == 300
    rows = until(lambda: rows if len(rows := usage(stack, key_id)) >= done else None)
    assert len(rows) < 300


def test_batch_over_its_time_ends_with_what_is_done(client: Client, stack: Stack) -> None:
    stack.script(chunks=2, chunk_delay_s=0.4)
    made = client.batch(jsonl(*(request(str(n)) for n in range(300))))
    until(lambda: _done(client, made) > 10, what="some are done")
    with stack.store.write() as connection:
        connection.exec_driver_sql("update batches set expires_at = ? where id = ?", (clock.now(), made.id))
    ended = client.ended(made, within=15)
    assert ended.status == "expired" and ended.expired_at
    assert {line["error"]["code"] for line in client.lines(ended.error_file_id)} == {"batch_expired"}
    assert len(client.lines(ended.output_file_id)) > 10


def test_batch_waits_for_room_under_its_keys_limit_and_counts_there(client: Client, stack: Stack) -> None:
    secret, key_id = stack.new_key()
    with stack.store.write() as connection:
        limits.set_limits(connection, ("key", key_id), {"streams": 2})
    time.sleep(0.2)
    stack.script(chunks=1, chunk_delay_s=0.1)
    with of(stack, secret) as limited:
        ended = limited.ended(limited.batch(jsonl(*(request(str(n)) for n in range(12)))), within=60)
    assert ended.status == "completed" and ended.request_counts and ended.request_counts.completed == 12
    until(lambda: sum(row.status == 200 for row in usage(stack, key_id)) == 12, what="all are counted")
    assert {row.status for row in usage(stack, key_id)} == {200, 429}


def test_used_up_budget_is_an_error_of_the_line(client: Client, stack: Stack) -> None:
    secret, key_id = stack.new_key()
    with stack.store.write() as connection:
        limits.set_limits(connection, ("key", key_id), {"tokens_per_month": 1})
    time.sleep(0.2)
    with of(stack, secret) as limited:
        ended = limited.ended(limited.batch(jsonl(request("1"), request("2"))))
        assert ended.status == "completed" and ended.output_file_id is None
        told = {line["response"]["body"]["error"]["code"] for line in limited.lines(ended.error_file_id)}
    assert told == {"insufficient_quota"}


def test_engine_that_dies_of_a_line_costs_one_more_try_and_no_other_line(own_stack: Stack) -> None:
    own_stack.deploy("faq", own_stack.base())
    engine = own_stack.engine_of(own_stack.version("base@1"))
    own_stack.script(chunks=2, chunk_delay_s=0.5)
    with of(own_stack) as client:
        made = client.batch(jsonl(*(request(str(n)) for n in range(60))))
        until(lambda: own_stack.running(engine) > 5, what="some are under way")
        os.kill(engine.pid or 0, signal.SIGKILL)
        ended = client.ended(made, within=90)
        assert ended.status == "completed"
        assert ended.error_file_id is None, client.lines(ended.error_file_id)
        assert [line["custom_id"] for line in client.lines(ended.output_file_id)] == [str(n) for n in range(60)]


def test_killed_gateway_goes_on_and_asks_no_finished_line_again(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("faq", stack.base())
    stack.script(chunks=2, chunk_delay_s=0.3)
    with of(stack) as client:
        made = client.batch(jsonl(*(request(f"行{n}") for n in range(150))))
        for least in (20, 60):
            until(lambda least=least: _done(client, made) >= least, within=60, what="some are done")
            pid = stack.role_pid("gateway")
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: _alive(stack) and stack.role_pid("gateway") != pid, within=60, what="another gateway")
        ended = client.ended(made, within=90)
        assert ended.status == "completed"
        assert ended.error_file_id is None, client.lines(ended.error_file_id)
        answers = client.lines(ended.output_file_id)
    assert [line["custom_id"] for line in answers] == [f"行{n}" for n in range(150)]
    told = {line["response"]["request_id"] for line in answers}
    assert len(told) == 150
    rows = until(lambda: rows if len(rows := [r for r in usage(stack) if r.status == 200]) >= 100 else None)
    # What was under way at a kill is asked again (32 at once at most), and so are rows of the last tenth of a second; nothing that was kept.
    assert len(rows) <= 150 + 2 * 32
    assert not list(stack.settings.layout.batches.iterdir())


def test_paused_worker_that_wakes_changes_nothing_any_more(own_stack: Stack, tmp_path: Path) -> None:
    stack = own_stack
    stack.deploy("faq", stack.base())
    stack.script(chunks=2, chunk_delay_s=0.3)
    with of(stack) as client:
        made = client.batch(jsonl(*(request(str(n)) for n in range(150))))
        until(lambda: _done(client, made) >= 20, within=60, what="some are done")
    other = start(tmp_path, "gateway")
    paused = stack.role_pid("gateway")
    for pid in (stack.process.pid, paused):  # its parent too, which would start it again
        os.kill(pid, signal.SIGSTOP)
    try:
        with of(other) as client:
            ended = client.ended(made, within=60)
            before = client.files.content(str(ended.output_file_id)).read()
            os.kill(paused, signal.SIGCONT)
            time.sleep(4)
            assert client.batches.retrieve(made.id) == ended and len(list(client.files.list(purpose="batch_output"))) == 1
            assert client.files.content(str(ended.output_file_id)).read() == before
            assert [json.loads(line)["custom_id"] for line in before.split(b"\n")[:-1]] == [str(n) for n in range(150)]
    finally:
        for pid in (paused, stack.process.pid):
            os.kill(pid, signal.SIGCONT)
        other.stop()
        other.store.close()


def _done(client: Client, batch: openai.types.Batch) -> int:
    counts = client.batches.retrieve(batch.id).request_counts
    return counts.completed if counts else 0


def _alive(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def test_nothing_of_a_batch_stands_in_logs_or_the_store(client: Client, stack: Stack) -> None:
    secret = "極秘の依頼8264"
    content = jsonl(request(f"id-{secret}", secret), request("2", secret) | {"method": secret})
    client.ended(client.batch(content))
    client.ended(client.batch(jsonl(request(f"id-{secret}", secret))))
    assert secret not in stack.logs()
    home: Path = stack.settings.layout.root
    for path in (home / "sumika.db", home / "sumika.db-wal"):
        assert secret.encode() not in path.read_bytes()
    for path in stack.settings.layout.files.glob("*.jsonl"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_acts_on_batches_stand_in_the_audit_log(client: Client, stack: Stack) -> None:
    ended = client.ended(client.batch(jsonl(request("1"))))
    with stack.store.read() as connection:
        rows = list(
            connection.exec_driver_sql("select action, actor, reason from audit where object = ? order by seq", (ended.id,))
        )
        admin = next(key.id for key in keys.list_all(connection) if key.role == "admin")
        assert batches.find(connection, ended.id).key == admin
    assert [tuple(row) for row in rows] == [("batch.create", admin, ""), ("batch.end", "system", "completed")]
