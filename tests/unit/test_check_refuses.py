"""Broken jobs and broken data through the real `sumika finetune check`: each stops it, is told by its place with a remedy in
both languages, and comes nowhere near the weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sumika.finetune import base_model
from sumika.finetune.checks import machine
from sumika.finetune.config import Lora
from sumika.finetune.data.problems import BadData
from sumika.finetune.device import Device
from sumika.finetune.memory import Rows
from sumika.finetune.shape import Shape
from sumika.models.errors import SumikaError
from tests.conftest import ROOT
from tests.unit.checkbench import TRAIN, CheckBench, seed_home, turns

JAPANESE = re.compile(r"[぀-ヿ一-鿿]")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("seeded") / "home"
    seed_home(home, tmp_path_factory.mktemp("bases"))
    return home


@pytest.fixture
def bench(seeded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CheckBench]:
    """Loading weights is an error of the test's, wherever it comes from."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SUMIKA_HOME", str(seeded))
    loaded: list[Any] = []
    monkeypatch.setattr(base_model, "load", lambda *given, **_: loaded.append(given))
    yield CheckBench(tmp_path)
    assert loaded == []


def test_job_in_order_is_told_in_figures(bench: CheckBench) -> None:
    bench.job()
    told = bench.check()
    assert (told["base"], told["rows"], told["tokens"], told["trained_tokens"], told["held_out"]) == ("tiny@1", 2, 12, 4, 1)
    assert (told["rows_per_step"], told["micro_rows"], told["accumulation"]) == (5, 5, 1)
    assert told["memory_bytes"] == sum(told["memory"].values()) > 0 and told["warnings"] == []


# A line of the job, what stands in its place, the text whose line is told, what is said, the remedy.
CONFIGS: list[tuple[str, str, str, str, str]] = [
    ("  r: 4", "  r: 0", "r: 0", "lora.r: Input should be greater than or equal to 1", "given: 0"),
    ("  r: 4", "  r: 4.5", "r: 4.5", "lora.r: Input should be a valid integer", "given: 4.5"),
    ("  r: 4", "  rank: 4", "rank:", "unknown key 'lora.rank'", "known here: r, alpha"),
    ("  r: 4", "  r: 4\n  r: 8", "r: 8", "'lora.r' is given twice", "keep one"),
    ("  r: 4", "  r: 32", "max_lora_rank", "lora.r is 32, but the engine takes at most serve.max_lora_rank = 16", "lower one or raise the other"),
    ("  alpha: 8", "  alpha: .inf", "alpha: .inf", "lora.alpha: Input should be a valid integer", "given: '.inf'"),
    ("  alpha: 8", "  dropout: 1.0", "dropout", "lora.dropout: Input should be less than 1", "given: 1.0"),
    ("  alpha: 8", "  target_modules: []", "target_modules", "lora.target_modules: Input should be 'all-linear'", "or: List should have at least 1 item"),
    ("  alpha: 8", "  target_modules: [q_proj, k_prj]", "target_modules", "lora.target_modules.1: the base's layers have no 'k_prj'", "they have down_proj, q_proj"),
    ("  alpha: 8", "  target_modules: [lm_head]", "target_modules", "the base's layers have no 'lm_head'", "they have down_proj, q_proj"),
    ("  batch_tokens: 32", "  batch_size: 8", "batch_size", "unknown key 'train.batch_size'", "did you mean 'train.batch_tokens'? Tokens of one optimiser step"),
    ("  batch_tokens: 32", "  batch_tokens: 8", "batch_tokens", "train.batch_tokens: Input should be greater than or equal to 16", "given: 8"),
    ("  epochs: 1", "  epochs: 0", "epochs", "train.epochs: Input should be greater than 0", "given: 0"),
    ("  epochs: 1", "  epochs: 1e999", "1e999", "train.epochs: Input should be", "number"),
    ("  epochs: 1", "  warmup: 1", "warmup", "train.warmup: Input should be less than 1", "given: 1"),
    ("  epochs: 1", "  beta: 0.3", "beta", "train.beta: is for DPO, and job.method is sft", "set job.method: dpo"),
    ("  epochs: 1", "  sharding: fsdp", "sharding", "fsdp spreads the base over several GPUs, and train.gpus is 1", "raise it, or write ddp"),
    ("  epochs: 1", "  gpus: 65", "gpus", "train.gpus: Input should be less than or equal to 64", "given: 65"),
    ("  epochs: 1", "  gpus: 2", "gpus", "train.gpus: is 2, and this machine has no GPU", "write 1"),
    ("  epochs: 1", "  compile: yes", "compile", "train.compile: Input should be a valid boolean", "given: 'yes'"),
    ("  learning_rate: 1.0e-3", "  learning_rate: 1e-3x", "1e-3x", "train.learning_rate: Input should be a valid number", "given: '1e-3x'"),
    ("  seed: 1", "  method: ppo", "method", "job.method: Input should be 'sft' or 'dpo'", "given: 'ppo'"),
    ("  name: job", "  name: ../job", "../job", "job.name: '../job' can't be a name", "Use 1 to 64 of a-z"),
    ("  version: tiny", "  version: tiny@0", "tiny@0", "base.version: 'tiny@0' names no version", "Write NAME@N"),
    ("  version: tiny", "  version: tiny@9", "tiny@9", "base.version: There is no", "models list"),
    ("  version: tiny", "  version: tuned", "tuned", "base.version: tuned@1 is an adapter", "name the base model it stands on (tiny@1)"),
    ("  version: tiny", "  version: embedder", "embedder", "base.version: is a BertModel, which embeds or ranks", "choose a chat model"),
    ("  version: tiny", "  version: squeezed", "squeezed", "base.version: has quantised weights (awq)", "import the bf16 original"),
    ("  version: tiny", "  version: speechless", "speechless", "base.version: The base has no chat template", "Put chat_template.jinja beside its weights"),
    ("  version: tiny", "  version: endless", "endless", "names no eos_token_id", "Add it and import again"),
    ("  version: tiny", "  version: disagreeing", "disagreeing", "does not end with a token the served model stops on [5]", "generation_config.json disagree"),
    ("  version: tiny", "  version: garbled", "garbled", "base.version: its tokenizer can't be read", "import the base again"),
    ("  version: tiny", "  version: tiny\n  quantize: nf4", "quantize", "base.quantize: nf4 needs a GPU with CUDA", "write none, or run the job on a machine that has one"),
    ("  alias: helper", "  alias: tiny", "alias: tiny", "serve.alias: 'tiny' names the base tiny@1", "give the adapter a name of its own"),
    ("  alias: helper", "  alias: latest", "latest", "serve.alias: 'latest' can't be a name", "Use 1 to 64"),
    ("  max_lora_rank: 16", "  max_lora_rank: 64", "max_lora_rank", "serve.max_lora_rank: is 64, but the engines here take 16", "raise engine.max_lora_rank in sumika.yaml"),
    ("  max_lora_rank: 16", "  max_lora_rank: 17", "max_lora_rank", "serve.max_lora_rank: Input should be 8, 16, 32", "given: 17"),
    ("  max_lora_rank: 16", "  gate: {min_facts: 60}", "min_facts", "serve.gate.min_facts: Input should be less than or equal to 1", "given: 60"),
    ("  max_lora_rank: 16", "  gate:\n    suites:\n      tone: 0.5", "tone", "serve.gate.suites.tone: evaluate.suites has no suite of this name (it has: none)", "add one, or take this line out"),
    ("  max_new_tokens: 8", "  suites:\n    - {name: a, path: '{folder}/none.jsonl'}", "none.jsonl", "evaluate.suites[0].path: there is no file", "give the path of a local file"),
    ("  max_new_tokens: 8", "  suites:\n    - {name: a, path: '{folder}/held.jsonl'}\n    - {path: '{folder}/held.jsonl', name: a}", "- {path:", "evaluate.suites[1].name: two suites are called 'a'", "give one another name"),
    ("  max_new_tokens: 8", "  suites:\n    - {name: a, path: '{folder}/held.jsonl', check: vibes}", "vibes", "evaluate.suites[0].check: Input should be 'facts', 'exact', 'json' or 'regex'", "given: 'vibes'"),
    ("  held_out: {folder}/held.jsonl", "  held_out: /dev/zero", "/dev/zero", "evaluate.held_out: there is no file /dev/zero", "give the path of a local file"),
    ("  train: {folder}/train.jsonl", "  train: s3://bucket/a.jsonl", "s3://", "data.train[0].path: is an address", "copy the file here and give its path"),
    ("  train: {folder}/train.jsonl", "  train: {folder}/nowhere", "nowhere", "data.train[0].path: there is no file", "give the path of a local file or folder"),
    ("  train: {folder}/train.jsonl", "  train: {folder}/train.jsonl\n  packing: always", "packing", "data.packing: Input should be 'auto' or 'never'", "given: 'always'"),
    ("serve:", "chat:\n  system: q9\nserve:", "system: q9", "chat.system: the base's chat template refuses this row", "no system role"),
    ("serve:", "chat:\n  train_on: all\nserve:", "train_on", "chat.train_on: Input should be 'answers' or 'last_answer'", "given: 'all'"),
    ("serve:", "track:\n  mlflow: mlruns\nserve:", "mlflow: mlruns", "track.mlflow: is no address of an MLflow server", "write http://HOST:PORT"),
    ("serve:", "track:\n  mlflow: file://\nserve:", "file://", "track.mlflow: is no address", "sqlite:////FILE"),
    ("serve:", "checkpoint: {every: 0}\nserve:", "checkpoint", "checkpoint.every: Input should be greater than or equal to 1", "given: 0"),
    ("serve:", "stop_early: 3\nserve:", "stop_early", "stop_early: Input should be an object", "object"),
    ("serve:", "include: other.yaml\nserve:", "include", "unknown key 'include'", "known here: job, base"),
    ("serve:", "serve: !!python/object/apply:os.system [true]\nnot:", "python", "the tag !!python/object/apply:os.system is not taken", "write the plain value"),
    ("serve:", "serve: &a\n  x: *a\nnot:", "", "an alias leads back into itself", "write it out flat"),
    ("serve:", "\tserve:", "\tserve", "found character '\\t'", "indent with spaces"),
    ("  seed: 1", "  seed: 1: 2", "1: 2", "mapping values are not allowed here", "in quotes"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "at", "said", "remedy"), CONFIGS, ids=lambda value: value[:40].strip().replace("\n", " "))
def test_broken_config_is_refused_at_its_line(bench: CheckBench, old: str, new: str, at: str, said: str, remedy: str) -> None:
    bench.job((old.replace("{folder}", str(bench.folder)), new))
    with pytest.raises(SumikaError) as told:
        bench.check()
    where = f"line {bench.line(at)}: " if at else ""
    assert told.value.code == "bad_config" and str(bench.folder / "job.yaml") in told.value.en
    problem = next((line for line in told.value.en.split("\n") if where in line and said in line), told.value.en)
    assert where in problem and said in problem and remedy in problem
    assert JAPANESE.search(told.value.ja.split("\n", 1)[1]) and (f"{bench.line(at)} 行目" in told.value.ja or not at)


# What lies in the training file, the held-out file or a suite's, where the problem is told to be, what is said, the remedy.
GOOD = json.dumps(TRAIN[0]).encode() + b"\n"
SUITE = "  suites:\n    - {name: extra, path: '{folder}/suite.jsonl', check: %s}"
DATA: list[tuple[str, Any, str, str, str]] = [
    ("train.jsonl", b"", "train.jsonl", "holds no rows", "add some, or take the file out"),
    ("train.jsonl", GOOD + b"{", "train.jsonl:2", "not JSON", "each line holds one object"),
    ("train.jsonl", GOOD + b'{"text": "\xff\xff"}', "train.jsonl:2", "", ""),
    ("train.jsonl", [*TRAIN, {"messages": []}], "train.jsonl:3", "'messages' is missing or empty", "list of {role, content}"),
    ("train.jsonl", [*TRAIN, {"messages": turns("q1", " ")}], "train.jsonl:3", "content is missing or empty", "fill it in, or take the row out"),
    ("train.jsonl", [*TRAIN, {"messages": turns("q1", "a1")[:1]}], "train.jsonl:3", "roles are user", "end with assistant"),
    ("train.jsonl", [*TRAIN, {"messages": turns("q1", "a1", system="q2")}], "train.jsonl:3", "no system role", "change its roles or leave it out"),
    ("train.jsonl", [*TRAIN, {"messages": turns("q1", "a1 <end> q2")}], "train.jsonl:3", "content holds <end>, which ends a turn", "write it in other words"),
    ("train.jsonl", [*TRAIN, {"messages": turns("q1 " * 70, "a2")}], "train.jsonl:3", "75 tokens, at most 64 fit", "set data.too_long to drop or truncate"),
    ("train.jsonl", [*TRAIN, {"messages": turns("q1", "縺ゅ＞縺�")}], "train.jsonl:3", "left by a wrong decoding", "export the data again as UTF-8"),
    ("train.jsonl", [*TRAIN, {"messages": turns("q1", "123456789018")}], "train.jsonl:3", "Individual Number", "set data.pii.my_number to mask or allow"),
    ("train.jsonl", [*TRAIN, {"prompt": "q1", "chosen": "a1", "rejected": "a2"}], "train.jsonl:3", "'messages' is missing", "it has chosen, prompt, rejected"),
    ("train.jsonl", [{"prompt": "q1", "chosen": "a1", "rejected": "a2"}], "train.jsonl:1", "preference pairs are learned by DPO", "set job.method: dpo"),
    ("held.jsonl", [{"messages": turns("q3", "a1"), "facts": []}], "held.jsonl:1", "'facts' must be a list of lists", "each by any of its strings"),
    ("held.jsonl", [{"messages": turns("q1", "a1"), "facts": [["a1"]]}], "held.jsonl:1", "this question is also trained on", "take it out of one of the two"),
    ("held.jsonl", b"", "held.jsonl", "holds no rows", "add some"),
    ("suite.jsonl:json", [{"messages": turns("q4", "{}")}, {"messages": turns("q5", "a1")}], "suite.jsonl:2", "its answer is not JSON", "set check: exact"),
    ("suite.jsonl:regex", [{"messages": turns("q4", "[")}], "suite.jsonl:1", "its answer is no regular expression", "set check: exact"),
    ("suite.jsonl:facts", [{"messages": turns("q4", "a1")}], "suite.jsonl:1", "'facts' must be a list of lists", "each by any of its strings"),
    ("suite.jsonl:exact", [{"text": "q4"}], "suite.jsonl:1", "a suite's row is a question and its answer", "prompt and completion"),
    ("suite.jsonl:exact", [{"messages": turns("q1", "a9")}], "suite.jsonl:1", "this question is also trained on", "take it out of one of the two"),
    ("suite.jsonl:exact", b"", "suite.jsonl", "holds no rows", "add some"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rows", "where", "said", "remedy"), DATA, ids=[f"{n}-{row[0]}-{row[3][:25]}" for n, row in enumerate(DATA)]
)
def test_broken_data_is_refused_at_its_row(bench: CheckBench, name: str, rows: Any, where: str, said: str, remedy: str) -> None:
    file, _, check = name.partition(":")
    bench.write(file, rows)
    bench.job(*([("  max_new_tokens: 8", SUITE % check)] if check else []))
    with pytest.raises(BadData) as told:
        bench.check()
    problem = next(one for one in told.value.problems if one.where.endswith(where))
    assert said in problem.en and remedy in problem.en and JAPANESE.search(problem.ja)
    assert str(bench.folder / where) in told.value.en and str(bench.folder / where) in told.value.ja


def test_rows_that_are_no_pairs_are_refused_by_dpo_one_by_one(bench: CheckBench) -> None:
    bench.write("train.jsonl", [{"prompt": "q1", "chosen": "a1", "rejected": "a2"}])
    bench.job(("  seed: 1", "  method: dpo"))
    assert bench.check("train.beta=0.3")["rows"] == 1
    bench.write("train.jsonl", TRAIN)
    with pytest.raises(BadData) as told:
        bench.check()
    assert [problem.where.rpartition(":")[2] for problem in told.value.problems] == ["1", "2"]
    assert "set job.method: sft, or give it pairs" in told.value.en


def test_rows_too_long_or_refused_by_the_template_are_told_all_at_once(bench: CheckBench) -> None:
    refused, long = {"messages": turns("q2", "a2", system="q1")}, {"messages": turns("q1 " * 30, "a2")}
    bench.write("train.jsonl", [refused, *TRAIN, long, refused])
    bench.job()
    with pytest.raises(BadData) as told:
        bench.check("data.max_length=16")
    assert [problem.where.rpartition(":")[2] for problem in told.value.problems] == ["1", "4", "5"]


def test_alias_of_an_earlier_adapter_is_taken_again(bench: CheckBench) -> None:
    bench.job(("  alias: helper", "  alias: tuned"))
    assert bench.check("lora.target_modules=[q_proj]")["base"] == "tiny@1"


def test_stop_early_needs_a_loss_that_dpo_has_not(bench: CheckBench) -> None:
    bench.job(("  seed: 1", "  method: dpo"), ("serve:", "stop_early: {}\nserve:"))
    with pytest.raises(SumikaError, match=r"line 18: stop_early: needs a loss on held-out rows.*take stop_early out"):
        bench.check()


def test_everything_wrong_with_the_file_is_told_in_one_go(bench: CheckBench) -> None:
    bench.job(
        ("  r: 4", "  rnak: 4"), ("  epochs: 1", "  epochs: -1"), ("  alias: helper", "  alais: helper"), ("job:", "jbo: 1\njob:")
    )
    with pytest.raises(SumikaError) as told:
        bench.check("train.warmup=2")
    assert "5 to mend" in told.value.en or "6 to mend" in told.value.en
    for said in (
        "unknown key 'lora.rnak'",
        "train.epochs",
        "did you mean 'serve.alias'?",
        "did you mean 'job'?",
        "from the command line: train.warmup",
    ):
        assert said in told.value.en


def test_everything_wrong_with_base_and_machine_is_told_in_one_go(bench: CheckBench) -> None:
    bench.job(("  alias: helper", "  alias: tiny"), ("  max_lora_rank: 16", "  max_lora_rank: 32"), ("  epochs: 1", "  gpus: 2"))
    with pytest.raises(SumikaError) as told:
        bench.check("lora.target_modules=[x]")
    assert "4 to mend" in told.value.en and "from the command line: lora.target_modules.0" in told.value.en
    assert all(key in told.value.en for key in ("serve.alias", "serve.max_lora_rank", "train.gpus"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lora.r", "'lora.r' is no override; write group.key=value"),
        ("=1", "'=1' is no override"),
        ("lora.r.x=1", "'lora.r' holds a value, not keys"),
        ("lora.r=[", "'lora.r=['"),
        ("lora.r=99", "serve.max_lora_rank"),
        ("lora.rnak=8", "from the command line: unknown key 'lora.rnak'"),
    ],
)
def test_broken_override_is_named(bench: CheckBench, override: str, said: str) -> None:
    bench.job()
    with pytest.raises(SumikaError) as told:
        bench.check(override)
    assert told.value.code == "bad_config" and said in told.value.en


def test_file_beyond_all_bounds_is_refused_before_it_is_unfolded(bench: CheckBench) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    for text, said in (
        (bomb, "more than 20,000 values"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("# " + "x" * 2**20, "larger than 1 MiB"),
    ):
        with pytest.raises(SumikaError, match=said):
            bench.check(file=bench.write("bad.yaml", text))
    with pytest.raises(SumikaError, match="is no regular file"):
        bench.check(file=bench.folder)


def test_memory_that_does_not_suffice_is_refused_with_numbers_and_remedy(
    bench: CheckBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.job()
    needed = bench.check()["memory"]
    here = needed["weights"] + needed["overhead"] - 2**20
    monkeypatch.setattr(Device, "here", classmethod(lambda cls, gpus=1: cls("cpu", 1, here, 2**40)))
    with pytest.raises(SumikaError) as told:
        bench.check()
    assert "base.version: one row of 6 tokens takes 1.0 GiB (weights" in told.value.en
    assert "of main memory are free; free memory, or choose a smaller base" in told.value.en


def test_disk_that_does_not_suffice_is_refused_with_numbers_and_remedy(
    bench: CheckBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.job()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(
        SumikaError,
        match=r"checkpoint.keep: 2 checkpoints and the adapter take 64 MiB, and 1 MiB are free in .*; free some, keep fewer",
    ):
        bench.check()


def test_gpu_with_less_memory_free_is_told_to_quantise(bench: CheckBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.job()
    monkeypatch.setattr(Device, "here", classmethod(lambda cls, gpus=1: cls("cuda", 2, 2**20, 2**40)))
    with pytest.raises(SumikaError, match=r"1 MiB on the GPU are free; set base.quantize: nf4, or free memory"):
        bench.check("train.gpus=2")


def test_rows_too_long_for_memory_are_told_a_length_that_fits(
    bench: CheckBench, seeded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("train.jsonl", [{"messages": turns("q1 " * 50, "a1")}])
    bench.job()
    least, most = (
        machine.estimate(
            Shape.of(next((seeded / "artifacts" / "tiny").iterdir())), Lora(r=4), Rows(1, n, 2), gradient_checkpointing=True
        ).total
        for n in (32, 55)
    )
    assert least < most
    monkeypatch.setattr(Device, "here", classmethod(lambda cls, gpus=1: cls("cpu", 1, (least + most) // 2, 2**40)))
    with pytest.raises(
        SumikaError, match=r"data.max_length: one row of 55 tokens takes .*; set data.max_length: 32 or shorten the rows"
    ):
        bench.check()


def test_base_whose_files_are_gone_is_refused(
    bench: CheckBench, tmp_path: Path, seeded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(seeded, copy)
    monkeypatch.setenv("SUMIKA_HOME", str(copy))
    bench.job()
    for file in (copy / "artifacts" / "tiny").rglob("config.json"):
        file.parent.chmod(0o700)
        file.unlink()
    with pytest.raises(SumikaError, match=r"line 5: base.version: its files can't be read \(.*\); import the base again"):
        bench.check()


def test_base_that_takes_no_lora_by_the_catalog_is_refused(bench: CheckBench) -> None:
    bench.job(("  version: tiny", "  version: hybrid"))
    with pytest.raises(SumikaError, match=r"line 5: base.version: takes no LoRA, as its catalog entry \w[\w.-]* says"):
        bench.check()


def test_licence_that_forbids_to_serve_is_a_warning(bench: CheckBench) -> None:
    bench.job(("  version: tiny", "  version: research"))
    assert "research@1 is licensed CC-BY-NC-4.0, which does not allow commercial use" in bench.check()["warnings"][0]


def test_suites_in_order_are_taken(bench: CheckBench) -> None:
    bench.write("suite.jsonl", [{"messages": turns("q4", "{}"), "facts": [["a1"]]}])
    suites = [
        {"name": check, "path": str(bench.folder / "suite.jsonl"), "check": check}
        for check in ("facts", "exact", "json", "regex")
    ]
    bench.job(("  max_lora_rank: 16", "  gate: {suites: {json: 0.5}}"))
    assert bench.check(f"evaluate.suites={json.dumps(suites)}")["rows"] == 2


ASKED = """
import sys
from sumika.cli import main
sys.argv = ["sumika", "finetune", "check", *sys.argv[1:]]
try:
    main.main()
except SystemExit as ended:
    code = ended.code
else:
    code = 0
print("torch" in sys.modules, code)
"""


@pytest.mark.parametrize(("override", "ended"), [((), "0"), (("data.max_length=16", "base.version=embedder"), "78")])
def test_process_of_its_own_loads_no_torch(bench: CheckBench, override: tuple[str, ...], ended: str) -> None:
    bench.job()
    env = os.environ | {"PYTHONPATH": str(ROOT), "SUMIKA_LANG": "en"}
    command = [sys.executable, "-c", ASKED, str(bench.folder / "job.yaml"), *override]
    told = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=120, check=False)
    assert told.stdout.strip().split("\n")[-1] == f"False {ended}", told.stdout + told.stderr
    assert "Traceback" not in told.stderr
