"""Runs of a small model, whole: what they leave, that they can be made again, and what becomes of them when they are cut short."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sumika.finetune import batching as batches
from sumika.finetune import checks, pipeline, runs
from sumika.finetune import config as jobs
from sumika.finetune.training import checkpoints, journal
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.registry import Version
from sumika.models.store import Store
from tests import tiny_llama
from tests.conftest import ROOT


class Bench:
    def __init__(self, folder: Path, store: Store, home: Home) -> None:
        self.folder, self.store, self.home = folder, store, home
        tiny_llama.add(store, home, folder / "tiny")

        self._whole: dict[str, tuple[Version, Path]] = {}

    def run(self, config: jobs.JobConfig, folder: Path | None = None) -> tuple[Version, Path]:
        version = pipeline.run(config, self.store, self.home, Console(quiet=True), folder)
        return version, self.home.runs / version.meta["training"]["run"]

    def whole(self, config: jobs.JobConfig) -> tuple[Version, Path]:
        """A run of `config` from its first step to its last: the same one for all tests that only compare with it."""
        key = config.model_dump_json()
        if key not in self._whole:
            self._whole[key] = self.run(config)
        return self._whole[key]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One home for the module: a test that puts something into service there takes an alias of its own."""
    folder = tmp_path_factory.mktemp("bench")
    home = Home(folder / "home")
    home.create()
    store = Store(f"sqlite:///{home.database}")
    store.migrate()
    yield Bench(folder, store, home)
    store.close()


def losses(run: Path) -> list[Any]:
    return [(line["step"], line["loss"]) for line in journal.read(run) if "loss" in line]


def come_to(run: Path, step: int) -> bool:
    return any(line["step"] >= step for line in journal.read(run)[-1:])


@contextmanager
def once_at(run: Path, step: int, act: Callable[[], object]) -> Iterator[None]:
    """Inside, `act` is done as soon as the run has come to `step`."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            if come_to(run, step):
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_run_leaves_all_that_is_told_of_it(bench: Bench) -> None:
    version, run = bench.whole(tiny_llama.job(bench.folder))
    training = version.meta["training"]
    assert version.gate == "passed" and [step for step, _ in losses(run)] == list(range(1, training["steps"] + 1))
    assert losses(run)[-1][1] < losses(run)[0][1]
    progress = json.loads((run / "progress.json").read_bytes())
    assert (progress["state"], progress["step"], progress["steps"]) == ("done", training["steps"], training["steps"])
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG") and list(run.rglob("events.out.tfevents.*"))
    assert json.loads((run / "result.json").read_bytes())["version"] == str(version.ref)
    assert set(version.meta["evaluation"]) >= {"candidate", "base", "gate", "reasons"}
    assert training["data"]["files"][0]["sha256"] and training["base"]["digest"] and training["template_sha256"]


def test_the_file_a_run_keeps_makes_the_same_adapter_again(bench: Bench) -> None:
    version, run = bench.whole(tiny_llama.job(bench.folder))
    config = jobs.load(run / runs.CONFIG)
    other = runs.create(config, bench.home)
    again, _ = bench.run(config, other)
    assert run != other and losses(run) == losses(other)
    weights = [(one / "adapter" / "adapter_model.safetensors").read_bytes() for one in (run, other)]
    assert weights[0] == weights[1] and again.digest == version.digest


def test_a_run_asked_to_stop_saves_and_goes_on_with_the_same_losses(bench: Bench) -> None:
    config = tiny_llama.job(bench.folder, "lora.dropout=0.1", "train.epochs=10", "checkpoint.every=1")
    _, whole = bench.whole(config)
    other = runs.create(config, bench.home)
    with pytest.raises(runs.Stopped), once_at(other, 5, lambda: os.kill(os.getpid(), signal.SIGINT)):
        bench.run(config, other)
    stopped = checkpoints.newest(other)
    assert stopped is not None and 5 <= stopped.step == losses(other)[-1][0] < len(losses(whole))
    bench.run(config, other)
    assert losses(other) == losses(whole)
    assert len(checkpoints.listed(other)) == config.checkpoint.keep


def test_a_full_disk_ends_a_run_clearly_and_keeps_its_last_checkpoint(bench: Bench) -> None:
    config = tiny_llama.job(bench.folder, "train.epochs=6")
    run = runs.create(config, bench.home)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(SumikaError) as told,
            once_at(run, 4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))),
        ):
            bench.run(config, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.code == "disk_full" and f"resume {run.name}" in told.value.en
    kept = checkpoints.newest(run)
    assert kept is not None and kept.step >= 3 and not checkpoints.staging(run).exists()
    version, _ = bench.run(config, run)
    assert [step for step, _ in losses(run)] == list(range(1, version.meta["training"]["steps"] + 1))


def test_a_killed_run_goes_on_with_the_same_losses_and_needs_no_network(bench: Bench) -> None:
    config = tiny_llama.job(bench.folder, "lora.dropout=0.1", "train.epochs=10", "checkpoint.every=1")
    run = runs.create(config, bench.home)
    runs.keep_config(run, config)
    command = [*_alone(), sys.executable, "-m", "sumika.cli.main", "finetune", "resume", run.name]
    environment = os.environ | {"SUMIKA_HOME": str(bench.home.root)}
    killed = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not come_to(run, 6):
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    found = checkpoints.newest(run)
    assert found is not None and found.step >= losses(run)[-1][0] - 1
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    _, whole = bench.whole(config)
    assert losses(run) == losses(whole)


def _alone() -> list[str]:
    """In a network namespace with nothing in it but loopback, where this machine lets us make one."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    probe = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if probe else []


def test_a_run_that_is_over_is_not_made_again(bench: Bench) -> None:
    config = tiny_llama.job(bench.folder)
    version, run = bench.whole(config)
    assert bench.run(config, run)[0].ref == version.ref


def test_stopping_early_gives_the_best_step_back(bench: Bench) -> None:
    config = tiny_llama.job(
        bench.folder, "train.learning_rate=0.3", "train.scheduler=constant", "train.epochs=40",
        "stop_early={every: 2, patience: 3}", "checkpoint.every=1000",
    )  # fmt: skip
    version, run = bench.run(config)
    held = {line["step"]: line["eval_loss"] for line in journal.read(run) if "eval_loss" in line}
    training = version.meta["training"]
    assert training["best_step"] == min(held, key=held.__getitem__) < training["steps"] == max(held)
    assert version.meta["evaluation"]["candidate"]["loss"] == pytest.approx(min(held.values()), rel=0.02)


def test_preference_pairs_are_learned(bench: Bench) -> None:
    version, run = bench.run(tiny_llama.job(bench.folder, "job.method=dpo", "train.beta=2", "train.epochs=6", pairs=True))
    assert losses(run)[0][1] == pytest.approx(0.693, abs=0.01) and losses(run)[-1][1] < 0.6
    assert version.meta["training"]["config"]["job"]["method"] == "dpo"


@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp", marks=pytest.mark.whole)])
def test_two_processes_share_each_step_of_a_job(bench: Bench, monkeypatch: pytest.MonkeyPatch, sharding: str) -> None:
    """Two processes on the CPU in the place of two GPUs; asked to stop, both stop after the same step, and go on from there."""
    from sumika.finetune import base_model
    from sumika.finetune.training import together
    from sumika.finetune.training.task import Task, Trained

    config = tiny_llama.job(bench.folder)
    _, alone = bench.whole(config)
    checked = checks.check(config, bench.store, bench.home)
    shared = config.model_copy(update={"train": config.train.model_copy(update={"gpus": 2, "sharding": sharding})})
    run = runs.create(shared, bench.home)
    runs.keep_config(run, shared)
    monkeypatch.setenv("SUMIKA_HOME", str(bench.home.root))
    batching = batches.plan([row.length for row in checked.rows], config.train.batch_tokens, gpus=2)
    task = Task(shared, checked.chat, checked.rows, [], batching, run)

    def train() -> Trained:
        return together.train(task, lambda: base_model.load(checked.folder))

    with once_at(run, 5, lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(runs.Stopped):
        train()
    trained = train()
    assert batching.rows_per_step == checked.batching.rows_per_step and batching.micro_rows * 2 == checked.batching.micro_rows
    assert trained.losses == pytest.approx([loss for _, loss in losses(alone)], rel=0.03)
    assert [step for step, _ in losses(run)] == [step for step, _ in losses(alone)]


def test_a_candidate_is_measured_beside_the_version_in_service_and_refused_when_it_is_worse(bench: Bench) -> None:
    from sumika.models import aliases, moves

    good, _ = bench.run(tiny_llama.job(bench.folder, "serve.alias=judged", "train.epochs=20"))
    assert good.meta["evaluation"]["candidate"]["right"] > 0
    with bench.store.write() as connection:
        move = aliases.ask_deploy(connection, "judged", good, actor="test", reason="")
        aliases.finish(connection, move, None)
        assert moves.get(connection, move.id).state == "done"
    worse, _ = bench.run(tiny_llama.job(bench.folder, "serve.alias=judged", "train.epochs=0.1", "train.learning_rate=0.0001"))
    told = worse.meta["evaluation"]
    assert told["served_version"] == str(good.ref) and told["served"] == good.meta["evaluation"]["candidate"]
    assert worse.gate == "refused" and "worse than the version in service" in told["reasons"][0]["en"]


def test_figures_go_to_mlflow_and_a_server_that_is_gone_ends_the_job_before_its_first_step(bench: Bench) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{bench.folder}/mlflow.db"
    _, run = bench.run(tiny_llama.job(bench.folder, f"track.mlflow={uri}"))
    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("pets").experiment_id])
    kept = client.get_metric_history(found.info.run_id, "loss")
    assert found.info.status == "FINISHED" and found.data.params["lora.r"] == "16"
    assert [(one.step, one.value) for one in kept] == losses(run)
    with pytest.raises(SumikaError) as told:
        bench.run(tiny_llama.job(bench.folder, "job.name=gone", "track.mlflow=http://127.0.0.1:9"))
    assert told.value.code == "tracking_failed" and not list(bench.home.runs.glob("gone-*/metrics.jsonl"))
