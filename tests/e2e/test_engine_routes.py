"""The routes of the vLLM that is installed are those that `serving.engine_routes` has looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sumika.serving import engine_routes
from tests.conftest import ROOT


def test_every_route_of_vllm_is_classified(tmp_path: Path) -> None:
    answer = tmp_path / "routes.json"
    run = subprocess.run([sys.executable, "-m", "tests.vllm_routes", str(answer)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    found = set(json.loads(answer.read_text()))
    used = {path for routes in engine_routes.USED.values() for _, path in routes}
    assert {"/pause", "/collective_rpc", "/v1/embeddings", "/v1/chat/completions"} <= found  # it was really read
    assert found - used - engine_routes.UNUSED == set(), "routes of vLLM that nobody has looked at"
    only_with_the_cohere_package = {"/cohere/v2/chat"}
    assert engine_routes.UNUSED - found - only_with_the_cohere_package == set(), "routes that vLLM has no more"
    assert not used & engine_routes.UNUSED


@pytest.mark.parametrize(
    ("user", "method", "path"),
    [
        ("gateway", "POST", "/v1/load_lora_adapter"), ("gateway", "GET", "/v1/chat/completions"), ("gateway", "POST", "/v1/completions/../x"),
        ("supervisor", "POST", "/pause"), ("supervisor", "POST", "/invocations"),
    ],
)  # fmt: skip
def test_path_that_is_not_ours_is_no_url(user: engine_routes.User, method: str, path: str) -> None:
    with pytest.raises(ValueError, match=f"{user} may not"):
        engine_routes.url(user, method, path)
