"""The sizes of a base, read from config.json and the headers of its safetensors files, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from sumika.models import adapter_rules, tensors

# Matrices in a numbered block: what PEFT's all-linear means for the models served here, the head and the embedding left out.
_IN_LAYER = re.compile(r"\.(?:layers|h|blocks)\.\d+\.")


@dataclass(frozen=True, slots=True)
class Shape:
    """`matrices`: weight matrices of the layers by module name, [out, in]; `parameters`: numbers in all tensors."""

    parameters: int
    matrices: Mapping[str, tuple[int, ...]]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def of(cls, folder: Path) -> Shape:
        """Raises SumikaError `bad_weights`; sizes that config.json does not tell are taken from the tensors, or from GPT-2's rules."""
        config = json.loads((folder / "config.json").read_bytes())
        text = config.get("text_config", config)
        every = [tensor for file in sorted(folder.glob("*.safetensors")) for tensor in tensors.list_tensors(file)]
        matrices = {name: shape for name, shape in adapter_rules.base_modules(folder).items() if _IN_LAYER.search(name)}
        hidden = _number(text, "hidden_size", "n_embd") or 1
        heads = _number(text, "num_attention_heads", "n_head") or 1
        return cls(
            parameters=sum(prod(tensor.shape) for tensor in every),
            matrices=matrices,
            layers=_number(text, "num_hidden_layers", "n_layer") or 1,
            hidden=hidden,
            intermediate=_number(text, "intermediate_size", "n_inner") or 4 * hidden,
            heads=heads,
            kv_heads=_number(text, "num_key_value_heads") or heads,
            head_size=_number(text, "head_dim") or max(1, hidden // heads),
            vocabulary=_number(text, "vocab_size")
            or max((tensor.shape[0] for tensor in every if len(tensor.shape) == 2), default=1),
        )

    def adapted(self, targets: Literal["all-linear"] | Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The matrices that LoRA is put beside."""
        if targets == "all-linear":
            return dict(self.matrices)
        return {name: shape for name, shape in self.matrices.items() if name.rpartition(".")[2] in targets}

    def kinds(self) -> list[str]:
        """What lora.target_modules may name."""
        return sorted({name.rpartition(".")[2] for name in self.matrices})


def _number(config: dict[str, Any], *names: str) -> int | None:
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), None)
