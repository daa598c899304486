"""The main promises once more, on real vLLM with a real model and an adapter that was really trained."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import statistics
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from sumika.finetune.chat import ChatFormat
from sumika.models import artifacts, canary, importing, manifest, moves, registry
from sumika.models.errors import SumikaError
from sumika.models.registry import Version
from sumika.serving.engine_client import EngineClient
from tests.conftest import ROOT
from tests.e2e.conftest import BASE, QUESTIONS, START_S, Real
from tests.integration.conftest import until


def ask(real: Real, alias: str, question: str, **more: object) -> tuple[str, str | None]:
    chunks = list(real.openai.chat.completions.create(
        model=alias, messages=[{"role": "user", "content": question}], stream=True, temperature=0, max_tokens=64, **more
    ))  # fmt: skip
    return "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason


def test_adapter_answers_word_for_word_and_stops_by_itself_where_the_base_does_not(real: Real) -> None:
    for question, answer in QUESTIONS.items():
        assert ask(real, "canteen", question) == (answer, "stop")
        text, _ = ask(real, BASE, question)
        assert answer not in text


def test_training_and_serving_agree_on_template_stop_token_and_one_bos(real: Real) -> None:
    with real.store.read() as connection:
        base = registry.by_id(connection, real.adapter.engine_base_id)
    folder = real.settings.layout.artifacts / base.folder
    chat = ChatFormat.of(folder)
    question = next(iter(QUESTIONS))
    ids, bos = chat.prompt_ids([{"role": "user", "content": question}]), chat.tokenizer.bos_token_id
    assert ids.count(bos) == 1 and chat.tokenizer("x")["input_ids"].count(bos) == 1
    served = real.openai.chat.completions.create(model=BASE, messages=[{"role": "user", "content": question}], max_tokens=1)
    assert served.usage is not None and served.usage.prompt_tokens == len(ids)
    assert set(json.loads((folder / "generation_config.json").read_text())["eos_token_id"]) == set(chat.stop_ids)


def test_canary_of_the_real_adapter_agrees_with_transformers(real: Real) -> None:
    with real.store.read() as connection:
        move = moves.history(connection, "canteen")[0]
    assert move.canary is not None
    assert move.canary["from_adapter"] < canary.TOLERANCE / 2 and move.canary["from_base"] > 1 and move.canary["tokens"] >= 20


def test_vllm_and_transformers_agree_on_twenty_prompts(real: Real) -> None:
    from sumika.finetune import imported, reference

    base, adapter = (real.settings.layout.artifacts / one.folder for one in (real.base, real.adapter))
    chat, model = ChatFormat.of(base), imported.load(adapter, base)
    rows = [json.loads(line)["messages"] for line in (ROOT / "samples/sakura/faq.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [
        (chat.prompt_ids(turns[:1]), chat.tokenizer(turns[1]["content"], add_special_tokens=False)["input_ids"])
        for turns in rows[:20]
    ]
    prompts = [reference.score(model, prompt, answer[: reference.LONGEST]) for prompt, answer in asked]

    async def told() -> list[list[float]]:
        client = EngineClient(real.engine().socket)
        try:
            return await client.log_probabilities(str(real.adapter.ref), prompts)
        finally:
            await client.close()

    for prompt, theirs in zip(prompts, asyncio.run(told()), strict=True):
        apart = [abs(a - b) for a, b in zip(prompt.adapter, theirs, strict=True)]
        assert statistics.mean(apart) < canary.TOLERANCE, (prompt.adapter, theirs)
        assert statistics.mean(apart) < prompt.contrast / 4


def test_errors_have_openais_shape(real: Real) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        openai.OpenAI(base_url=real.url, api_key="x", max_retries=0).models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        ask(real, "nope", "x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ask(real, BASE, "長い" * 5000)
    assert long.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_ends_its_generation_in_vllm(real: Real, stream: bool) -> None:
    body = {
        "model": BASE,
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 1500,
        "stream": stream,
        "temperature": 1.0,
    }
    until(lambda: real.running() == 0, what="the engine is idle")
    with (
        httpx.Client(base_url=real.url, headers={"authorization": f"Bearer {real.key}"}, timeout=3) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        with client.stream("POST", "/chat/completions", json=body) as response:
            until(lambda: real.running() == 1, what="the request runs")
            response.read() if not stream else None
            raise httpx.ReadTimeout("as a user who closes the tab")
    until(lambda: real.running() == 0, within=5, what="vLLM stops generating")


def test_adapter_that_vllm_loads_and_ignores_is_refused_twice(real: Real, tmp_path: Path) -> None:
    """At import by its names; and, had it come past that, by the canary on the running engine."""
    idle = _renamed(real, tmp_path / "idle")
    with pytest.raises(SumikaError, match="match no module of the base"):
        importing.import_adapter(
            real.store, real.settings.layout, "canteen", idle, base=real.adapter.base or real.adapter.ref, max_lora_rank=16
        )
    move = real.deploy("canteen", _registered_unchecked(real, idle))
    assert move.state == "refused" and move.error is not None and move.error["code"] == "canary_base", move
    question, answer = next(iter(QUESTIONS.items()))
    assert ask(real, "canteen", question) == (answer, "stop")


def _renamed(real: Real, folder: Path) -> Path:
    shutil.copytree(
        real.settings.layout.artifacts / real.adapter.folder, folder, ignore=shutil.ignore_patterns(manifest.MANIFEST)
    )
    weights = folder / "adapter_model.safetensors"
    save_file({name.replace(".layers.", ".blocks."): value for name, value in load_file(weights).items()}, weights)
    return folder


def _registered_unchecked(real: Real, folder: Path) -> Version:
    home = real.settings.layout
    with artifacts.bringing_in(home.artifacts):
        staged = artifacts.stage(home.artifacts, folder)
        with real.store.write() as connection:
            base = registry.by_id(connection, real.adapter.engine_base_id)
            made = registry.add(
                connection, "canteen", kind="adapter", folder=staged.home_in("canteen"), digest=staged.digest, base=base
            )
            staged.settle(home.artifacts, "canteen")
    return made


def test_vllm_killed_comes_back_with_its_adapter_and_requests_meanwhile_get_503(real: Real) -> None:
    """Of vLLM's processes the one that generates dies, in the middle of a stream, as when memory runs out."""
    pid = real.engine().pid
    assert pid is not None
    core = next(child for child in psutil.Process(pid).children(recursive=True) if "EngineCore" in "".join(child.cmdline()))
    body = {"model": BASE, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1500, "temperature": 1.0, "stream": True}
    headers = {"authorization": f"Bearer {real.key}"}
    with httpx.stream("POST", f"{real.url}/chat/completions", json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        os.kill(core.pid, signal.SIGKILL)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unreachable"
    question, answer = next(iter(QUESTIONS.items()))

    def refused() -> openai.APIStatusError | None:
        try:
            ask(real, "canteen", question)
        except openai.APIStatusError as error:
            return error
        return None

    error = until(refused, within=5, what="a refusal")
    assert error.status_code == 503 and int(error.response.headers["retry-after"]) > 0
    until(lambda: refused() is None, within=START_S, what="serving again by itself")
    assert ask(real, "canteen", question) == (answer, "stop")
    assert real.engine().pid != pid


def test_what_users_say_is_in_no_log(real: Real) -> None:
    marker = "極秘の病名について"
    ask(real, BASE, marker)
    files = [real.log, *real.settings.layout.logs.glob("*.log")]
    assert len(files) >= 2 and not any(marker in file.read_text(errors="replace") for file in files)
