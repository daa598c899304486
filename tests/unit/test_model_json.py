"""What a model's folder may say in JSON: nothing that runs code, nothing of a size that no model has, no architecture that vLLM lacks."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sumika.models import importing, model_json
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store

# Helpers of others (drafts of speculative decoding) and ways around code of vLLM's own.
LEFT_OUT = ("_SPECULATIVE_DECODING_MODELS", "_TRANSFORMERS_BACKEND_MODELS")


def refused(store: Store, home: Home, folder: Path) -> SumikaError:
    with pytest.raises(SumikaError) as told:
        importing.import_base(store, home, "base", folder)
    assert list(home.artifacts.glob("*/*")) == []
    return told.value


def changed(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | config))


def test_architectures_are_those_of_vllms_registry() -> None:
    """The list is made anew from here when vLLM is changed."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "model_executor", "models", "registry.py").read_text()
    tables = {
        node.targets[0].id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    parts = [part.id for part in tables["_VLLM_MODELS"].values if isinstance(part, ast.Name) and part.id not in LEFT_OUT]
    names = {key.value for part in parts for key in tables[part].keys if isinstance(key, ast.Constant)}
    assert len(names) > 300 and model_json.architectures() == names


@pytest.mark.parametrize(
    "kinds", [["Evil"], [1], [], ["../../x:Evil"], "LlamaForCausalLM", [["LlamaForCausalLM"]], ["LlamaForCausalLM", "Evil"]]
)
def test_architecture_that_vllm_has_no_code_for_is_refused(store: Store, home: Home, base_folder: Path, kinds: Any) -> None:
    changed(base_folder, architectures=kinds)
    assert refused(store, home, base_folder).code == "bad_model"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json", "anything.json"])
@pytest.mark.parametrize(
    "asks", [{"auto_map": {"AutoModel": "x.Y"}}, {"trust_remote_code": True}, {"custom_pipelines": {"a": {"impl": "x.Y"}}}],
    ids=lambda asks: next(iter(asks)),
)  # fmt: skip
def test_code_of_its_own_is_refused_wherever_it_is_asked_for(
    store: Store, home: Home, base_folder: Path, file: str, asks: dict[str, Any]
) -> None:
    path = base_folder / file
    known = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps(known | {"text_config": {"deeper": [asks]}}))
    error = refused(store, home, base_folder)
    assert error.code == "bad_model" and next(iter(asks)) in error.en and next(iter(asks)) in error.ja


def test_word_of_a_vocabulary_that_spells_the_same_is_no_code(store: Store, home: Home, base_folder: Path) -> None:
    (base_folder / "vocab.json").write_text('{"auto_map": 7, "trust_remote_code": 8}')
    (base_folder / "tokenizer_config.json").write_text('{"trust_remote_code": false}')
    assert importing.import_base(store, home, "base", base_folder).kind == "base"


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 10**12}, {"max_position_embeddings": 10**12}, {"num_hidden_layers": -1}, {"num_hidden_layers": 0}, {"hidden_size": 1.5},
        {"num_attention_heads": True}, {"head_dim": "64"}, {"text_config": {"vocab_size": 10**12}}, {"anything": 10**400}, {"intermediate_size": [2048, 10**12]},
    ],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused(store: Store, home: Home, base_folder: Path, sizes: dict[str, Any]) -> None:
    changed(base_folder, **sizes)
    assert refused(store, home, base_folder).code == "bad_model"


def test_sizes_of_real_models_are_taken(store: Store, home: Home, base_folder: Path) -> None:
    changed(
        base_folder, vocab_size=262_144, hidden_size=640, num_hidden_layers=18, intermediate_size=[2048] * 18, sliding_window=None,
        time_step_limit=[0.0, float("inf")], rope_theta=1e6,
    )  # fmt: skip
    assert importing.import_base(store, home, "base", base_folder).kind == "base"


@pytest.mark.parametrize("file", ["tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_file_that_was_cut_short_is_refused(store: Store, home: Home, base_folder: Path, file: str, text: str) -> None:
    (base_folder / file).write_text(text)
    error = refused(store, home, base_folder)
    assert error.code == "bad_model" and file in error.en


def test_json_too_deep_or_too_large_is_refused(
    store: Store, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base_folder / "deep.json").write_text('{"a":' * 100 + "1" + "}" * 100)
    assert "deep.json" in refused(store, home, base_folder).en
    (base_folder / "deep.json").unlink()
    monkeypatch.setattr(model_json, "_LARGEST_OTHER", 1000)
    (base_folder / "large.json").write_text("[" + "1," * 1000 + "1]")
    assert "large.json" in refused(store, home, base_folder).en


def test_module_that_is_not_sentence_transformers_own_is_refused(store: Store, home: Home, base_folder: Path) -> None:
    (base_folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "custom.Evil"}]')
    assert "custom.Evil" in refused(store, home, base_folder).en


def test_link_to_itself_hard_link_and_link_to_a_link_are_refused(store: Store, home: Home, base_folder: Path) -> None:
    odd = base_folder / "odd.json"
    odd.symlink_to("odd.json")
    assert refused(store, home, base_folder).code == "bad_source"
    odd.unlink()
    odd.symlink_to("other.json")
    (base_folder / "other.json").symlink_to("config.json")
    assert refused(store, home, base_folder).code == "bad_source"
    odd.unlink()
    (base_folder / "other.json").unlink()
    os.link(base_folder / "config.json", base_folder.parent / "same.json")
    error = refused(store, home, base_folder)
    assert error.code == "bad_source" and "hard link" in error.en


def test_file_that_is_replaced_by_a_link_after_it_was_looked_at_is_not_followed(
    store: Store, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sumika.models import artifacts

    (tmp_path / "secret.json").write_text('{"secret": 1}')
    listed = artifacts.list_files

    def swapped(source: Path) -> list[Path]:
        found = listed(source)
        (source / "config.json").unlink()
        (source / "config.json").symlink_to(tmp_path / "secret.json")
        return found

    monkeypatch.setattr(artifacts, "list_files", swapped)
    assert refused(store, home, base_folder).code == "bad_source"


def test_commit_that_fails_leaves_no_copy(store: Store, home: Home, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import Connection, event

    def full(_: Connection) -> None:
        raise SumikaError("disk_full", "the disk is full", "空きがありません")

    event.listen(store.engine, "commit", full)
    try:
        assert refused(store, home, base_folder).code == "disk_full"
    finally:
        event.remove(store.engine, "commit", full)
    assert importing.import_base(store, home, "base", base_folder).kind == "base"
