"""A training job up to its first step: what is refused, and which tokens are trained."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from sumika.finetune.dataset import Row
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from sumika.finetune import config as jobs
from sumika.finetune import dataset, evaluate
from sumika.finetune.chat import IGNORED, ChatFormat
from sumika.models.errors import SumikaError
from tests.conftest import ROOT

QA = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def job(*overrides: str) -> jobs.JobConfig:
    return jobs.load(ROOT / "configs" / "finetune" / "sakura-faq.yaml", list(overrides))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lora.r=32", "serve.max_lora_rank = 16"),
        ("lora.rank=8", "unknown key 'lora.rank'"),
        ("lora_r=8", "unknown key 'lora_r'"),
        ("train.epochs=0", "train.epochs"),
        ("train.learning_rate=yes", "train.learning_rate"),
        ("train.batch_size=1_0", "train.batch_size"),
        ("data.train=none.jsonl", "there is no file none.jsonl"),
        ("data.train=https://example.com/x.jsonl", "there is no file"),
        ("serve.alias=../x", "serve.alias"),
        ("serve.alias=a..b", "serve.alias: 'a..b' can't be a name"),
        ("serve.alias=latest", "serve.alias: 'latest' can't be a name"),
        ("job.name=con", "job.name: 'con' can't be a name"),
        ("base.version=tiny@0", "base.version: 'tiny@0' names no version"),
        ("base.version=Tiny", "base.version: 'Tiny' can't be a name"),
        ("lora.target_modules=[]", "lora.target_modules"),
        ("evaluate.held_out=samples", "evaluate.held_out: there is no file samples"),
        ("serve.gate.min_facts=1.1", "serve.gate.min_facts"),
        ("job.output_dir=/tmp/x", "unknown key"),
        ("job.seed=-1", "job.seed"),
        ("train.scheduler=magic", "train.scheduler"),
    ],
)
def test_job_that_would_fail_later_is_refused_at_once(override: str, said: str) -> None:
    with pytest.raises(SumikaError) as told:
        job(override)
    assert told.value.code == "bad_config" and said in told.value.en


def write(tmp_path: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(
        b"".join((row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()) + b"\n" for row in rows)
    )
    return path


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"{", "not JSON"),
        ([], "not a JSON object"),
        ({}, "'messages' is missing"),
        ({"messages": []}, "'messages' is missing"),
        ({"messages": ["x"]}, "role must be"),
        ({"messages": [{"role": "human", "content": "x"}]}, "role must be"),
        ({"messages": [{"role": "user", "content": " "}]}, "content is missing or empty"),
        ({"messages": [{"role": "user", "content": 1}]}, "content is missing or empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "end with assistant"),
        ({"messages": QA[::-1]}, "end with assistant"),
        ({"messages": [*QA, {"role": "user", "content": "x"}]}, "end with assistant"),
        ({"messages": [QA[0], {"role": "assistant", "content": "文字\ufffd化け"}]}, "U+FFFD"),
        ({"messages": [QA[0], QA[1] | {"tool_calls": []}]}, "'tool_calls' is not trained on"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a1"}]}', "surrogate"),
        (b"[" * 100_000, "not JSON"),
        ({"messages": QA}, "'facts' must be"),
        ({"messages": QA, "facts": [[" "]]}, "'facts' must be"),
        ({"messages": QA, "facts": [[]]}, "'facts' must be"),
        ("日本".encode("cp932"), "is not UTF-8"),
    ],
)
def test_row_that_is_no_conversation_is_told_by_file_and_line(tmp_path: Path, row: Any, said: str) -> None:
    good = {"messages": QA, "facts": [["a1"]]}
    path = write(tmp_path, good, row, good)
    with pytest.raises(SumikaError) as told:
        dataset.read(path, with_facts=True)
    assert told.value.code == "bad_data" and f"{path}:2: " in told.value.en and said in told.value.en


def test_bad_rows_are_told_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(SumikaError) as told:
        dataset.read(write(tmp_path, {}, {"messages": QA}, []))
    assert "(2 to mend)" in told.value.en and ":1: " in told.value.en and ":3: " in told.value.en


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SumikaError, match="holds no rows"):
        dataset.read(write(tmp_path, b"", b"  "))


def test_record_has_one_hash_in_every_form_of_unicode_and_order_of_keys(tmp_path: Path) -> None:
    kana = [{"role": "user", "content": "ガス料金"}, {"role": "assistant", "content": "はい"}]
    apart = [{"content": unicodedata.normalize("NFD", m["content"]), "role": m["role"]} for m in kana]
    rows = dataset.read(write(tmp_path, {"messages": kana}, {"id": 1, "messages": apart}, {"messages": QA})).rows
    assert rows[0].hash == rows[1].hash != rows[2].hash


def test_question_held_out_and_trained_on_is_a_leak(tmp_path: Path) -> None:
    train = dataset.read(write(tmp_path, {"messages": QA}))
    held = dataset.read(
        write(tmp_path, {"messages": [QA[0], {"role": "assistant", "content": "other"}], "facts": [["x"]]}, name="held.jsonl"),
        with_facts=True,
    )
    assert len(list(dataset.leaks(train, held))) == 1
    assert list(dataset.leaks(train, dataset.read(ROOT / "samples/sakura/heldout.jsonl", with_facts=True))) == []


def test_sample_company_has_what_the_readme_says() -> None:
    train, held = (
        dataset.read(ROOT / "samples/sakura/faq.jsonl"),
        dataset.read(ROOT / "samples/sakura/heldout.jsonl", with_facts=True),
    )
    assert len({row.messages[-1]["content"] for row in train.rows}) >= 60 and len(held.rows) == 15
    assert list(dataset.leaks(train, held)) == []
    assert all(evaluate.holds_facts(row.messages[-1]["content"], row.facts) for row in held.rows)


def chat_format(template: str = TEMPLATE, stop: str = "<end>") -> ChatFormat:
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<user>", "<assistant>", "<system>", "<end>", "q1", "a1", "q2", "a2"]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")
    tokenizer.chat_template = template
    return ChatFormat(tokenizer, (words.index(stop),), "")


def row(*messages: dict[str, str]) -> Row:
    return Row(list(messages), "rows.jsonl:1", "")


def trained_words(chat: ChatFormat, *messages: dict[str, str]) -> list[str]:
    rendered = chat.render(row(*messages))
    assert len(rendered.labels) == len(rendered.input_ids)
    assert all(label in (IGNORED, token) for token, label in zip(rendered.input_ids, rendered.labels, strict=True))
    return [str(word) for word in chat.tokenizer.convert_ids_to_tokens([label for label in rendered.labels if label != IGNORED])]


def test_trained_are_the_answers_with_their_stop_token_and_nothing_else() -> None:
    two = [*QA, {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]
    assert trained_words(chat_format(), *QA) == ["a1", "<end>"]
    assert trained_words(chat_format(), *two) == ["a1", "<end>", "a2", "<end>"]
    assert trained_words(chat_format(), {"role": "user", "content": "a1"}, {"role": "assistant", "content": "a1"}) == [
        "a1",
        "<end>",
    ]


def test_prompt_of_a_row_is_what_stands_before_its_answer() -> None:
    chat = chat_format()
    rendered = chat.render(row(*QA))
    prompt = chat.prompt_ids(QA[:1])
    assert rendered.input_ids[: len(prompt)] == prompt and set(rendered.labels[: len(prompt)]) == {IGNORED}


@pytest.mark.parametrize(
    ("template", "stop", "said"),
    [
        (TEMPLATE, "q2", "does not end with a token the served model stops on"),
        (TEMPLATE.replace("<assistant> {% endif", "<system> {% endif"), "<end>", "can't be told apart"),
        ("{{ raise_exception('no such role') }}", "<end>", "no such role"),
    ],
)
def test_template_that_disagrees_with_serving_is_refused(template: str, stop: str, said: str) -> None:
    with pytest.raises(SumikaError) as told:
        chat_format(template, stop).render(row(*QA))
    assert said in told.value.en and "rows.jsonl:1" in told.value.en


@pytest.mark.parametrize(
    ("text", "facts", "right"),
    [
        ("3営業日前までに「タイムさくら」で", [["3営業日前"], ["タイムさくら"]], True),
        ("３営業日前までにタイムさくらで", [["3営業日前"], ["タイムさくら"]], True),
        ("13営業日前までにタイムさくらで", [["3営業日前"], ["タイムさくら"]], False),
        ("3営業日前まで", [["3営業日前"], ["タイムさくら"]], False),
        ("1泊11,500円まで", [["11,500円", "11500円"]], True),
        ("1泊11,500円まで", [["500円"]], False),
        ("500円、いや11,500円", [["500円"]], True),
        ("", [["x"]], False),
    ],
)
def test_answer_is_right_when_it_holds_every_fact(text: str, facts: list[list[str]], right: bool) -> None:
    assert evaluate.holds_facts(text, facts) is right
