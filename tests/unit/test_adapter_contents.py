"""Adapters made to look right: what vLLM would only notice in the middle of somebody's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sumika.models import adapter_rules, canary, tensors
from sumika.models.canary import CanaryPrompt
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef
from tests.conftest import MakeAdapter

DEEP = b"[" * 200_000


def refused(adapter: Path, base: Path) -> str:
    with pytest.raises(SumikaError) as told:
        adapter_rules.check(adapter, base, 16)
    assert told.value.code in ("bad_adapter", "bad_weights") and len(told.value.en) < 3_000
    return told.value.en


def test_tensors_of_a_higher_rank_than_the_config_says_are_refused(make_adapter: MakeAdapter, base_folder: Path) -> None:
    assert "rank" in refused(make_adapter(rank=32, r=8), base_folder)


def test_tensors_whose_two_sides_differ_in_rank_are_refused(make_adapter: MakeAdapter, base_folder: Path) -> None:
    adapter = make_adapter(rank=4)
    weights = load_file(adapter / adapter_rules.WEIGHTS)
    name = next(name for name in weights if "lora_A" in name)
    weights[name] = np.ascontiguousarray(weights[name][:2])
    save_file(weights, adapter / adapter_rules.WEIGHTS)
    assert "rank" in refused(adapter, base_folder)


def test_tensor_without_its_other_side_is_refused(make_adapter: MakeAdapter, base_folder: Path) -> None:
    adapter = make_adapter()
    weights = load_file(adapter / adapter_rules.WEIGHTS)
    del weights[next(name for name in weights if "lora_B" in name)]
    save_file(weights, adapter / adapter_rules.WEIGHTS)
    assert "lora_B" in refused(adapter, base_folder)


def test_module_with_a_rank_of_its_own_is_taken(make_adapter: MakeAdapter, base_folder: Path) -> None:
    adapter = make_adapter(rank=8, r=4, rank_pattern={"q_proj": 8, "down_proj": 8})
    adapter_rules.check(adapter, base_folder, 16)


def test_file_without_tensors_is_refused(make_adapter: MakeAdapter, base_folder: Path) -> None:
    adapter = make_adapter()
    save_file({}, adapter / adapter_rules.WEIGHTS)
    assert "no tensors" in refused(adapter, base_folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank_pattern": [1]}, {"rank_pattern": "x"}, {"r": 10**400}, {"r": -1}, {"r": None}, {"r": [4]}, {"lora_alpha": float("nan")},
        {"lora_alpha": float("inf")}, {"lora_alpha": "8"}, {"lora_alpha": None}, {"modules_to_save": ["x" * 10**6]}, {"bias": {"a": 1}},
        {"init_lora_weights": {"a": 1}}, {"use_dora": "true"},
    ],
    ids=lambda wrong: str(wrong)[:30],
)  # fmt: skip
def test_config_of_the_wrong_kind_is_refused_in_a_sentence(
    make_adapter: MakeAdapter, base_folder: Path, wrong: dict[str, Any]
) -> None:
    assert "can't be served" in refused(make_adapter(**wrong), base_folder)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff\xfe", DEEP, b'{"r":' + b"9" * 5000 + b"}"], ids=lambda d: repr(d[:9])
)
def test_config_that_is_no_json_object_is_refused(make_adapter: MakeAdapter, base_folder: Path, data: bytes) -> None:
    adapter = make_adapter()
    (adapter / adapter_rules.CONFIG).write_bytes(data)
    assert "JSON object" in refused(adapter, base_folder)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_found_in_every_width(tmp_path: Path, dtype: type[np.floating[Any]], value: float) -> None:
    file = tmp_path / "x.safetensors"
    bad, good = np.ones((3, 3), dtype), np.full((3, 3), np.finfo(dtype).max, dtype)
    bad[2, 2] = value
    save_file({"good": good, "bad": bad, "whole": np.ones(2, np.int32), "none": np.zeros((0, 4), dtype)}, file)
    assert list(tensors.non_finite(file)) == ["bad"]


def test_numbers_that_are_none_are_found_in_bfloat16(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    for bits, found in ((0x7F80, ["a"]), (0xFFC1, ["a"]), (0x7F7F, [])):
        file.write_bytes(len(header).to_bytes(8, "little") + header + (0x3F80).to_bytes(2, "little") + bits.to_bytes(2, "little"))
        assert [t.shape for t in tensors.list_tensors(file)] == [(2,)]
        assert list(tensors.non_finite(file)) == found


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_norm_is_told_in_every_width(tmp_path: Path, dtype: type[np.floating[Any]]) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": np.array([[3, 4]], dtype), "whole": np.ones(2, np.int32), "none": np.zeros((0, 4), dtype)}, file)
    assert dict(tensors.norms(file)) == {"a": 5.0, "none": 0.0}
    save_file({"a": np.full((300, 300), np.finfo(dtype).max)}, file)
    assert dict(tensors.norms(file))["a"] > float(np.finfo(dtype).max)


def test_norm_is_told_in_bfloat16(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + (0x4040).to_bytes(2, "little") + (0xC080).to_bytes(2, "little"))
    assert dict(tensors.norms(file)) == {"a": 5.0}


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F3", "shape": [2], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2]}, [], None, {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]},
    ],
    ids=lambda entry: str(entry)[:40],
)  # fmt: skip
def test_header_that_lies_is_refused(tmp_path: Path, entry: object) -> None:
    file = tmp_path / "x.safetensors"
    header = json.dumps({"a": entry}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(SumikaError) as told:
        tensors.list_tensors(file)
    assert told.value.code == "bad_weights"


def test_canary_saved_and_loaded_is_itself(tmp_path: Path) -> None:
    prompts = [CanaryPrompt([1, 2], [3], [-0.5], [-1.5]), CanaryPrompt([4], [5, 6], [0.0, -1.0], [-2.0, -3.0])]
    canary.save(tmp_path, prompts)
    assert canary.load(tmp_path) == prompts
    told = [[-0.5], [0.0, -1.0]]
    assert canary.judge(VersionRef("faq", 1), prompts, told).from_adapter == 0


def test_canary_that_is_not_there_proves_nothing(tmp_path: Path) -> None:
    assert canary.load(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"prompts": [1]}', '{"prompts": [{}]}', '{"prompts": {"a": 1}}', '{"prompts": []}',
        '{"prompts": [{"prompt_ids": [1], "answer_ids": [2], "adapter": null, "base": null}]}',
        '{"prompts": [{"prompt_ids": [1], "answer_ids": [2], "adapter": ["x"], "base": [1]}]}',
        '{"prompts": [{"prompt_ids": "1", "answer_ids": [2], "adapter": [-1], "base": [-1]}]}',
        '{"prompts": [{"prompt_ids": [], "answer_ids": [2], "adapter": [-1], "base": [-1]}]}',
        '{"prompts": [{"prompt_ids": [1], "answer_ids": [2, 3], "adapter": [-1], "base": [-1]}]}',
        '{"prompts": [{"prompt_ids": [1], "answer_ids": [], "adapter": [], "base": []}]}',
        '{"prompts": [{"prompt_ids": [1.5], "answer_ids": [2], "adapter": [-1], "base": [-1]}]}',
        '{"prompts": [{"prompt_ids": [true], "answer_ids": [2], "adapter": [-1], "base": [-1]}]}',
        '{"prompts": [{"prompt_ids": [1], "answer_ids": [2], "adapter": [NaN], "base": [-1]}]}',
    ],
    ids=range(16),
)  # fmt: skip
def test_canary_of_the_wrong_kind_is_told_when_it_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / canary.REFERENCE).write_text(text)
    with pytest.raises(SumikaError) as told:
        canary.load(tmp_path)
    assert told.value.code == "broken_artifact"


def test_canary_of_the_wrong_kind_is_refused_at_import(make_adapter: MakeAdapter, base_folder: Path) -> None:
    adapter = make_adapter()
    (adapter / canary.REFERENCE).write_text(
        '{"prompts": [{"prompt_ids": [1], "answer_ids": [2], "adapter": null, "base": null}]}'
    )
    with pytest.raises(SumikaError):
        adapter_rules.check(adapter, base_folder, 16)


def test_canary_nearer_to_the_base_than_to_the_adapter_is_refused_though_both_are_near() -> None:
    near = [CanaryPrompt([1], [2], [-1.0], [-1.2])]
    with pytest.raises(SumikaError) as told:
        canary.judge(VersionRef("faq", 1), near, [[-1.19]])
    assert told.value.code == "canary_base"
    assert canary.judge(VersionRef("faq", 1), near, [[-1.01]]).from_adapter < 0.02
