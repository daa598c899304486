"""`/v1/fine_tuning/jobs` by the `openai` client, over the queue with a stand-in for training."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from sumika.models import keys, teams
from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, start, until

TRAINING = [sys.executable, str(ROOT / "tests" / "fake_training.py")]
SECRET = "極秘の質問5150"
ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"{SECRET} {n}"}, {"role": "assistant", "content": "はい"}]}).encode()
    + b"\n"
    for n in range(12)
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start(tmp_path_factory.mktemp("tuning"), SUMIKA_FINETUNE__COMMAND=json.dumps(TRAINING))
    started.base()
    with started.store.write() as connection:
        teams.create(connection, "kaihatsu", "開発部")
        teams.create(connection, "eigyo", "営業部")
    yield started
    finish(started)


@pytest.fixture(scope="module")
def engineer(stack: Stack) -> str:
    return stack.new_key(role="engineer", team="kaihatsu")[0]


@pytest.fixture
def client(stack: Stack, engineer: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=engineer, max_retries=0) as made:
        yield made


def upload(client: openai.OpenAI, purpose: Any = "fine-tune") -> str:
    return client.files.create(file=("train.jsonl", ROWS), purpose=purpose).id


def order(client: openai.OpenAI, name: str, **more: Any) -> FineTuningJob:
    return client.fine_tuning.jobs.create(model="base", training_file=upload(client), suffix=name, **more)


def over(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    def look() -> FineTuningJob | None:
        now = client.fine_tuning.jobs.retrieve(job.id)
        return now if now.status in ("succeeded", "failed", "cancelled") else None

    found: FineTuningJob = until(look, within=60, what=f"{job.id} ends")
    return found


def test_job_goes_from_files_to_a_registered_version(client: openai.OpenAI, stack: Stack) -> None:
    hyper: Any = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    made = order(
        client, "quick", method={"type": "supervised", "supervised": {"hyperparameters": hyper}}, seed=7, metadata={"案件": "A-1"}
    )
    assert (made.status, made.model, made.seed, made.fine_tuned_model) == ("validating_files", "base@1", 7, None)
    ended = over(client, made)
    assert (ended.status, ended.fine_tuned_model, ended.error) == ("succeeded", "quick@1", None)
    assert ended.finished_at and ended.metadata == {"案件": "A-1"} and (ended.organization_id or "").startswith("team-")
    assert ended.method and ended.method.supervised and ended.method.supervised.hyperparameters
    assert ended.method.supervised.hyperparameters.model_dump() == hyper and ended.hyperparameters.n_epochs == 2
    events = list(client.fine_tuning.jobs.list_events(made.id, limit=2))
    assert events[0].message.endswith("quick@1") and events[-1].message == "Job created for quick"
    steps = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in steps] == [5, 4, 3, 2, 1] and "train_loss" in steps[0].data  # type: ignore[index,call-overload,operator]
    assert len({event.id for event in events}) == len(events) and all(e.created_at for e in events)
    (run,) = stack.settings.layout.runs.glob("quick-*")
    asked = json.loads((run / "order.json").read_text())
    assert (asked["epochs"], asked["rows"], asked["rate"], asked["beta"]) == (2, 4, 0.5, None)
    assert (run / "order.json").stat().st_mode & 0o777 == 0o600
    assert list(client.fine_tuning.jobs.checkpoints.list(made.id)) == []


def test_list_is_paged_and_another_teams_job_is_not_there(client: openai.OpenAI, stack: Stack) -> None:
    ids = [order(client, "quick").id for _ in range(3)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)][:3] == ids[::-1]
    stranger, _ = stack.new_key(role="engineer", team="eigyo")
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stranger, max_retries=0) as other:
        assert list(other.fine_tuning.jobs.list()) == []
        for act in (other.fine_tuning.jobs.retrieve, other.fine_tuning.jobs.cancel, other.fine_tuning.jobs.list_events):
            with pytest.raises(openai.NotFoundError):
                act(ids[0])
        with pytest.raises(openai.NotFoundError):
            other.fine_tuning.jobs.create(model="base", training_file=client.fine_tuning.jobs.retrieve(ids[0]).training_file)
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as admin:
        assert admin.fine_tuning.jobs.retrieve(ids[0]).id == ids[0]
    for job_id in ids:
        over(client, client.fine_tuning.jobs.retrieve(job_id))


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("worse", "gate_refused", "worse@1"),
        ("broken", "training_failed", "exit status 1"),
        ("unfit", "bad_data", "line 3: no answer"),
    ],
)
def test_job_that_comes_to_nothing_says_why_and_nothing_of_the_log(
    client: openai.OpenAI, name: str, code: str, says: str
) -> None:
    ended = over(client, order(client, name))
    assert (ended.status, ended.fine_tuned_model) == ("failed", None) and ended.error
    assert ended.error.code == code and says in ended.error.message and "the disk is full" not in ended.error.message
    newest = client.fine_tuning.jobs.list_events(ended.id).data[0]
    assert newest.level == "error" and says in newest.message
    told = client.with_options(default_headers={"accept-language": "ja"}).fine_tuning.jobs.retrieve(ended.id)
    assert told.error and told.error.message != ended.error.message


def test_running_job_is_cancelled_and_its_file_is_held_only_until_it_was_read(client: openai.OpenAI, stack: Stack) -> None:
    slow, waits = order(client, "slow"), order(client, "quick")
    with pytest.raises(openai.ConflictError) as told:
        client.files.delete(waits.training_file)
    assert told.value.code == "file_in_use"
    until(lambda: client.fine_tuning.jobs.retrieve(slow.id).status == "running", what="it trains")
    assert client.fine_tuning.jobs.cancel(waits.id).status == "cancelled"
    assert client.files.delete(waits.training_file).deleted and client.files.delete(slow.training_file).deleted
    client.fine_tuning.jobs.cancel(slow.id)
    assert over(client, slow).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.cancel(slow.id)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"model": "no-such"}, 404, "model_not_found"), ({"model": "base@9"}, 404, "not_found"), ({"model": "../base"}, 404, "model_not_found"),
        ({"training_file": "file-nope"}, 404, "not_found"), ({"validation_file": "../x"}, 404, "not_found"),
        ({"suffix": "../x"}, 400, "bad_name"), ({"suffix": "A B"}, 400, "bad_name"), ({"suffix": "x" * 65}, 400, "invalid_request"),
        ({"seed": -1}, 400, "invalid_request"), ({"seed": True}, 400, "invalid_request"),
        ({"method": {"type": "reinforcement"}}, 400, "invalid_request"),
        ({"method": {"type": "supervised", "dpo": {}}}, 400, "bad_value"),
        ({"method": {"type": "supervised"}, "hyperparameters": {"n_epochs": 1}}, 400, "bad_value"),
        ({"hyperparameters": {"n_epochs": 0}}, 400, "invalid_request"), ({"hyperparameters": {"n_epochs": "many"}}, 400, "invalid_request"),
        ({"hyperparameters": {"beta": 0.1}}, 400, "unknown_field"), ({"hyperparameters": {"learning_rate_multiplier": 0}}, 400, "invalid_request"),
        ({"metadata": {str(n): "x" for n in range(17)}}, 400, "invalid_request"), ({"metadata": {"k" * 65: "x"}}, 400, "invalid_request"),
        ({"integrations": [{"type": "wandb"}]}, 400, "invalid_request"), ({"x": 1}, 400, "unknown_field"),
    ],
    ids=range(21),
)  # fmt: skip
def test_order_that_is_none_is_refused_and_leaves_nothing(
    client: openai.OpenAI, stack: Stack, engineer: str, more: dict[str, Any], status: int, code: str
) -> None:
    before = set(stack.settings.layout.runs.iterdir())
    with stack.client(engineer) as plain:
        answer = plain.post("/v1/fine_tuning/jobs", json={"model": "base", "training_file": upload(client)} | more)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert set(stack.settings.layout.runs.iterdir()) == before


def test_role_scope_and_purpose(client: openai.OpenAI, stack: Stack) -> None:
    app, _ = stack.new_key(team="kaihatsu")
    narrow, _ = stack.new_key(role="engineer", team="kaihatsu", aliases=["quick"])
    body = {"model": "base", "training_file": upload(client)}
    with stack.client(app) as one, stack.client(narrow) as other:
        assert one.post("/v1/fine_tuning/jobs", json=body).status_code == 403
        assert one.get("/v1/fine_tuning/jobs").status_code == 403
        assert other.post("/v1/fine_tuning/jobs", json=body).json()["error"]["param"] == "suffix"
        assert other.post("/v1/fine_tuning/jobs", json=body | {"suffix": "quick"}).status_code == 200
    with pytest.raises(openai.BadRequestError) as told:
        client.fine_tuning.jobs.create(model="base", training_file=upload(client, "batch"))
    assert told.value.code == "wrong_purpose"


def test_nothing_of_the_rows_stands_in_logs_or_events_and_acts_are_audited(client: openai.OpenAI, stack: Stack) -> None:
    ended = over(client, order(client, "quick"))
    assert SECRET not in stack.logs()
    assert SECRET not in "".join(event.message for event in client.fine_tuning.jobs.list_events(ended.id))
    with stack.store.read() as connection:
        told = connection.exec_driver_sql("select actor, object from audit where action = 'job.submit' order by seq desc").first()
        engineers = {key.id for key in keys.list_all(connection) if key.role == "engineer"}
    assert told is not None and told.actor in engineers
