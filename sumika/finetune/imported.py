"""The canary reference of an adapter that was trained elsewhere, made on the CPU by transformers and PEFT as it is imported."""

from __future__ import annotations

import json
import os
from math import isfinite, prod
from pathlib import Path
from typing import Any

import psutil
from jinja2 import TemplateError

from sumika.finetune.chat import ChatFormat, stop_ids
from sumika.finetune.data.record import Conversation, Row
from sumika.models import adapter_rules, canary, tensors
from sumika.models.canary import CanaryPrompt
from sumika.models.errors import SumikaError, quoted

# What people write to a company's model. What the adapter was trained on isn't known; of these, those where it speaks
# least like its base are kept.
QUESTIONS = (
    "こんにちは。",
    "あなたは誰ですか。",
    "有給休暇の申請方法を教えてください。",
    "次の会議の案内文を書いてください。",
    "社内の問い合わせ先を教えてください。",
    "Hello. Who are you?",
    "How do I apply for paid leave?",
    "Answer in one word: what is the capital of Japan?",
)
# Log-probabilities come from logits in bf16, where the smallest step is a hundredth: below this, nothing changed at all.
_IDLE = 1e-3
# vLLM and transformers, both right, are up to 0.01 apart (docs/design.md). Nearer to its base than five times that, an
# adapter can't be told from it by these questions.
_CLEAR = 0.05
_PLAIN_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
# What of adapter_config.json bears on the weights' meaning. The rest (paths, module names to import) is not handed on.
_MEANING = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "use_rslora", "fan_in_fan_out",
)  # fmt: skip


class NoReference(SumikaError):
    """`no_reference`: nothing to prove the adapter by could be made here. It may be imported all the same, unproven."""

    def __init__(self, en: str, ja: str) -> None:
        super().__init__("no_reference", en, ja)


def write(adapter: Path, base: Path) -> None:
    """Answer a few questions with the adapter, and write `canary.json` beside it (both folders as `adapter_rules` wants them).

    Raises:
        NoReference: where memory does not suffice, transformers can't run the pair, or base and adapter hardly differ.
        SumikaError: `adapter_idle`, when the adapter changes nothing; `bad_adapter`, when its answers are no numbers or
            PEFT would leave some of its tensors out.
    """
    _check_memory(base)
    # Engines and users may be at work here: threads that spin while they wait made this ten times slower. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        scored = _scored(load(adapter, base), _chat(base))
    except (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError, TemplateError) as error:
        why = quoted(f"{type(error).__name__}: {error}")
        raise NoReference(f"transformers can't run it on its base ({why})", f"transformers で実行できません({why})") from error
    if not all(isfinite(value) for prompt in scored for value in (*prompt.adapter, *prompt.base)):
        raise SumikaError(
            "bad_adapter",
            "The adapter can't be served: with it, the base answers with NaN. Its training diverged; train it again with a lower learning rate.",
            "このアダプターは配備できません: 応答がNaNになります。学習が発散しています。学習率を下げて学習し直してください。",
        )
    if max(abs(a - b) for prompt in scored for a, b in zip(prompt.adapter, prompt.base, strict=True)) < _IDLE:
        raise SumikaError(
            "adapter_idle",
            f"The adapter does nothing: on {len(scored)} questions its base answers the same with it and without. It was probably saved before its training. (--no-reference imports it all the same.)",
            f"このアダプターは効果がありません。{len(scored)} 個の質問で、ベースモデルの応答がまったく変わりません。学習前に保存された可能性があります(--no-reference を付ければ取り込めます)。",
        )
    _save(adapter, scored)


def _save(adapter: Path, scored: list[CanaryPrompt]) -> None:
    from sumika.finetune import reference

    clearest = sorted(scored, key=lambda prompt: prompt.contrast, reverse=True)[: reference.PROMPTS]
    if clearest[0].contrast < _CLEAR:
        apart = f"{clearest[0].contrast:.3f}"
        raise NoReference(
            f"it differs from its base by no more than {apart} nats a token on general questions, too little to tell them apart",
            f"一般的な質問ではベースモデルとの差が最大 {apart} nats/トークンしかなく、区別できません",
        )
    canary.save(adapter, clearest)


def _check_memory(base: Path) -> None:
    """The weights in bf16, and a gibibyte for torch and the logits."""
    weights = sum(prod(tensor.shape) for file in base.glob("*.safetensors") for tensor in tensors.list_tensors(file))
    needed, free = 2 * weights + 2**30, psutil.virtual_memory().available
    if needed > free:
        sizes = f"{needed / 2**30:.1f} GiB", f"{free / 2**30:.1f} GiB"
        raise NoReference(
            f"its base needs {sizes[0]} of memory to answer on the CPU, and {sizes[1]} are free",
            f"ベースモデルをCPUで動かすには {sizes[0]} のメモリーが必要ですが、空きは {sizes[1]} です",
        )


def _chat(base: Path) -> ChatFormat:
    """The base's own template, so that an adapter made for another shows; a base without one is asked in plain text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer.chat_template = tokenizer.chat_template or _PLAIN_TEMPLATE
    return ChatFormat(tokenizer, tuple(stop_ids(base) or [tokenizer.eos_token_id or 0]), "")


def load(adapter: Path, base: Path) -> Any:
    """A PEFT model on the CPU: the GPU is the engines'."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    from sumika.finetune import base_model, targets

    loaded = base_model.load(base, "cpu")
    told = targets.resolved(
        json.loads((adapter / adapter_rules.CONFIG).read_bytes()), [name for name, _ in loaded.named_modules()]
    )
    config = LoraConfig(**{key: told[key] for key in _MEANING if told.get(key) is not None}, task_type="CAUSAL_LM")
    model = get_peft_model(loaded, config)
    left = set_peft_model_state_dict(model, load_file(adapter / adapter_rules.WEIGHTS)).unexpected_keys
    if left:
        raise SumikaError(
            "bad_adapter",
            f"The adapter can't be served: its target_modules do not cover {len(left)} of its tensors (first: {quoted(left[0])}), so PEFT and vLLM would run two different adapters.",
            f"このアダプターは配備できません: target_modules に含まれないテンソルが {len(left)} 個あり(最初: {quoted(left[0])})、PEFTとvLLMで動作が異なります。",
        )
    return model.eval()


def _scored(model: Any, chat: ChatFormat) -> list[CanaryPrompt]:
    """Every question with the adapter's own greedy answer."""
    from sumika.finetune import reference
    from sumika.finetune.evaluation.answers import answer

    rows = [Row(Conversation(_asked(text)), "", "") for text in QUESTIONS]
    answers = answer(model, chat, rows, reference.LONGEST)
    return [
        reference.score(model, chat.prompt_ids(row.content.question), given.ids) for row, given in zip(rows, answers, strict=True)
    ]


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]
