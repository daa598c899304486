"""A base that really trains, in milliseconds a step: a Llama of two layers with one token a byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sumika.finetune import config as jobs
from sumika.models import importing
from sumika.models.home import Home
from sumika.models.registry import Version
from sumika.models.store import Store
from tests.conftest import ROOT
from tests.unit import databench

JOB = ROOT / "configs" / "finetune" / "sakura-faq.yaml"
ANSWERS = ["犬です。", "猫です。", "馬です。", "牛です。", "羊です。", "豚です。", "鶏です。", "鴨です。"]
# Small enough for a test, large enough that a checkpoint comes, goes and is resumed from in the middle of an epoch.
SMALL = [
    "base.version=tiny", "serve.alias=pets", "job.name=pets", "train.batch_tokens=100", "train.epochs=3", "checkpoint.every=3",
    "train.learning_rate=0.01", "evaluate.max_new_tokens=16", "serve.gate.min_facts=0", "serve.gate.better_than_base=false",
]  # fmt: skip


def add(store: Store, home: Home, folder: Path) -> Version:
    """Import it as `tiny`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = databench.chat_format().tokenizer
    end = databench.chat_format().stop_ids[0]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=end, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    return importing.import_base(store, home, "tiny", folder, meta={"serve": {"max_model_len": 256}})


def rows(folder: Path, pairs: bool = False) -> list[str]:
    """Overrides that name the files of a small job: 24 rows of different lengths (or preference pairs), two held out."""
    questions = [f"{number}番の動物は{'何' * (number % 7)}？" for number in range(24)]
    train = [_pair(q, n) if pairs else _turn(q, n) for n, q in enumerate(questions)]
    held = [_turn(f"{number}番の動物は何何何？", number) | {"facts": [["です"]]} for number in (1, 2)]
    for name, written in (("train", train), ("held", held)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
    return [f"data.train={folder}/train.jsonl", f"evaluate.held_out={folder}/held.jsonl"]


def job(folder: Path, *overrides: str, pairs: bool = False) -> jobs.JobConfig:
    return jobs.load(JOB, [*SMALL, *rows(folder, pairs), *overrides])


def _turn(question: str, number: int) -> dict[str, Any]:
    answer = ANSWERS[number % len(ANSWERS)]
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _pair(question: str, number: int) -> dict[str, Any]:
    return {"prompt": question, "chosen": ANSWERS[number % 8], "rejected": ANSWERS[(number + 1) % 8]}
