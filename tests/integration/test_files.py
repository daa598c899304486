"""`/v1/files` by the `openai` client, and by clients that mean no good."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sumika.models import teams
from tests.integration.conftest import Stack, finish, start, until

ROWS = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}\n'
LARGEST = 3 * 2**20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start(
        tmp_path_factory.mktemp("files"), SUMIKA_GATEWAY__MAX_FILE_BYTES=str(LARGEST), SUMIKA_GATEWAY__BODY_TIMEOUT_S="3"
    )
    yield started
    finish(started)


@pytest.fixture(scope="module")
def team_keys(stack: Stack) -> dict[str, str]:
    with stack.store.write() as connection:
        for name in ("soumu", "eigyo"):
            teams.create(connection, name, name)
    return {name: stack.new_key(team=name)[0] for name in ("soumu", "eigyo")} | {"soumu-2": stack.new_key(team="soumu")[0]}


@pytest.fixture
def client(stack: Stack, team_keys: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=team_keys["soumu"], max_retries=0) as made:
        yield made


def shelf(stack: Stack) -> list[Path]:
    """Everything that lies where files lie."""
    return sorted(path for path in stack.settings.layout.files.rglob("*") if path.is_file())


def form(*parts: tuple[str, str | None, bytes], boundary: str = "xyz", end: bool = True) -> bytes:
    body = b""
    for name, filename, data in parts:
        label = f'; filename="{filename}"' if filename is not None else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{label}\r\n\r\n'.encode() + data + b"\r\n"
    return body + (f"--{boundary}--\r\n".encode() if end else b"")


def post(stack: Stack, key: str, body: Any, kind: str = "multipart/form-data; boundary=xyz", **headers: str) -> httpx.Response:
    with stack.client(key) as client:
        return client.post("/v1/files", content=body, headers={"content-type": kind} | headers)


def test_file_lives_as_the_client_expects(client: openai.OpenAI, stack: Stack) -> None:
    made = client.files.create(
        file=("依頼.jsonl", ROWS), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (made.bytes, made.filename, made.purpose, made.status) == (len(ROWS), "依頼.jsonl", "batch", "processed")
    assert made.expires_at == made.created_at + 7200
    assert client.files.retrieve(made.id) == made and client.files.wait_for_processing(made.id) == made
    assert client.files.content(made.id).read() == ROWS
    (path,) = [one for one in shelf(stack) if made.id in one.name]
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert client.files.delete(made.id).deleted and not path.exists()
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_list_is_paged_filtered_and_ordered(client: openai.OpenAI) -> None:
    ids = [client.files.create(file=(f"{n}.jsonl", ROWS), purpose="fine-tune").id for n in range(5)]
    assert [file.id for file in client.files.list(purpose="fine-tune", limit=2)] == ids[::-1]
    assert [file.id for file in client.files.list(purpose="fine-tune", limit=3, order="asc")] == ids
    assert client.files.list(purpose="fine-tune").data[0].expires_at is None
    assert ids[0] not in [file.id for file in client.files.list(purpose="batch")]
    for file_id in ids:
        client.files.delete(file_id)
    with pytest.raises(openai.NotFoundError):
        client.files.list(after=ids[0])


def test_file_is_the_teams_and_the_administrators_alone(client: openai.OpenAI, stack: Stack, team_keys: dict[str, str]) -> None:
    made = client.files.create(file=("a.jsonl", ROWS), purpose="batch")
    assert stack.client(team_keys["soumu-2"]).get(f"/v1/files/{made.id}/content").content == ROWS
    with stack.client(team_keys["eigyo"]) as other:
        answers = [
            other.get(f"/v1/files/{made.id}"), other.get(f"/v1/files/{made.id}/content"), other.delete(f"/v1/files/{made.id}"),
            other.get(f"/v1/files?after={made.id}"),
        ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [404] * 4
        assert {answer.json()["error"]["code"] for answer in answers} == {"not_found"}
        assert made.id not in other.get("/v1/files").text
    with stack.client() as admin:
        assert made.id in admin.get("/v1/files").text
        assert admin.delete(f"/v1/files/{made.id}").json()["deleted"], "and the administrators'"


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty_file", ""), (b" \n\r\n", "empty_file", ""), (b"\xef\xbb\xbf", "empty_file", ""),
        (b'{"a": 1}\n' + '{"a": "日本語"}\n'.encode("cp932"), "not_utf8", "Line 2"),
        ('{"a": "日本"}\n'.encode("utf-16"), "not_utf8", "UTF-16"),
        (b'{"a": "\xe3\x81', "not_utf8", "Line 1"), (b'{"a": 1}\n{"a": "\0"}\n', "not_utf8", "Line 2"),
    ],
    ids=range(7),
)  # fmt: skip
def test_contents_that_are_no_jsonl_are_refused_and_leave_nothing(
    client: openai.OpenAI, stack: Stack, content: bytes, code: str, line: str
) -> None:
    before = shelf(stack)
    with pytest.raises(openai.BadRequestError) as told:
        client.files.create(file=("x.jsonl", content), purpose="batch")
    assert told.value.code == code and line in told.value.message
    assert shelf(stack) == before


@pytest.mark.parametrize("content", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}\n', b'{"a": 1}\r\n{"b": 2}\r\n', '{"a": "𠮷"}'.encode()])
def test_contents_that_are_well_enough_are_kept_byte_for_byte(client: openai.OpenAI, content: bytes) -> None:
    made = client.files.create(file=("x.jsonl", content), purpose="batch")
    assert client.files.content(made.id).read() == content
    client.files.delete(made.id)


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (form(("purpose", None, b"batch")), None, 400, "missing_field"),
        (form(("file", "a", ROWS)), None, 400, "missing_field"),
        (form(("purpose", None, b"batch"), ("file", "a", ROWS), ("file", "b", ROWS)), None, 400, "repeated_field"),
        (form(("purpose", None, b"batch"), ("purpose", None, b"batch"), ("file", "a", ROWS)), None, 400, "repeated_field"),
        (form(("purpose", None, b"assistants"), ("file", "a", ROWS)), None, 400, "bad_value"),
        (form(("purpose", None, b"batch_output"), ("file", "a", ROWS)), None, 400, "bad_value"),
        (form(("purpose", None, b"b" * 300), ("file", "a", ROWS)), None, 400, "bad_form"),
        (form(("purpose", None, b"batch"), ("path", None, b"/etc/passwd"), ("file", "a", ROWS)), None, 400, "unknown_field"),
        (form(*[(f"f{n}", None, b"x") for n in range(10_000)]), None, 400, "unknown_field"),
        (form(*[("file", "a", b"x") for n in range(10_000)]), None, 400, "repeated_field"),
        (form(("purpose", None, b"batch"), ("file", "a", ROWS), end=False), None, 400, "bad_form"),
        (form(("purpose", None, b"batch"), ("file", "a", ROWS), boundary="other"), None, 400, "bad_form"),
        (form(("purpose", None, b"batch"), ("expires_after[seconds]", None, b"7200"), ("file", "a", ROWS)), None, 400, "bad_value"),
        (form(("purpose", None, b"batch"), ("expires_after[anchor]", None, b"created_at"), ("expires_after[seconds]", None, b"1"),
              ("file", "a", ROWS)), None, 400, "bad_value"),
        (b"", None, 400, "bad_form"),
        (b"--xyz", None, 400, "bad_form"),
        (b"\0" * 5000, None, 400, "bad_form"),
        (b"--xyz\r\n" + b"A: b\r\n" * 100 + b"\r\n", None, 400, "bad_form"),
        (b"--xyz\r\nContent-Disposition: form-data; name=\"" + b"n" * 9000, None, 400, "bad_form"),
        (b'--xyz\r\nContent-Disposition: form-data; name="file"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--xyz--', None, 400, "bad_form"),
        (ROWS, "application/json", 415, "unsupported_type"),
        (ROWS, "application/x-www-form-urlencoded", 415, "unsupported_type"),
        (ROWS, "multipart/mixed; boundary=xyz", 415, "unsupported_type"),
        (ROWS, "multipart/form-data", 400, "bad_form"),
        (ROWS, "multipart/form-data; boundary=" + "b" * 200, 400, "bad_form"),
    ],
    ids=range(25),
)  # fmt: skip
def test_form_that_is_none_is_refused_and_leaves_nothing(
    stack: Stack, team_keys: dict[str, str], body: bytes, kind: str | None, status: int, code: str
) -> None:
    before = shelf(stack)
    answer = post(stack, team_keys["soumu"], body, kind or "multipart/form-data; boundary=xyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert shelf(stack) == before


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..\\..\\x", "/etc/passwd", "C:\\x.jsonl", "a\x00b", "a%00b", "名前" * 300, "", ".", "a\tb"], ids=range(10)
)  # fmt: skip
def test_clients_name_is_a_label_and_no_path(stack: Stack, team_keys: dict[str, str], name: str) -> None:
    before = shelf(stack)
    answer = post(stack, team_keys["soumu"], form(("purpose", None, b"batch"), ("file", name, ROWS)))
    made = answer.json()
    assert answer.status_code == 200, answer.text
    assert len(made["filename"]) <= 255 and made["filename"].isprintable() and not set(made["filename"][:-2]) & {"/"}
    (fresh,) = set(shelf(stack)) - set(before)
    assert fresh == stack.settings.layout.files / f"{made['id']}.jsonl"
    with stack.client(team_keys["soumu"]) as client:
        told = client.get(f"/v1/files/{made['id']}/content").headers["content-disposition"]
        assert told == f'attachment; filename="{made["id"]}.jsonl"'
        client.delete(f"/v1/files/{made['id']}")


def test_header_injection_in_a_part_is_no_file(stack: Stack, team_keys: dict[str, str]) -> None:
    body = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a\r\nX: y"\r\n\r\n' + ROWS + b"\r\n--xyz--\r\n"
    assert post(stack, team_keys["soumu"], body).status_code == 400


def test_too_large_is_told_before_reading_where_the_length_is_and_in_time_where_not(
    stack: Stack, team_keys: dict[str, str]
) -> None:
    before, key = shelf(stack), team_keys["soumu"]
    with socket.create_connection((stack.settings.host, stack.settings.port)) as declared:
        declared.settimeout(10)
        declared.sendall(_head(key, 10**12))
        told = declared.recv(4096)
    assert told.startswith(b"HTTP/1.1 413") and b"file_too_large" in told
    begun = (
        form(("purpose", None, b"batch"), end=False)
        + b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection((stack.settings.host, stack.settings.port)) as endless:
        endless.sendall(_head(key, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        sent = 0
        while not select.select([endless], [], [], 0)[0]:
            piece = begun + ROWS * 500 if not sent else ROWS * 500
            endless.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
        assert endless.recv(4096).startswith(b"HTTP/1.1 413") and sent < 4 * LARGEST
    until(lambda: shelf(stack) == before, what="nothing is left")


def test_line_of_ten_megabytes_counts_as_any_other_size(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as told:
        client.files.create(file=("x.jsonl", b'{"a": "' + b"x" * 10 * 2**20 + b'"}'), purpose="batch")
    assert told.value.status_code == 413


def test_client_that_leaves_or_dawdles_leaves_nothing(stack: Stack, team_keys: dict[str, str]) -> None:
    before = shelf(stack)
    head = _head(team_keys["soumu"], 1_000_000)
    begun = form(("purpose", None, b"batch"), ("file", "a", ROWS * 3000), end=False)
    with socket.create_connection((stack.settings.host, stack.settings.port)) as gone:
        gone.sendall(head + begun[:300_000])
        until(lambda: shelf(stack) != before, what="it has begun")
    until(lambda: shelf(stack) == before, what="nothing is left of who left")
    with socket.create_connection((stack.settings.host, stack.settings.port)) as slow:
        slow.settimeout(30)
        slow.sendall(head + begun[:100])
        began = time.monotonic()
        assert b"408" in slow.recv(4096).split(b"\r\n")[0]
        assert time.monotonic() - began < 10
    assert shelf(stack) == before


def _head(key: str, length: int) -> bytes:
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_unknown_fields_of_query_and_scope_are_refused(stack: Stack, team_keys: dict[str, str]) -> None:
    with stack.client(team_keys["soumu"]) as client:
        for query, code in (("x=1", "unknown_field"), ("limit=0", "invalid_request"), ("limit=1&limit=2", "invalid_request"),
                            ("purpose=any", "invalid_request"), ("order=up", "invalid_request")):  # fmt: skip
            answer = client.get(f"/v1/files?{query}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), query
        for path in ("/v1/files/file-1%00", "/v1/files/../x", "/v1/files/" + "a" * 5000):
            assert client.get(path).status_code == 404, path
        assert client.get("/v1/files/..%2f..%2fetc%2fpasswd").status_code == 400
    narrow, _ = stack.new_key(endpoints=["models"])
    assert post(stack, narrow, form(("purpose", None, b"batch"), ("file", "a", ROWS))).json()["error"]["code"] == "forbidden"


def test_what_is_stored_is_bounded_and_a_full_disk_is_told(tmp_path: Path) -> None:
    stack = start(tmp_path, "gateway", SUMIKA_GATEWAY__MAX_STORED_BYTES=str(2000))
    try:
        with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as client:
            kept = client.files.create(file=("x.jsonl", ROWS * 15), purpose="batch")
            with pytest.raises(openai.APIStatusError) as told:
                client.files.create(file=("x.jsonl", ROWS * 15), purpose="batch")
            assert (told.value.status_code, told.value.code) == (413, "too_much_stored")
            client.files.delete(kept.id)
            assert client.files.create(file=("x.jsonl", ROWS * 15), purpose="batch").bytes == len(ROWS) * 15
            assert len(shelf(stack)) == 1
    finally:
        stack.stop()
        stack.store.close()


def test_nothing_of_a_file_stands_in_a_log_and_its_acts_in_the_audit_log(client: openai.OpenAI, stack: Stack) -> None:
    secret = "極秘の文言7391"
    made = client.files.create(file=(f"{secret}.jsonl", json.dumps({"a": secret}, ensure_ascii=False).encode()), purpose="batch")
    post(stack, stack.admin_key, form(("purpose", None, secret.encode()), ("file", "a", secret.encode() * 99), end=False))
    client.files.delete(made.id)
    assert secret not in stack.logs()
    with stack.store.read() as connection:
        rows = [
            tuple(row)
            for row in connection.exec_driver_sql("select action, object, outcome from audit where object = ?", (made.id,))
        ]
    assert rows == [("file.create", made.id, "done"), ("file.remove", made.id, "done")]
    assert os.listdir(stack.settings.layout.files / ".drafts") == []


def test_sixteen_slow_uploads_of_one_key_leave_others_alone(stack: Stack, team_keys: dict[str, str]) -> None:
    begun = form(("purpose", None, b"batch"), ("file", "a.jsonl", ROWS), end=False)
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {team_keys['soumu']}\r\ncontent-length: {len(begun) + 99}\r\n"
        "content-type: multipart/form-data; boundary=xyz\r\n\r\n"
    ).encode()
    with ExitStack() as links:
        slow = [links.enter_context(socket.create_connection((stack.settings.host, stack.settings.port))) for _ in range(16)]
        for link in slow:
            link.settimeout(30)
            link.sendall(head + begun[:50])
        until(lambda: sum(bool(select.select([link], [], [], 0)[0]) for link in slow) == 12, what="twelve are refused")
        for link in slow:
            if select.select([link], [], [], 0)[0]:
                told = link.recv(4096)
                assert told.startswith(b"HTTP/1.1 429 ") and b"too_many_uploads" in told
        whole = form(("purpose", None, b"batch"), ("file", "b.jsonl", ROWS))
        assert post(stack, team_keys["eigyo"], whole).status_code == 200
