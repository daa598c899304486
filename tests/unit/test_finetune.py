"""A training job up to its first step: what is refused, and which tokens are trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from sumika.finetune import config as jobs
from sumika.finetune.chat import IGNORED, ChatFormat
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.record import Conversation
from sumika.finetune.evaluation import checks
from sumika.models.errors import SumikaError
from tests.conftest import ROOT
from tests.unit.databench import prepared

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
        ("train.batch_tokens=1_0", "train.batch_tokens"),
        ("data.train=none.jsonl", "data.train[0].path: there is no file none.jsonl"),
        ("data.train=https://example.com/x.jsonl", "data.train[0].path: is an address"),
        ("serve.alias=../x", "serve.alias"),
        ("serve.alias=a..b", "serve.alias: 'a..b' can't be a name"),
        ("serve.alias=latest", "serve.alias: 'latest' can't be a name"),
        ("job.name=con", "job.name: 'con' can't be a name"),
        ("base.version=tiny@0", "base.version: 'tiny@0' names no version"),
        ("base.version=Tiny", "base.version: 'Tiny' can't be a name"),
        ("lora.target_modules=[]", "lora.target_modules"),
        ("evaluate.held_out=samples", "evaluate.held_out: there is no file samples"),
        ("evaluate.held_out=file:///x.jsonl", "evaluate.held_out: is an address"),
        ("data.train=s3://bucket/x.jsonl", "is an address"),
        ("data.train=globis-university/aozorabunko-clean", "names of data sets on a hub are not looked up"),
        ("data.train=/dev/zero", "is no regular file"),
        ("data.train=[]", "data.train: Value should have at least 1 item"),
        ("data.train=[{path: README.md, weigth: 2}]", "unknown key 'data.train[0].weigth'; did you mean 'data.train.weight'?"),
        ("data.train=[{path: README.md, weight: 0}]", "data.train[0].weight"),
        ("data.train=[{weight: 1}]", "'data.train[0].path' is missing"),
        ("data.columns={質問: prompt}", "unknown key 'data.columns.質問'; known here: messages"),
        ("data.columns.promt=質問", "did you mean 'data.columns.prompt'?"),
        ("data.format=chat", "data.format: Input should be 'auto', 'messages'"),
        ("data.encoding=shift_jis", "data.encoding: Input should be 'auto', 'utf-8', 'cp932'"),
        ("data.normalise=nfc", "did you mean 'data.normalize'?"),
        ("data.normalize=NFKC", "data.normalize: Input should be 'none', 'nfc' or 'nfkc'"),
        ("data.too_long=cut", "data.too_long: Input should be 'error', 'drop' or 'truncate'"),
        ("data.pii=blok", "data.pii: must be one of block, mask, allow, or a mapping of my_number"),
        ("data.pii={phon: mask}", "did you mean 'data.pii.phone'?"),
        ("data.max_length=8", "data.max_length"),
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


def test_sample_company_has_what_the_readme_says(tmp_path: Path) -> None:
    done = prepared(tmp_path, "samples/sakura/faq.jsonl", held_out=ROOT / "samples/sakura/heldout.jsonl")
    done.problems.stop()
    assert done.report.kept == 72 and len(done.held_out) == 15 and done.report.leaks.total() == 0
    assert done.report.pii["phone"]["found"] == done.report.duplicates["exact"] == 0 and list(done.report.warnings()) == []
    assert all(checks.holds_facts(row.content.messages[-1]["content"], row.facts) for row in done.held_out)


def chat_format(template: str = TEMPLATE, stop: str = "<end>") -> ChatFormat:
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<user>", "<assistant>", "<system>", "<end>", "q1", "a1", "q2", "a2"]
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")
    tokenizer.chat_template = template
    return ChatFormat(tokenizer, (words.index(stop),), "")


def trained_words(chat: ChatFormat, *messages: dict[str, str]) -> list[str]:
    rendered = chat.render_conversation(Conversation(list(messages)))
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
    rendered = chat.render_conversation(Conversation(QA))
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
    with pytest.raises(DataError) as told:
        chat_format(template, stop).render(Conversation(QA))
    assert said in told.value.en


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
    assert checks.holds_facts(text, facts) is right
