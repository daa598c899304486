"""Every file that a person edits is valid, and begins with the command that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sumika.finetune import config as jobs
from sumika.models import catalog
from tests.conftest import ROOT

FILES = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_begins_with_the_command_that_uses_it(path: Path) -> None:
    assert path.read_text().startswith("# Use: sumika ")


def test_catalog_entries_are_valid_and_name_files_that_exist() -> None:
    entries = catalog.entries()
    assert {"gemma-3-270m", "sarashina2.2-1b-instruct"} <= {entry.id for entry in entries}
    assert all(entry.chat_template is None or entry.chat_template.is_file() for entry in entries)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "finetune").glob("*.yaml")), ids=lambda path: path.name)
def test_training_jobs_are_valid(path: Path) -> None:
    assert jobs.load(path).serve.alias


@pytest.mark.parametrize("change", [["chat.system=短く答えてください"], ["stop_early={}", "base.quantize=nf4"], ["job.method=dpo", "train.beta=0.3"], ["train.gpus=2", "train.sharding=fsdp"],
                                    ["evaluate.suites=[{name: tone, path: samples/sakura/heldout.jsonl}]", "serve.gate.suites={tone: 0.5}"]])  # fmt: skip
def test_resolved_job_is_the_job_again(tmp_path: Path, change: list[str]) -> None:
    """What a run keeps of its config is the reproduction: read again, nothing of it is refused or another."""
    job = jobs.load(ROOT / "configs" / "finetune" / "sakura-faq.yaml", change)
    kept = tmp_path / "config.yaml"
    kept.write_text(yaml.safe_dump(job.model_dump(mode="json"), allow_unicode=True, sort_keys=False), encoding="utf-8")
    assert jobs.load(kept) == job
