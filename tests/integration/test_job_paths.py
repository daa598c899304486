"""What a training job that comes over the network may read: its sender's uploads and its team's folder, and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sumika.models import importing, teams
from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, start, until
from tests.unit import checkbench

TRAINING = [sys.executable, str(ROOT / "tests" / "fake_training.py")]
SECRET = "極秘の質問5150"
JOB = checkbench.JOB.replace("  name: job", "  name: quick")


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    work = tmp_path_factory.mktemp("paths")
    for name, rows in (
        ("dx/faq/train.jsonl", checkbench.TRAIN),
        ("dx/held.jsonl", checkbench.HELD),
        ("jinji/train.jsonl", checkbench.TRAIN),
    ):
        path = work / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jsonl(rows))
    (work / "outside.jsonl").write_bytes(jsonl(checkbench.TRAIN))
    (work / "data/dx/link.jsonl").symlink_to(work / "outside.jsonl")
    (work / "data/dx/to").symlink_to(work / "data/jinji")
    (work / "data/dx/in").symlink_to("faq")
    os.link(work / "outside.jsonl", work / "data/dx/hard.jsonl")
    os.mkfifo(work / "data/dx/fifo.jsonl")
    (work / "data/dx/headless.csv").write_text("9000000,sk-live-ABCDEF,山田太郎\n1,2,3\n")
    started = start(
        work, SUMIKA_FINETUNE__COMMAND=json.dumps(TRAINING), SUMIKA_FINETUNE__DATA_ROOT=str(work / "data"),
        SUMIKA_FINETUNE__TRACKING=json.dumps([{"name": "company", "url": "http://mlflow.example.co.jp:5000"}]),
    )  # fmt: skip
    importing.import_base(
        started.store, started.settings.layout, "tiny", checkbench._base(work / "tiny"), meta={"serve": {"max_model_len": 64}}
    )
    with started.store.write() as connection:
        for team in ("dx", "jinji"):
            teams.create(connection, team, team)
    yield started
    finish(started)


@pytest.fixture(scope="module")
def dx(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=180) as client:
        client.headers["authorization"] = f"Bearer {stack.new_key(role='engineer', team='dx')[0]}"
        yield client


@pytest.fixture(scope="module")
def jinji(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=180) as client:
        client.headers["authorization"] = f"Bearer {stack.new_key(role='engineer', team='jinji')[0]}"
        yield client


def upload(client: httpx.Client, content: bytes, name: str = "train.jsonl", purpose: str = "fine-tune") -> str:
    answer = client.post("/v1/files", files={"file": (name, content)}, data={"purpose": purpose})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def job(train: Any = "faq/train.jsonl", held: str = "held.jsonl", *changes: tuple[str, str]) -> str:
    text = JOB.replace("{folder}/train.jsonl", json.dumps(train)).replace("{folder}/held.jsonl", json.dumps(held))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def check(client: httpx.Client, config: str) -> httpx.Response:
    return client.post("/admin/v1/jobs/check", json={"config": config})


def test_only_what_is_the_senders_is_read_and_the_rest_is_not_there(dx: httpx.Client, jinji: httpx.Client, stack: Stack) -> None:
    theirs = upload(jinji, jsonl(checkbench.TRAIN))
    home = stack.settings.layout.root
    names = [
        theirs, "file-000000000000000000000000", f"{home}/files", f"{home}/files/{theirs}.jsonl", f"{home}/nothing.jsonl",
        str(stack.work / "outside.jsonl"), str(stack.work / "data/dx/faq/train.jsonl"), "/etc", "/", "../jinji/train.jsonl",
        "faq/../../jinji/train.jsonl", "nothing.jsonl", "to/train.jsonl", "link.jsonl", "hard.jsonl", "in/train.jsonl", "fifo.jsonl",
        "a\0b", "x" * 5000, "held.jsonl/x",
    ]  # fmt: skip
    answer = check(dx, job(names))
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    told = [line.split(".path: ") for line in message.split("\n")[1:]]
    assert len(told) == len(names) and len({why for _, why in told}) == 1, "the same, whether it is there or not"
    assert str(stack.work) not in message and "file-" not in message.replace("(file-…)", "")
    # Each key of the job that names a file is held to the same.
    assert "evaluate.held_out" in check(dx, job(held=theirs)).json()["error"]["message"]
    suite = f"  max_new_tokens: 8\n  suites: [{{name: a, path: {theirs}}}]"
    assert (
        "evaluate.suites"
        in check(dx, job("faq/train.jsonl", "held.jsonl", ("  max_new_tokens: 8", suite))).json()["error"]["message"]
    )
    assert not list(stack.settings.layout.runs.glob(".checking-*")), "nothing of a check is left"


def test_job_reads_uploads_and_the_teams_folder_and_no_path_comes_back(dx: httpx.Client, stack: Stack) -> None:
    table = "質問,回答\n" + "".join(f"q{n},a{n}\n" for n in (1, 2))
    for name, content in (("問合せ.csv", table.encode("cp932")), ("x.CSV", table.encode())):
        mapped = ("lora:", "  columns: {prompt: 質問, completion: 回答}\nlora:")
        answer = check(dx, job(upload(dx, content, name), "held.jsonl", mapped))
        assert answer.status_code == 200 and answer.json()["figures"]["rows"] == 2, answer.text
    train, held = upload(dx, jsonl(checkbench.TRAIN)), upload(dx, jsonl(checkbench.HELD))
    for config in (job(train, held), job(), job("faq"), job("./faq/train.jsonl")):
        made = dx.post("/admin/v1/jobs", json={"config": config})
        assert made.status_code == 201, made.text
        job_id = made.json()["id"]
        until(lambda job_id=job_id: dx.get(f"/admin/v1/jobs/{job_id}").json()["state"] == "done", what="the job ends")  # type: ignore[misc]
        shown = dx.get(f"/admin/v1/jobs/{job_id}")
        run = stack.settings.layout.runs / made.json()["run"]
        assert str(stack.work) not in shown.text + dx.get(f"/admin/v1/jobs/{job_id}/log").text + (run / "config.yaml").read_text()
        kept = json.loads((run / "inputs.json").read_text())
        assert all((run / path).exists() for path in kept["paths"].values()) and len(kept["sha256"]) == 2
    # Deleted afterwards: the run has its own copy.
    assert dx.delete(f"/v1/files/{train}").status_code == 200


def test_rows_of_a_file_without_a_header_do_not_come_back(dx: httpx.Client) -> None:
    for train in ("headless.csv", upload(dx, b"sk-live-ABCDEF,9000000,9000000\n1,2,3\n", "a.csv")):
        answer = check(dx, job(train))
        assert answer.status_code == 400 and ("headless.csv" in answer.text or "file-" in answer.text)
        assert not any(cell in answer.text for cell in ("9000000", "ABCDEF", "山田"))


def test_what_is_wrong_with_data_is_told_by_the_names_that_the_job_gives(dx: httpx.Client, stack: Stack) -> None:
    train = upload(dx, jsonl([*checkbench.TRAIN, {"messages": []}]))
    told = check(dx, job(train)).json()["error"]
    assert told["code"] == "bad_data" and f"{train}:3" in told["message"] and str(stack.work) not in told["message"]
    same = check(dx, job(upload(dx, jsonl([*checkbench.TRAIN, checkbench.HELD[0]])))).json()["error"]["message"]
    assert "also trained on" in same and "held.jsonl:1" in same
    wrong = check(dx, job(upload(dx, jsonl(checkbench.TRAIN), purpose="batch"))).json()["error"]
    assert wrong["code"] == "wrong_purpose"


def test_job_names_a_tracking_server_of_the_list(dx: httpx.Client) -> None:
    for mlflow in ("http://169.254.169.254", "http://attacker.example", "sqlite:////tmp/x.db", "other"):
        answer = check(dx, job("faq/train.jsonl", "held.jsonl", ("serve:", f"track: {{mlflow: '{mlflow}'}}\nserve:")))
        assert answer.status_code == 400 and "track.mlflow" in answer.json()["error"]["message"], answer.text
    named = check(dx, job("faq/train.jsonl", "held.jsonl", ("serve:", "track: {mlflow: company}\nserve:")))
    assert named.status_code == 200, named.text


def test_table_is_no_file_of_the_fine_tuning_api_nor_of_a_batch(dx: httpx.Client) -> None:
    table = upload(dx, b"prompt,completion\nq1,a1\n", "x.csv")
    answer = dx.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": table, "suffix": "quick"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "wrong_format"
    refused = dx.post("/v1/files", files={"file": ("x.xlsx", b"PK\x03\x04\xff")}, data={"purpose": "batch"})
    assert refused.status_code == 400, "a batch is JSONL, whatever its name"
    assert dx.get(f"/v1/files/{table}/content").content == b"prompt,completion\nq1,a1\n"
