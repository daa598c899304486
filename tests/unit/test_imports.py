"""Who may import whom, and what a package costs to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.parametrize("module", ["sumika.serving.gateway_role", "sumika.serving.supervisor_role"])
def test_serving_and_command_line_load_no_torch(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "transformers", "vllm", "trl", "peft", "sqlite3"}


def test_command_line_loads_no_torch_and_a_command_only_its_own() -> None:
    assert not loaded_by("from sumika.cli.main import build; build()") & {
        "torch",
        "transformers",
        "vllm",
        "trl",
        "peft",
        "sqlite3",
    }
    assert not loaded_by("from sumika.cli.main import build; build('up')") & {"fastapi", "uvicorn", "numpy", "httpx"}


def test_models_loads_neither_web_nor_torch() -> None:
    import pkgutil

    import sumika.models

    modules = [f"sumika.models.{m.name}" for m in pkgutil.iter_modules(sumika.models.__path__)]
    assert len(modules) > 10
    assert not loaded_by(f"import {', '.join(modules)}") & {"fastapi", "starlette", "uvicorn", "aiohttp", "torch", "transformers"}


def test_import_contracts_hold() -> None:
    told = subprocess.run([f"{sys.prefix}/bin/lint-imports", "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert told.returncode == 0, told.stdout
