"""Rows of a step and bytes of a step: reckoned, and reckoned the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumika.finetune.batching import Batching, plan
from sumika.finetune.config import Lora
from sumika.finetune.memory import Rows, adapter_numbers, estimate
from sumika.finetune.shape import Shape
from tests.conftest import HIDDEN, INNER, write_base

# Llama 2 7B as its config.json and its tensors have it.
LLAMA = Shape(
    parameters=6_738_415_616,
    matrices={
        f"model.layers.{n}.{name}": shape
        for n in range(32)
        for name, shape in [
            *((f"self_attn.{one}_proj", (4096, 4096)) for one in "qkvo"),
            ("mlp.gate_proj", (11008, 4096)), ("mlp.up_proj", (11008, 4096)), ("mlp.down_proj", (4096, 11008)),
        ]
    },
    layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_size=128, vocabulary=32000,
)  # fmt: skip


def test_step_has_the_rows_that_its_tokens_make_in_the_mean() -> None:
    assert plan([50, 54], 416) == Batching(8, 8, 1)
    assert plan([4000], 100) == Batching(1, 1, 1)
    assert plan([52], 416, gpus=3) == Batching(9, 3, 1)


def test_memory_decides_how_a_step_is_parted_and_not_how_large_it_is() -> None:
    assert plan([52], 416, lambda micro, again: micro <= 3) == Batching(8, 2, 4)
    assert plan([52], 416, lambda micro, again: again and micro <= 4) == Batching(8, 4, 2, gradient_checkpointing=True)
    assert plan([52], 416, lambda micro, again: False) == Batching(8, 1, 8, gradient_checkpointing=True)


@given(
    lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=20), tokens=st.integers(16, 10**6), most=st.integers(1, 99),
    gpus=st.integers(1, 8),
)  # fmt: skip
def test_parts_of_a_step_are_equal_and_fit(lengths: list[int], tokens: int, most: int, gpus: int) -> None:
    made = plan(lengths, tokens, lambda micro, again: micro <= most, gpus)
    assert made.micro_rows * made.accumulation * gpus == made.rows_per_step and made.micro_rows <= most
    assert made.rows_per_step == plan(lengths, tokens, gpus=gpus).rows_per_step and not made.gradient_checkpointing


def test_seven_billion_parameters_take_what_is_published_of_them() -> None:
    """PEFT prints 39,976,960 trainable parameters for r=16 on all linear layers; QLoRA's base of 7B takes 3.6 GB and some."""
    lora = Lora(r=16)
    assert adapter_numbers(LLAMA, lora) == 39_976_960
    assert adapter_numbers(LLAMA, Lora(r=8, target_modules=["q_proj", "v_proj"])) == 4_194_304
    plain, nf4 = (estimate(LLAMA, lora, Rows(1, 512, 512), nf4=nf4) for nf4 in (False, True))
    assert plain.weights == 2 * LLAMA.parameters
    assert 3.5e9 < nf4.weights < 4.0e9
    assert plain.adapter == 4 * 39_976_960 and plain.optimiser == 12 * 39_976_960
    assert plain.logits == 512 * 32000 * 12


def test_checkpointing_and_shards_save_what_they_are_for() -> None:
    rows, lora = Rows(4, 2048, 512), Lora()
    plain = estimate(LLAMA, lora, rows)
    again = estimate(LLAMA, lora, rows, gradient_checkpointing=True)
    assert again.activations < plain.activations / 15 and again.weights == plain.weights
    assert estimate(LLAMA, lora, rows, shards=4).weights == plain.weights // 4
    assert plain.total == sum((plain.weights, plain.adapter, plain.optimiser, plain.activations, plain.logits, plain.overhead))


@pytest.mark.parametrize(("sequences", "tokens"), [(2, 512), (1, 1024)])
def test_activations_grow_with_tokens_whichever_way_they_come(sequences: int, tokens: int) -> None:
    one = estimate(LLAMA, Lora(), Rows(1, 512, 8)).activations
    assert estimate(LLAMA, Lora(), Rows(sequences, tokens, 8)).activations == 2 * one


def test_shape_is_read_from_config_and_headers(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    told = json.loads((folder / "config.json").read_text())
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    (folder / "config.json").write_text(json.dumps(told | {"text_config": sizes}))
    shape = Shape.of(folder)
    assert (shape.hidden, shape.intermediate, shape.layers, shape.heads, shape.kv_heads, shape.head_size) == (8, 16, 1, 2, 1, 4)
    assert shape.parameters == HIDDEN * HIDDEN + HIDDEN * INNER + HIDDEN and shape.kinds() == ["down_proj", "q_proj"]
    assert list(shape.adapted(["q_proj"])) == ["model.layers.0.self_attn.q_proj"]
