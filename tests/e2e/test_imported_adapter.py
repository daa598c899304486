"""An adapter that was trained elsewhere and brings no reference: made at import by transformers, proven on vLLM."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sumika.models import canary, manifest, registry
from sumika.models.names import VersionRef
from tests.e2e.conftest import QUESTIONS, Real, run_cli
from tests.e2e.test_real_vllm import ask


@pytest.fixture
def stranger(real: Real, tmp_path: Path) -> Path:
    """The trained adapter as anybody's: its weights and config alone."""
    ours = real.settings.layout.artifacts / real.adapter.folder
    return Path(
        shutil.copytree(
            ours, tmp_path / "stranger", ignore=shutil.ignore_patterns(manifest.MANIFEST, canary.REFERENCE, "records.txt")
        )
    )


def test_reference_is_made_at_import_and_vllm_agrees_with_it(real: Real, stranger: Path) -> None:
    shown = run_cli(real.settings, "models", "import", "stranger", str(stranger), "--base", str(real.adapter.base))
    assert shown["reference"] == "import"
    with real.store.read() as connection:
        version = registry.get(connection, VersionRef.parse(shown["version"]))
    move = real.deploy("stranger", version)
    assert move.state == "done" and move.canary is not None, move
    assert move.canary["from_adapter"] < canary.TOLERANCE / 2 < move.canary["from_base"]
    question, answer = next(iter(QUESTIONS.items()))
    assert ask(real, "stranger", question) == (answer, "stop")


def test_adapter_imported_without_a_reference_is_served_and_told_unproven(real: Real, stranger: Path) -> None:
    shown = run_cli(real.settings, "models", "import", "blind", str(stranger), "--base", str(real.adapter.base), "--no-reference")
    assert shown["reference"] is None
    with real.store.read() as connection:
        version = registry.get(connection, VersionRef.parse(shown["version"]))
    move = real.deploy("blind", version)
    assert move.state == "done" and move.canary is None
    told = run_cli(real.settings, "models", "show", str(version.ref))
    assert told["moves"][0]["proof"] == "unproven"
