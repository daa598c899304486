"""The queue with a worker of its own process and a stand-in for training: order, ends of every kind, deaths of every part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from sumika.finetune import runs
from sumika.finetune.queue.child import LOG
from sumika.models import differences, jobs, registry, runfiles
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.jobs import Job
from sumika.models.names import VersionRef
from sumika.models.store import Store
from tests import tiny_llama
from tests.conftest import ROOT

TRAINING = [sys.executable, str(ROOT / "tests" / "fake_training.py")]


class Queue:
    def __init__(self, store: Store, home: Home) -> None:
        self.store, self.home = store, home
        self.env: dict[str, str] = {}
        self._workers: list[subprocess.Popen[bytes]] = []

    def submit(self, name: str, *, priority: int = 0, memory: int = 1) -> int:
        run = f"{name}-{len(list(self.home.runs.iterdir()))}"
        folder = self.home.runs / run
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump({"job": {"name": name}}))
        with self.store.write() as connection:
            return jobs.submit(connection, name, run, actor="test", memory=memory, priority=priority).id

    def start(self) -> subprocess.Popen[bytes]:
        env = (
            os.environ
            | {"SUMIKA_HOME": str(self.home.root), "SUMIKA_FINETUNE__COMMAND": str(TRAINING).replace("'", '"')}
            | self.env
        )
        worker = subprocess.Popen(
            [sys.executable, "-m", "sumika.cli.main", "finetune", "worker"], env=env | {"A_SECRET": "sk-1"}, cwd=ROOT
        )
        self._workers.append(worker)
        return worker

    def job(self, job_id: int) -> Job:
        with self.store.read() as connection:
            return jobs.get(connection, job_id)

    def until(self, job_id: int, there: Callable[[Job], bool], seconds: float = 60) -> Job:
        deadline = time.monotonic() + seconds
        while not there(job := self.job(job_id)):
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
        return job

    def over(self, job_id: int) -> Job:
        return self.until(job_id, lambda job: job.state in jobs.OVER)

    def running(self, job_id: int) -> Job:
        """Once it has taken a few steps."""
        return self.until(job_id, lambda job: job.state == "running" and self.steps(job) > 2)

    def steps(self, job: Job) -> int:
        saved = self.folder(job) / "saved"
        return int(saved.read_text() or 0) if saved.exists() else 0

    def folder(self, job: Job) -> Path:
        return self.home.runs / job.run

    def log(self, job: Job) -> str:
        return (self.folder(job) / LOG).read_text()

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()


@pytest.fixture
def queue(store: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    made = Queue(store, home)
    yield made
    made.close()


def test_jobs_are_trained_by_priority_then_age_and_end_as_their_gate_says(queue: Queue) -> None:
    first, refused, urgent = queue.submit("quick"), queue.submit("worse"), queue.submit("quick", priority=5)
    queue.start()
    ended = [queue.over(one) for one in (first, refused, urgent)]
    assert [one.state for one in ended] == ["done", "refused", "done"]
    assert [one.version for one in ended] == ["quick@1", "worse@1", "quick@1"]
    began = [one.started_at or "" for one in ended]
    assert began[2] < began[0] < began[1]


def test_a_training_sees_nothing_of_our_environment_that_it_does_not_need(queue: Queue) -> None:
    job_id = queue.submit("quick")
    queue.start()
    seen = (queue.folder(queue.over(job_id)) / "environment.json").read_text()
    assert "A_SECRET" not in seen and "HF_HUB_OFFLINE" in seen
    assert (queue.folder(queue.job(job_id)) / LOG).stat().st_mode & 0o777 == 0o600


def test_an_error_ends_the_job_with_its_last_words_and_a_kill_is_tried_again_up_to_a_limit(queue: Queue) -> None:
    broken, once, killed = (queue.submit(name) for name in ("broken", "once", "killed"))
    queue.start()
    failed = queue.over(broken)
    assert (
        failed.state == "failed" and failed.attempts == 1 and failed.note is not None and "the disk is full" in failed.note["en"]
    )
    again = queue.over(once)
    assert (again.state, again.attempts) == ("done", 2) and "once from step 3" in queue.log(again)
    given_up = queue.over(killed)
    assert (given_up.state, given_up.attempts) == ("failed", 3)


def test_cancelling_waits_for_nothing_in_the_queue_and_for_a_checkpoint_while_running(queue: Queue) -> None:
    slow, waiting = queue.submit("slow"), queue.submit("quick")
    queue.start()
    queue.running(slow)
    with queue.store.write() as connection:
        assert jobs.cancel(connection, waiting).state == "cancelled"
        assert jobs.cancel(connection, slow).state == "stopping"
    assert queue.over(slow).state == "cancelled"
    with pytest.raises(SumikaError, match="is over"), queue.store.write() as connection:
        jobs.cancel(connection, slow)


def test_a_cancelled_job_resumes_where_it_was(queue: Queue) -> None:
    slow = queue.submit("slow")
    queue.start()
    queue.running(slow)
    with queue.store.write() as connection:
        jobs.cancel(connection, slow)
    at = queue.steps(queue.over(slow))
    with queue.store.write() as connection:
        jobs.resume(connection, slow)
    queue.until(slow, lambda job: job.state == "running" and queue.steps(job) > at + 2)
    assert f"slow from step {at}" in queue.log(queue.job(slow))


def test_a_worker_told_to_end_saves_and_gives_its_job_back(queue: Queue) -> None:
    slow = queue.submit("slow")
    worker = queue.start()
    queue.running(slow)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert queue.job(slow).state == "queued"
    queue.start()
    queue.running(slow)


def test_a_killed_worker_takes_its_training_with_it_and_the_next_one_goes_on(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = queue.submit("slow")
    queue.start().kill()
    worker = queue.start()
    queue.running(slow)
    worker.kill()
    worker.wait()
    time.sleep(1)
    at = queue.steps(queue.job(slow))
    time.sleep(1)
    assert queue.steps(queue.job(slow)) == at  # its training ended too
    queue.start()
    taken = queue.until(slow, lambda job: job.attempts == 2 and queue.steps(job) > at, jobs.LOST_S + 45)
    assert taken.state == "running" and f"slow from step {at}" in queue.log(taken)


def test_a_job_without_room_waits_and_says_why(queue: Queue) -> None:
    large = queue.submit("quick", memory=2**50)
    queue.start()
    waiting = queue.until(large, lambda job: job.note is not None)
    assert waiting.state == "queued" and waiting.note is not None and "needs 1048576.0 GiB" in waiting.note["en"]


def test_of_two_workers_one_gets_the_job(store: Store, queue: Queue) -> None:
    job_id = queue.submit("quick")
    seen = queue.job(job_id)
    with store.write() as connection:
        first = jobs.claim(connection, seen, "one", None)
    with store.write() as connection:
        second = jobs.claim(connection, seen, "two", None)
    assert first is not None and first.worker == "one" and second is None


def test_a_training_sees_its_own_run_and_nothing_of_keys_database_and_other_teams(queue: Queue) -> None:
    other = queue.home.runs / "other-team"
    other.mkdir()
    secrets = [queue.home.admin_key, queue.home.database, other / "train.jsonl", queue.home.files / "file-1.jsonl"]
    for secret in secrets:
        secret.touch()
    job_id = queue.submit("spy")
    (queue.home.runs / queue.job(job_id).run / "look_at.json").write_text(json.dumps([str(path) for path in secrets]))
    queue.start()
    job = queue.over(job_id)
    assert job.state == "done", job
    seen = json.loads((queue.folder(job) / "seen.json").read_text())
    assert seen == {"read": [], "environment of its parent": False, "written outside": False}
    given = json.loads((queue.folder(job) / "environment.json").read_text())
    assert not any("DATABASE" in name or name == "SUMIKA_HOME" for name in given)


def test_one_that_hangs_is_killed_and_told_and_one_asked_to_end_does_not_keep_us(queue: Queue) -> None:
    queue.env["SUMIKA_FINETUNE__SILENCE_TIMEOUT_S"] = "6"
    hanging = queue.submit("hangs")
    queue.start()
    job = queue.over(hanging)
    assert job.state == "failed" and job.note is not None and "neither computed nor wrote" in job.note["en"], job
    deaf = queue.submit("deaf")
    queue.until(deaf, lambda one: one.state == "running" and (queue.folder(one) / "saved").exists())
    with queue.store.write() as connection:
        jobs.cancel(connection, deaf)
    assert queue.until(deaf, lambda one: one.state == "cancelled", seconds=55)


def test_output_without_end_is_bounded(queue: Queue) -> None:
    job_id = queue.submit("floods")
    queue.start()
    job = queue.over(job_id)
    assert job.state == "done" and (queue.folder(job) / LOG).stat().st_size < 100 * 2**20
    assert queue.log(job).rstrip().endswith("step 5")


def test_what_was_trained_is_registered_by_the_worker(queue: Queue, tmp_path: Path) -> None:
    base = tiny_llama.add(queue.store, queue.home, tmp_path / "tiny")
    config = tiny_llama.job(tmp_path, "train.epochs=1")
    folder = runs.create(config, queue.home)
    runs.keep_config(folder, config)
    with queue.store.write() as connection:
        job_id = jobs.submit(connection, "pets", folder.name, actor="test", memory=1).id
    queue.env["SUMIKA_FINETUNE__COMMAND"] = json.dumps([sys.executable, "-m", "sumika.cli.main", "finetune", "run"])
    queue.start()
    job = queue.until(job_id, lambda one: one.state in jobs.OVER, seconds=240)
    assert job.state in ("done", "refused") and job.version == "pets@1", queue.log(job)
    with queue.store.read() as connection:
        made = registry.get(connection, VersionRef("pets", 1))
    assert made.base == base.ref and made.meta["training"]["run"] == job.run
    assert differences.find(queue.home.artifacts / made.folder, made.digest) == []
    assert runs.result(folder)["version"] == "pets@1" and not (folder / ".private").exists()  # type: ignore[index]


def test_what_one_training_leaves_stops_no_other(queue: Queue) -> None:
    vandal, next_one = queue.submit("vandal", priority=1), queue.submit("quick")
    worker = queue.start()
    assert queue.over(next_one).state == "done"
    ended = queue.over(vandal)
    assert ended.state == "failed" and ended.note is not None and "can't be used" in ended.note["en"]
    assert worker.poll() is None
    assert runfiles.progress(queue.folder(ended)) == {}


def test_lock_that_somebody_keeps_holds_up_its_own_job_alone(queue: Queue) -> None:
    squatter = queue.submit("squats", priority=1)
    worker = queue.start()
    queue.until(squatter, lambda job: job.attempts == 1 and job.state == "queued")
    assert queue.over(queue.submit("quick")).state == "done"
    (queue.folder(queue.job(squatter)) / "leave").touch()
    assert queue.over(squatter).state == "failed" and worker.poll() is None
