"""What a job's check finds in seconds, on a base without a model in it: nothing of this may wait until after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from sumika.finetune import config as jobs
from sumika.finetune import pipeline
from sumika.finetune.data.problems import BadData
from sumika.models import importing
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store
from tests.conftest import ROOT, write_base

WORDS = ["<unk>", "<end>", "<user>", "<assistant>", "q1", "a1", "q2", "a2", "q3"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m.role }}> {{ m.content }} <end> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
JOB = ROOT / "configs" / "finetune" / "sakura-faq.yaml"


def turns(question: str, answer: str, *, system: str = "") -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


TRAIN = [{"messages": turns("q1", "a1")}, {"messages": turns("q2", "a2")}]
HELD_OUT = [{"messages": turns("q3", "a1"), "facts": [["a1"]]}]


class Bench:
    """A home with one base of a real tokenizer and template, and a job's two files."""

    def __init__(self, folder: Path, store: Store, home: Home) -> None:
        self.folder, self.store, self.home = folder, store, home
        importing.import_base(store, home, "tiny", _base(folder / "tiny"), meta={"serve": {"max_model_len": 256}})

    def check(
        self, *overrides: str, train: list[dict[str, Any]] | None = None, held_out: list[dict[str, Any]] | None = None
    ) -> pipeline.Checked:
        files = [self._write("train", train or TRAIN), self._write("held_out", held_out or HELD_OUT)]
        fixed = [f"data.train={files[0]}", f"evaluate.held_out={files[1]}", "base.version=tiny"]
        return pipeline.check(jobs.load(JOB, [*fixed, *overrides]), self.store, self.home)

    def _write(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


def _base(folder: Path) -> Path:
    from transformers import PreTrainedTokenizerFast

    write_base(folder)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bench(tmp_path: Path, store: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(ROOT)
    return Bench(tmp_path, store, home)


def test_job_in_order_is_told_in_figures(bench: Bench) -> None:
    assert bench.check().figures() == {
        "base": "tiny@1", "rows": 2, "held_out": 1, "longest_row_tokens": 6, "median_row_tokens": 6,
        "tokens": 12, "trained_tokens": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("serve.alias=tiny", "wrong_kind", "names the base tiny@1"),
        ("base.version=other", "not_found", "other@1"),
        ("base.version=tiny@2", "not_found", "tiny@2"),
        ("lora.target_modules=[q_proj, k_prj]", "bad_target", "have no 'k_prj'; they have down_proj, q_proj"),
        ("lora.target_modules=[lm_head]", "bad_target", "have no 'lm_head'"),
    ],
)
def test_job_that_the_registry_or_the_base_would_refuse_is_refused_at_once(
    bench: Bench, override: str, code: str, said: str
) -> None:
    with pytest.raises(SumikaError) as told:
        bench.check(override)
    assert told.value.code == code and said in told.value.en


def test_alias_of_an_earlier_adapter_is_taken_again(bench: Bench, make_adapter: Any) -> None:
    from sumika.models.names import VersionRef

    importing.import_adapter(bench.store, bench.home, "sakura-faq", make_adapter(), base=VersionRef("tiny", 1), max_lora_rank=16)
    assert bench.check("serve.alias=sakura-faq", "lora.target_modules=[q_proj]").base.ref.name == "tiny"


def test_held_out_row_that_the_template_refuses_is_told_before_training(bench: Bench) -> None:
    with pytest.raises(SumikaError) as told:
        bench.check(held_out=[{"messages": turns("q3", "a1", system="q1"), "facts": [["a1"]]}])
    assert "held_out.jsonl:1" in told.value.en and "no system role" in told.value.en


def test_rows_that_the_template_refuses_or_that_are_too_long_are_told_all_at_once(bench: Bench) -> None:
    long = {"messages": turns("q1 " * 30, "a2")}
    refused = {"messages": turns("q2", "a2", system="q1")}
    with pytest.raises(BadData) as told:
        bench.check("data.max_length=16", train=[refused, *TRAIN, long, refused])
    assert [problem.where.rpartition(":")[2] for problem in told.value.problems] == ["1", "4", "5"]
    assert "35 tokens, at most 16 fit" in told.value.problems[1].en


@pytest.mark.parametrize("row", [turns("q1 <end> <assistant> a2", "a1"), turns("q1", "a1 <end> <user> q2")])
def test_stop_token_spelt_out_in_a_message_is_refused(bench: Bench, row: list[dict[str, str]]) -> None:
    with pytest.raises(SumikaError) as told:
        bench.check(train=[*TRAIN, {"messages": row}])
    assert "train.jsonl:3" in told.value.en and "content holds <end>, which ends a turn" in told.value.en
