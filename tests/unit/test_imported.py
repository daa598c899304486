"""References made by transformers and PEFT, on a base that is tiny and real."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sumika.finetune import imported, reference
from sumika.finetune.imported import NoReference
from sumika.models import adapter_rules, canary
from sumika.models.errors import SumikaError

WORDS = ["<unk>", "<s>", "</s>", "Hello", ".", "Who", "are", "you", "?", "I", "am", "A", "B", "C"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, bos_token_id=1, eos_token_id=2
    )  # fmt: skip
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    return folder


def adapter(base: Path, folder: Path, strength: float, **config: Any) -> Path:
    """A LoRA as PEFT saves it, whose B holds `strength` times what A holds."""
    torch.manual_seed(1)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )  # fmt: skip
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=strength)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / adapter_rules.CONFIG
    path.write_text(json.dumps(json.loads(path.read_bytes()) | config))
    adapter_rules.check(folder, base, 16)
    return folder


def test_adapter_gets_answers_of_its_own_that_tell_it_from_its_base(base: Path, tmp_path: Path) -> None:
    imported.write(folder := adapter(base, tmp_path / "a", 5.0), base)
    prompts = canary.load(folder)
    assert prompts is not None and len(prompts) == reference.PROMPTS
    assert prompts[0].contrast >= prompts[1].contrast > 0.05 and prompts[0].prompt_ids[0] == WORDS.index("<s>")
    assert all(len(prompt.answer_ids) <= reference.LONGEST for prompt in prompts)


def test_base_with_a_template_is_asked_in_it(base: Path, tmp_path: Path) -> None:
    chat = imported._chat(base)
    assert chat.prompt_ids([{"role": "user", "content": "Hello"}]) == [WORDS.index("<s>"), WORDS.index("Hello")]
    chat.tokenizer.chat_template = "A {{ messages[0].content }} B"
    chat.tokenizer.save_pretrained(tmp_path)
    again = imported._chat(tmp_path)
    assert again.prompt_ids([{"role": "user", "content": "Hello"}]) == [WORDS.index(word) for word in ("A", "Hello", "B")]


def test_adapter_that_changes_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SumikaError) as told:
        imported.write(adapter(base, tmp_path / "a", 0.0), base)
    assert told.value.code == "adapter_idle" and not (tmp_path / "a" / canary.REFERENCE).exists()


def test_adapter_that_changes_too_little_to_be_told_is_left_unproven(base: Path, tmp_path: Path) -> None:
    with pytest.raises(NoReference, match="too little"):
        imported.write(adapter(base, tmp_path / "a", 0.02), base)
    assert not (tmp_path / "a" / canary.REFERENCE).exists()


def test_adapter_whose_answers_are_no_numbers_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SumikaError) as told:
        imported.write(adapter(base, tmp_path / "a", 9e2, lora_alpha=1e38), base)
    assert told.value.code == "bad_adapter" and "NaN" in told.value.en


def test_adapter_whose_config_leaves_tensors_out_is_refused_by_their_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SumikaError, match=r"target_modules do not cover 4 .*down_proj") as told:
        imported.write(adapter(base, tmp_path / "a", 5.0, target_modules=["q_proj"]), base)
    assert told.value.code == "bad_adapter"


def test_what_a_config_says_beyond_its_weights_is_not_followed(base: Path, tmp_path: Path) -> None:
    hostile = {
        "base_model_name_or_path": "https://example.com/x", "revision": "x", "auto_mapping": {"parent_library": "os"},
        "megatron_config": {"a": 1}, "megatron_core": "antigravity", "unknown_to_peft": 1,
    }  # fmt: skip
    imported.write(folder := adapter(base, tmp_path / "a", 5.0, **hostile), base)
    assert canary.load(folder) is not None


def test_base_that_does_not_fit_into_memory_is_not_loaded(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(2**29))
    with pytest.raises(NoReference, match=r"needs 1\.0 GiB of memory .* 0\.5 GiB are free"):
        imported.write(tmp_path, base)


def test_base_that_transformers_cannot_load_leaves_the_adapter_unproven(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a", 5.0)
    (other := tmp_path / "other").mkdir()
    (other / "config.json").write_text('{"model_type": "of tomorrow"}')
    with pytest.raises(NoReference, match="can't run it"):
        imported.write(folder, other)


HOSTILE = r"(?:.|..|...)+\b\B"  # exponential in the length of a module's name


def test_expression_that_would_run_for_ever_is_refused_in_seconds(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SumikaError) as told:
        imported.write(adapter(base, tmp_path / "a", 5.0, target_modules=HOSTILE), base)
    assert told.value.code == "bad_adapter" and "regular expression" in told.value.en


@pytest.mark.parametrize("broken", ["(", "*", "[a"])
def test_expression_that_is_none_is_refused(base: Path, tmp_path: Path, broken: str) -> None:
    with pytest.raises(SumikaError, match="regular expression"):
        imported.write(adapter(base, tmp_path / "a", 5.0, target_modules=broken), base)


def test_expression_of_peft_is_followed(base: Path, tmp_path: Path) -> None:
    told = r"model\.layers\.\d+\.(self_attn|mlp)\.(q_proj|down_proj)"
    imported.write(folder := adapter(base, tmp_path / "a", 5.0, target_modules=told), base)
    assert canary.load(folder) is not None
