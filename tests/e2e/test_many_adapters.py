"""Many adapters behind as many aliases on one real vLLM: 8 slots, 16 in memory, the rest read from disk when asked for.

`make test` takes 24, which is more than memory holds; `make test-all` takes a hundred.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sumika.models import adapter_rules, aliases, importing, moves, registry
from sumika.models.registry import Version
from tests.e2e.conftest import MAX_CPU_LORAS, Real
from tests.integration.conftest import until
from tests.many_adapters import ALL_WORDS, QUESTION, train

WORDS = ALL_WORDS[: int(os.environ.get("SUMIKA_TEST_ADAPTERS", 24))]

Voices = dict[str, Version]
"""Word → the version that says it. Its name is its alias too."""


@pytest.fixture(scope="module")
def voices(real: Real, tmp_path_factory: pytest.TempPathFactory) -> Voices:
    """Trained, imported and deployed, each to an alias of its own, all moves open at once."""
    home = real.settings.layout
    with real.store.read() as connection:
        base = registry.by_id(connection, real.adapter.engine_base_id)
    trained = train(home.artifacts / base.folder, WORDS, tmp_path_factory.mktemp("voices"))
    made = {
        word: importing.import_adapter(real.store, home, folder.name, folder, base=base.ref, max_lora_rank=16)
        for word, folder in trained.items()
    }
    with real.store.write() as connection:
        asked = [aliases.ask_deploy(connection, v.ref.name, v, actor="test", reason="") for v in made.values()]

    def none_open() -> bool:
        with real.store.read() as connection:
            return not moves.list_open(connection)

    until(none_open, within=60, what="all moves")
    with real.store.read() as connection:
        assert {moves.get(connection, move.id).state for move in asked} == {"done"}
    last = made[WORDS[-1]]
    until(lambda: real.served(last.ref.name, last), what="the gateway has seen the last move")
    return made


@pytest.fixture
def client(real: Real) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=real.url, headers={"authorization": f"Bearer {real.key}"}, timeout=120) as opened:
        yield opened


def ask(client: httpx.Client, version: Version) -> httpx.Response:
    body = {"model": version.ref.name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 8}
    return client.post("/chat/completions", json=body)


def said(client: httpx.Client, version: Version) -> str:
    """What the alias of `version` answers; checked that this very version did, and ended by itself."""
    response = ask(client, version)
    assert response.status_code == 200, response.text
    assert response.headers["x-sumika-version"] == str(version.ref)
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"])


def push_out(client: httpx.Client, voices: Voices, words: Sequence[str]) -> None:
    """Ask so many others that vLLM keeps none of `words` in memory."""
    others = [word for word in voices if word not in words][:MAX_CPU_LORAS]
    assert [said(client, voices[word]) for word in others] == others


def test_each_says_its_own_word_one_after_another(client: httpx.Client, voices: Voices) -> None:
    assert len(voices) == len(WORDS) > MAX_CPU_LORAS
    order = random.Random(0).sample(WORDS, len(WORDS))
    assert [said(client, voices[word]) for word in order] == order


def test_each_says_its_own_word_with_32_at_once(client: httpx.Client, voices: Voices) -> None:
    order = random.Random(1).sample(WORDS, len(WORDS))
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda word: said(client, voices[word]), order)) == order


def test_adapter_long_not_asked_for_is_read_from_disk_again(real: Real, client: httpx.Client, voices: Voices) -> None:
    """Seen by what it says: while vLLM had forgotten two of them, each got the other's weights."""
    one, other = WORDS[-2:]
    push_out(client, voices, (one, other))
    seen = real.settings.layout.engines / real.engine().id  # the engine's own links to what was found right when it was told
    with _exchanged(*(seen / str(voices[word].ref) / adapter_rules.WEIGHTS for word in (one, other))):
        assert (said(client, voices[one]), said(client, voices[other])) == (other, one)
    push_out(client, voices, (one, other))
    assert (said(client, voices[one]), said(client, voices[other])) == (one, other)


def test_deleted_folder_costs_its_own_alias_only_and_heals_when_it_is_back(
    real: Real, client: httpx.Client, voices: Voices, tmp_path: Path
) -> None:
    """vLLM ends, for everybody, when it must read an adapter that is not there; so it is not asked to."""
    lost = voices[WORDS[-1]]
    folder, pid = real.settings.layout.artifacts / lost.folder, real.engine().pid
    push_out(client, voices, [WORDS[-1]])
    shutil.move(folder, tmp_path / "kept")
    ready = real.url.replace("/v1", f"/health/ready?model={lost.ref.name}")
    until(lambda: httpx.get(ready, headers=client.headers).status_code == 503, what="the missing files are noticed")
    refusal = ask(client, lost)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "model_not_ready")
    push_out(client, voices, [WORDS[-1]])
    assert str(folder) in until(lambda: _told(real, lost), what="the reason stands in the log")
    shutil.move(tmp_path / "kept", folder)
    until(lambda: ask(client, lost).status_code == 200, what="serving again by itself")
    assert said(client, lost) == WORDS[-1]
    assert real.engine().pid == pid and real.engine().restarts == 0


def _told(real: Real, version: Version) -> str | None:
    return next((line for line in real.log.read_text().splitlines() if f"{version.ref} can't be loaded" in line), None)


@contextmanager
def _exchanged(one: Path, other: Path) -> Iterator[None]:
    _exchange(one, other)
    try:
        yield
    finally:
        _exchange(one, other)


def _exchange(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
