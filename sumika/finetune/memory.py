"""What a training step takes of memory, in bytes, reckoned before anything is loaded.

Counted as torch's autograd keeps it, in the manner of Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1), for a
pre-norm transformer with a gated MLP, fused attention (no [tokens, tokens] matrix is kept) and a frozen base in bf16:

- weights: 2 bytes a parameter; with NF4 the layers' matrices take 4.127 bits each (4, and 0.127 of doubly quantised
  constants: Dettmers et al. 2023, arXiv:2305.14314, section 3) and the rest stays in bf16.
- adapter: rank x (in + out) numbers a matrix, which PEFT keeps in fp32; gradient 4 bytes, AdamW's two moments 8.
- activations, a token and layer: each LoRA keeps its input in fp32 (4 x in) and its rank-r middle (4 x r); besides, in bf16,
  queries, keys, values and output of the attention, four of the MLP's width, the two residuals, and the norms' inputs with
  their fp32 copies. With gradient checkpointing: a layer's input for each layer, and the whole of one layer.
- logits, a trained position: bf16 and its gradient, fp32 and its gradient: 12 bytes a token of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod

from sumika.finetune.config import Lora
from sumika.finetune.shape import Shape

_BF16, _FP32 = 2, 4
_NF4 = 4.127 / 8
_LOGIT = 2 * (_BF16 + _FP32)
# Python, torch and its libraries; on a GPU the context and cuBLAS's workspaces.
_RUNTIME = 2**30
# What the allocator rounds up and can't use between its blocks.
_FRAGMENTS = 0.10


@dataclass(frozen=True, slots=True)
class Rows:
    """The largest micro batch: `sequences` of `tokens` each, with the logits of `positions` of each computed."""

    sequences: int
    tokens: int
    positions: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one device."""

    weights: int
    adapter: int
    optimiser: int
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def adapter_numbers(shape: Shape, lora: Lora) -> int:
    return sum(lora.r * sum(matrix) for matrix in shape.adapted(lora.target_modules).values())


def estimate(
    shape: Shape, lora: Lora, rows: Rows, *, nf4: bool = False, gradient_checkpointing: bool = False, shards: int = 1
) -> Estimate:
    """Bytes for one micro batch of `rows`. `shards`: GPUs that FSDP spreads the weights over."""
    numbers = adapter_numbers(shape, lora)
    tokens = rows.sequences * rows.tokens
    layer = _layer_bytes(shape, lora)
    kept = shape.layers * shape.hidden * _BF16 + layer if gradient_checkpointing else shape.layers * layer
    weights = _weight_bytes(shape, nf4=nf4) // shards
    adapter, optimiser = numbers * _FP32 // shards, numbers * 3 * _FP32 // shards
    activations, logits = tokens * kept, rows.sequences * rows.positions * shape.vocabulary * _LOGIT
    overhead = _RUNTIME + int(_FRAGMENTS * (adapter + optimiser + activations + logits))
    return Estimate(weights, adapter, optimiser, activations, logits, overhead)


def _weight_bytes(shape: Shape, *, nf4: bool) -> int:
    quantised = sum(map(prod, shape.matrices.values())) if nf4 else 0
    return int((shape.parameters - quantised) * _BF16 + quantised * _NF4)


def _layer_bytes(shape: Shape, lora: Lora) -> int:
    """Of one token in one layer."""
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_size * _BF16
    mlp = 4 * shape.intermediate * _BF16
    norms = 2 * shape.hidden * (_BF16 + _FP32)
    residuals = 2 * shape.hidden * _BF16
    return attention + mlp + norms + residuals + _lora_bytes(shape.adapted(lora.target_modules).values(), lora.r) // shape.layers


def _lora_bytes(matrices: Iterable[tuple[int, ...]], rank: int) -> int:
    return sum((inside + rank) * _FP32 for _, inside in matrices)
