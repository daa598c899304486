"""Every file that a person edits is valid, and begins with the command that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
