from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sumika.models import adapter_rules
from sumika.models.errors import SumikaError
from tests.conftest import MakeAdapter


def refused(adapter: Path, base: Path, rank: int = 16) -> str:
    with pytest.raises(SumikaError) as told:
        adapter_rules.check(adapter, base, rank)
    assert told.value.code in ("bad_adapter", "bad_weights")
    return told.value.en


def test_adapter_that_fits_is_taken(make_adapter: MakeAdapter, base_folder: Path) -> None:
    adapter_rules.check(make_adapter(), base_folder, 16)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank": 32}, "rank 32 is above the engine's max_lora_rank 16"),
        ({"rank_pattern": {"q_proj": 64}}, "rank 64"),
        ({"r": True}, "positive whole numbers"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"rename": ".renamed"}, "match no module of the base"),
        ({"lora_alpha": 10**400}, "more than 40 digits"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"lora_alpha": 1e308}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern"),
        ({"alpha_pattern": {"(a+)+!": 8}}, "alpha_pattern"),
        ({"rank_pattern": {"(a+)+!": 4}}, "rank_pattern"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"target_modules": 5}, "target_modules"),
        ({"target_modules": ["(a+)+!"]}, "target_modules"),
        ({"target_modules": "a" * 5000}, "target_modules"),
        ({"layers_pattern": "(a+)+!"}, "layers_pattern"),
        ({"layers_to_transform": [-1]}, "layers_to_transform"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"fill": float("nan")}, "NaN"),
        ({"fill": float("inf")}, "infinity"),
        ({"fill": 1e30}, "q_proj.lora_A.weight, norm 1.0e+30"),
        ({"fill": -2e5}, "q_proj.lora_A.weight, norm 2.0e+05"),
    ],
)
def test_adapter_that_vllm_would_refuse_or_ignore_is_refused(
    make_adapter: MakeAdapter, base_folder: Path, wrong: dict[str, Any], said: str
) -> None:
    assert said in refused(make_adapter(**wrong), base_folder)


def test_adapter_with_several_faults_is_told_all(make_adapter: MakeAdapter, base_folder: Path) -> None:
    told = refused(make_adapter(rank=32, bias="all", rename="x"), base_folder)
    assert "rank 32" in told and "bias" in told and "no module" in told


def test_adapter_for_a_base_of_another_shape_is_refused(make_adapter: MakeAdapter, base_folder: Path, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from tests.conftest import MODULES

    other = tmp_path / "other"
    other.mkdir()
    save_file(
        {f"{name}.weight": np.zeros((out * 2, inside * 2), np.float32) for name, (out, inside) in MODULES.items()},
        other / "model.safetensors",
    )
    assert "does not fit" in refused(make_adapter(), other)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapter_with_a_file_missing_is_refused(make_adapter: MakeAdapter, base_folder: Path, name: str) -> None:
    adapter = make_adapter()
    (adapter / name).unlink()
    assert f"{name} is missing" in refused(adapter, base_folder)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"no"]
)
def test_weights_that_lie_about_themselves_are_refused(make_adapter: MakeAdapter, base_folder: Path, data: bytes) -> None:
    adapter = make_adapter()
    (adapter / "adapter_model.safetensors").write_bytes(data)
    assert "safetensors" in refused(adapter, base_folder)


def test_weights_cut_short_or_overlapping_are_refused(make_adapter: MakeAdapter, base_folder: Path) -> None:
    adapter = make_adapter()
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "intact" in refused(adapter, base_folder)
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    assert "intact" in refused(adapter, base_folder)
