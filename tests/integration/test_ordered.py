"""From an order of the API to a job on a base that really trains: rows turned and split, the YAML that is kept, what is found wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console

from sumika.finetune import config as jobs
from sumika.finetune import ordered, pipeline
from sumika.finetune.ordered import rows
from sumika.models import jobs as queue
from sumika.models import orders, runfiles
from sumika.models.actor import SYSTEM
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.orders import Asked, Order
from sumika.models.principals import Principal
from sumika.models.settings import EngineSettings
from sumika.models.shelf import Shelf
from sumika.models.store import Store
from sumika.serving.bulk import tunings
from tests import tiny_llama


def lines(path: Path) -> list[Any]:
    return [json.loads(line) if line.strip() else None for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def turn(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer} | more]}


def pair(question: str, better: str, worse: str) -> dict[str, Any]:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": said(better),
        "non_preferred_output": said(worse),
    }


WHO = Principal("k", "k", "engineer", "x", team_id="team-x")
SFT = [turn(f"{n}番の動物は？", tiny_llama.ANSWERS[n % 8], weight=1) for n in range(20)]
DPO = [pair(f"{n}番の動物は？", tiny_llama.ANSWERS[n % 8], tiny_llama.ANSWERS[(n + 1) % 8]) for n in range(20)]


class Bench:
    def __init__(self, store: Store, home: Home) -> None:
        self.store, self.home = store, home

    def file(self, content: list[dict[str, Any]] | bytes) -> str:
        draft = Shelf(self.home.files).begin()
        draft.write(
            content if isinstance(content, bytes) else "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in content).encode()
        )
        name = f"file-{draft.sha256[:24]}"
        draft.settle(name)
        return name

    def order(self, training: Any, validation: Any = None, **asked: Any) -> tuple[Order, Path]:
        held = None if validation is None else self.file(validation)
        wanted = Asked(**{"name": "pets", "model": "tiny@1", "method": "supervised", "seed": 3, "training_file": self.file(training),
                          "validation_file": held} | asked)  # fmt: skip
        made = orders.submit(self.store, self.home, wanted, WHO, sensitivity="internal", metadata=None, by=SYSTEM)
        return made, self.home.runs / made.job.run

    def prepared(self, training: Any, validation: Any = None, rank: Any = 16, **asked: Any) -> tuple[Path, jobs.JobConfig]:
        _, folder = self.order(training, validation, **asked)
        ordered.prepare(folder, self.store, self.home, EngineSettings(max_lora_rank=rank))
        return folder, jobs.load(folder / runfiles.CONFIG)

    def refused(self, training: Any, validation: Any = None, **asked: Any) -> dict[str, Any]:
        _, folder = self.order(training, validation, **asked)
        with pytest.raises(SumikaError):
            ordered.prepare(folder, self.store, self.home, EngineSettings())
        told = runfiles.checked(folder)
        assert told is not None and str(self.home.root) not in told["error"]["en"] + told["error"]["ja"]
        error: dict[str, Any] = told["error"]
        return error


@pytest.fixture
def bench(tmp_path: Path, store: Store, home: Home) -> Bench:
    tiny_llama.add(store, home, tmp_path / "tiny")
    return Bench(store, home)


def test_order_becomes_a_job_that_is_kept_whole(bench: Bench) -> None:
    folder, config = bench.prepared(SFT, epochs=2, rows=4, rate=0.5, rank=8)
    train, held = lines(folder / rows.TRAIN), lines(folder / rows.HELD_OUT)
    assert len(train) == len(held) == 20 and all((a is None) != (b is None) for a, b in zip(train, held, strict=True))
    assert sum(one is not None for one in held) == 2 and all("weight" not in m for row in train if row for m in row["messages"])
    assert (config.job.seed, config.train.epochs, config.train.learning_rate, config.lora.r, config.serve.max_lora_rank) == (
        3,
        2,
        1e-4,
        8,
        8,
    )
    assert config.base.version == "tiny@1" and config.serve.alias == "pets" and config.train.batch_tokens < 300
    figures = runfiles.checked(folder)
    assert figures is not None and figures["memory_bytes"] > 0 and (figures["rows"], figures["held_out"]) == (18, 2)
    assert folder.stat().st_mode & 0o777 == 0o700
    again, _ = bench.prepared(SFT)
    assert lines(again / rows.HELD_OUT) == held, "the same file and seed hold out the same rows"
    # Preference pairs: turned into ours; the better answer is what the held-out questions are judged by.
    folder, config = bench.prepared(DPO, method="dpo", beta=0.2)
    assert config.job.method == "dpo" and config.train.beta == 0.2
    learned = next(row for row in lines(folder / rows.TRAIN) if row)
    assert set(learned) == {"prompt", "chosen", "rejected"}
    assert all(
        set(row) == {"messages"} and row["messages"][-1]["role"] == "assistant" for row in lines(folder / rows.HELD_OUT) if row
    )
    folder, _ = bench.prepared(DPO[:15], DPO[15:], method="dpo")
    assert [len(lines(folder / name)) for name in (rows.TRAIN, rows.HELD_OUT)] == [15, 5]


def test_what_is_wrong_with_a_file_is_told_by_its_id_and_line(bench: Bench) -> None:
    broken = bench.refused(b'{"messages": []}\n' + json.dumps(SFT[0]).encode() + b"\nnot json\n")
    assert (broken["code"], "Line 3" in broken["en"]) == ("bad_data", True)
    wrong = [*SFT[:6], turn("最後", ""), *SFT[6:]]
    told = bench.refused(wrong, SFT[:1] and [turn("別の問", "犬です。")])
    assert told["code"] == "bad_data" and ":7" in told["en"] and "file-" in told["en"] and told["param"] == "training_file"
    told = bench.refused(SFT, [turn("別の問", "")])
    assert told["param"] == "validation_file"
    assert bench.refused([SFT[0], SFT[0]])["code"] == "too_few_rows"
    assert bench.refused(SFT, name="tiny")["code"] == "bad_config"
    made, folder = bench.order(SFT)
    Shelf(bench.home.files).drop(made.asked.training_file)
    with pytest.raises(SumikaError, match="no longer there"):
        ordered.prepare(folder, bench.store, bench.home, EngineSettings())


def test_prepared_again_after_a_kill_is_as_if_it_were_the_first_time(bench: Bench) -> None:
    _, folder = bench.order(SFT)
    (folder / rows.TRAIN).write_text("half")
    ordered.prepare(folder, bench.store, bench.home, EngineSettings())
    assert len(lines(folder / rows.TRAIN)) == 20


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_prepared_order_trains_and_is_told_as_it_ended(bench: Bench, method: Any) -> None:
    made, folder = bench.order(SFT if method == "supervised" else DPO, method=method, epochs=1)
    ordered.prepare(folder, bench.store, bench.home, EngineSettings())
    version = pipeline.run(jobs.load(folder / runfiles.CONFIG), bench.store, bench.home, Console(quiet=True), folder)
    assert version.ref.name == "pets" and version.base is not None and str(version.base) == "tiny@1"
    assert version.owner == WHO.owner, "the version is the job's team's"
    with bench.store.write() as connection:
        job = queue.claim(connection, made.job, "w", None)
        assert job is not None
        queue.prepared(connection, job, 1)
        job = queue.claim(connection, queue.get(connection, job.id), "w", None)
        assert job is not None
        queue.end(connection, job, "done" if version.gate == "passed" else "refused", version=str(version.ref))
        order = orders.get(connection, WHO, made.id)
    told = FineTuningJob.model_validate(tunings.shown(order, folder, "ja"))
    assert told.status == ("succeeded" if version.gate == "passed" else "failed") and told.finished_at
    assert told.fine_tuned_model == (str(version.ref) if version.gate == "passed" else None)
    events = tunings.events(order, folder, "ja")
    steps = [event for event in events if event.get("type") == "metrics"]
    assert steps and all(event["created_at"] > 10**9 and event["data"]["train_loss"] > 0 for event in steps)
    saved = tunings.checkpoints(order, folder)
    assert [one["step_number"] for one in saved] == [step for step, _ in reversed(runfiles.checkpoints(folder))]
