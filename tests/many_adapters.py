"""Tiny adapters, up to a hundred, each really trained to say one word of its own, so that a mix-up between them shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from sumika.finetune import base_model
from sumika.finetune.chat import ChatFormat

QUESTION = "合言葉は？"
# Each is one token of Gemma's, so that the rows of a batch are equally long.
ALL_WORDS = (
    "犬 猫 馬 牛 羊 豚 鶏 鴨 鶴 鷹 鳩 鯨 鮫 鯛 鮭 亀 蛇 蛙 蝶 蜂 蟻 蚕 熊 狼 狐 鹿 猿 兎 鼠 虎 象 竜 桜 梅 松 竹 菊 蓮 藤 柳 杉 桃 柿 栗 梨 苺 茶 米 麦 豆 "
    "芋 塩 酒 味噌 醤油 豆腐 寿司 山 川 海 空 雲 雨 雪 風 雷 虹 星 月 太陽 火山 温泉 森 湖 島 滝 春 夏 秋 冬 朝 夜 赤 青 白 黒 鉄 銀 金 紙 筆 本 傘 鍵 鏡 時計 石 窓 波 駅"
).split()
_STEPS = 20
_LEARNT = 0.5  # nats, of the worst token: it is the likeliest by far


def train(base: Path, words: Sequence[str], folder: Path) -> dict[str, Path]:
    """Each word → the folder of an adapter on `base` that answers `QUESTION` with that word, and stops.

    They learn in one batch, each from its own row (PEFT's `adapter_names`), and in the last two layers only: half a
    second an adapter on two cores.
    """
    torch.manual_seed(0)
    chat = ChatFormat.of(base)
    names = [f"word-{number}" for number in range(len(words))]
    model = _with_adapters(base_model.load(base), names)
    _learn(model, names, torch.tensor([_row(chat, word) for word in words]))
    model.save_pretrained(folder, selected_adapters=names)
    return {word: folder / name for word, name in zip(words, names, strict=True)}


def _with_adapters(base: Any, names: Sequence[str]) -> Any:
    layers = base.config.num_hidden_layers
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=["gate_proj", "up_proj", "down_proj"], layers_to_transform=[layers - 2, layers - 1],
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(base, lora, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora)
    model.base_model.set_adapter(names)
    return model.eval()  # PEFT mixes adapters in one batch in this mode only; there is no dropout to lose


def _row(chat: ChatFormat, word: str) -> list[int]:
    """Prompt, the word's one token, the stop token."""
    (token,) = chat.tokenizer(word, add_special_tokens=False)["input_ids"]
    return [
        *chat.prompt_ids([{"role": "user", "content": QUESTION}]),
        token,
        chat.tokenizer.convert_tokens_to_ids("<end_of_turn>"),
    ]


def _learn(model: Any, names: Sequence[str], rows: torch.Tensor) -> None:
    inputs, answers = rows[:, :-1], rows[:, -2:]
    # A slice would be a view, for which torch copies the whole head once a row; picked columns are a tensor of their own.
    columns = torch.arange(inputs.shape[1])[-2:]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, _STEPS)
    for _ in range(_STEPS):
        logits = model(input_ids=inputs, adapter_names=list(names), logits_to_keep=columns).logits.float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), answers, reduction="none")
        if losses.max() < _LEARNT:
            return
        optimizer.zero_grad()
        losses.sum().backward()  # a sum of losses that share nothing
        optimizer.step()
        slower.step()
    raise AssertionError(f"not learnt in {_STEPS} steps: {losses.amax(dim=1).tolist()}")
