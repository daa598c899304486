"""What the tests of `sumika finetune check` share: a home with bases of a real tokenizer, right and broken, and a job in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from typer.testing import CliRunner

from sumika.cli import main
from sumika.models import importing
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef
from sumika.models.settings import Settings
from tests.conftest import write_adapter, write_base

WORDS = ["<unk>", "<end>", "<user>", "<assistant>", "<system>", *(f"{kind}{n}" for kind in "qa" for n in range(1, 10)), "{}", "["]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m.role }}> {{ m.content }} <end> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
JOB = """\
job:
  name: job
  seed: 1
base:
  version: tiny
data:
  train: {folder}/train.jsonl
lora:
  r: 4
  alpha: 8
train:
  epochs: 1
  batch_tokens: 32
  learning_rate: 1.0e-3
evaluate:
  held_out: {folder}/held.jsonl
  max_new_tokens: 8
serve:
  alias: helper
  max_lora_rank: 16
"""


def turns(question: str, answer: str, *, system: str = "") -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


TRAIN = [{"messages": turns(f"q{n}", f"a{n}")} for n in (1, 2)]
HELD = [{"messages": turns("q3", "a1"), "facts": [["a1"]]}]


@dataclass(frozen=True, slots=True)
class CheckBench:
    """`folder` holds the job and its data; nothing of it is left from another test."""

    folder: Path

    def write(self, name: str, rows: Sequence[Any] | str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text(text, encoding="utf-8")
        return path

    def job(self, *changes: tuple[str, str]) -> Path:
        """The job in order, with lines of it replaced."""
        text = JOB.replace("{folder}", str(self.folder))
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new.replace("{folder}", str(self.folder)), 1)
        for name, rows in (("train.jsonl", TRAIN), ("held.jsonl", HELD)):
            if not (self.folder / name).exists():
                self.write(name, rows)
        return self.write("job.yaml", text)

    def line(self, text: str) -> int:
        """Where `text` stands in the job."""
        lines = (self.folder / "job.yaml").read_text(encoding="utf-8").split("\n")
        return next(n for n, line in enumerate(lines, start=1) if text in line)

    def check(self, *overrides: str, file: Path | None = None) -> dict[str, Any]:
        """The figures of a job that may start; raises SumikaError as the command line would tell it."""
        told = CliRunner().invoke(
            main.build(), ["finetune", "check", str(file or self.folder / "job.yaml"), *overrides, "--json"]
        )
        if isinstance(told.exception, SumikaError):
            raise told.exception
        assert told.exit_code == 0, told.output + repr(told.exception)
        return dict(json.loads(told.stdout))


def seed_home(home: Path, work: Path) -> None:
    """Bases in order and broken ones, each importable: what is wrong with them only a training job meets."""
    settings = Settings(home=home)
    store = open_store(settings)
    changes: dict[str, dict[str, Any]] = {
        "tiny": {},
        "embedder": {"config": {"architectures": ["BertModel"]}},
        "squeezed": {"config": {"quantization_config": {"quant_method": "awq"}}},
        "speechless": {"template": None},
        "endless": {"stops": {}},
        "disagreeing": {"stops": {"eos_token_id": [5]}},
        "garbled": {"tokenizer": "{}"},
        "hybrid": {"meta": {"catalog": "nemotron-nano-9b-v2-japanese"}},
        "research": {"meta": {"licence": {"id": "CC-BY-NC-4.0", "tier": "D", "note": "for research"}}},
    }
    for name, change in changes.items():
        meta = {"serve": {"max_model_len": 64}} | change.pop("meta", {})
        importing.import_base(store, settings.layout, name, _base(work / name, **change), meta=meta)
    adapter = write_adapter(work / "adapter")
    importing.import_adapter(store, settings.layout, "tuned", adapter, base=VersionRef("tiny", 1), max_lora_rank=16)
    store.close()


def _base(
    folder: Path,
    *,
    template: str | None = TEMPLATE,
    config: dict[str, Any] | None = None,
    stops: dict[str, Any] | None = None,
    tokenizer: str = "",
) -> Path:
    from transformers import PreTrainedTokenizerFast

    write_base(folder)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    made.chat_template = template
    made.save_pretrained(folder)
    if tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer)
    if stops is not None:
        (folder / "generation_config.json").write_text(json.dumps(stops))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | (config or {})))
    return folder
