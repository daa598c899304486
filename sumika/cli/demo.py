"""`sumika demo`: the whole way on real parts, from a base model to the company's own answering over REST.

Every step looks at what is there and does only what is missing, so a second run starts where the first one ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import output, pulling
from sumika.cli.aliases import wait_for
from sumika.cli.context import actor, opened
from sumika.cli.finetune import tell_judged
from sumika.cli.rest import Rest, connected
from sumika.finetune import config as jobs
from sumika.finetune import pipeline
from sumika.finetune.config import JobConfig
from sumika.models import aliases, catalog, engines, keys, moves, registry
from sumika.models.errors import SumikaError
from sumika.models.home import write_atomically
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import stack
from sumika.serving.process import tail

JOB = Path("configs/finetune/sakura-faq.yaml")
QUESTION = "有給を取りたいのですが、どのシステムで何日前までに申請すればいいですか。"
_STREAM_QUESTION = "会社の制度について教えてください。"
_ANSWER = {"max_tokens": 96, "temperature": 0}
_POLL_S = 0.1


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    base: Annotated[str, typer.Option(help="A catalog id ('sumika doctor' lists them).")] = "gemma-3-270m",
    keep_serving: Annotated[bool, typer.Option(help="Go on serving until Ctrl-C when the show is over.")] = True,
) -> None:
    """Import a base, serve it on real vLLM, tune it on the sample company's FAQ, swap the result in, and ask."""
    entry = catalog.get(base)
    with opened() as (settings, store):
        _step(1, "base model", "ベースモデル")
        version = pulling.pull(settings, store, entry)
        output.out().print(f"  {version.ref}", highlight=False)
        _step(2, "real vLLM serves it", "vLLMで配備")
        with _running_stack(settings) as process:
            show = _Demo(settings, store, version, process)
            try:
                asyncio.run(_serve_base(show))
                _step(3, "LoRA on the sample company's FAQ", "サンプル企業のFAQで学習")
                adapter = _trained(show)
                tell_judged(adapter)
                asyncio.run(_swap_and_ask(show, adapter))
                if keep_serving:
                    _tell_how_to_ask(settings, adapter)
                    process.wait()
                    show.check_running()
            except KeyboardInterrupt:
                pass


@dataclass(frozen=True, slots=True)
class _Demo:
    settings: Settings
    store: Store
    base: Version
    process: subprocess.Popen[bytes]

    def check_running(self) -> None:
        """Raises SumikaError `stack_ended` or `engine_failed`: nothing to wait for any more."""
        if self.process.poll() is not None:
            log = self.settings.layout.logs / "demo.log"
            raise SumikaError(
                "stack_ended",
                f"Sumika ended by itself. Last lines of {log}:\n{tail(log)}",
                f"Sumikaが終了しました。{log} の末尾:\n{tail(log)}",
            )
        with self.store.read() as connection:
            failed = next((e for e in engines.list_all(connection) if e.state == "failed" and e.error), None)
        if failed is not None:
            raise SumikaError(
                "engine_failed", f"vLLM did not start. {failed.error}", f"vLLMを起動できませんでした。{failed.error}"
            )


async def _serve_base(show: _Demo) -> None:
    async with connected(show.settings, _app_key(show.settings, show.store)) as rest:
        await _deployed(show, show.base, "the demo's base model")
        await _answering(show, rest, show.base.ref.name)


async def _swap_and_ask(show: _Demo, adapter: Version) -> None:
    async with connected(show.settings, _app_key(show.settings, show.store)) as rest:
        _step(4, "swap while a stream is being served", "応答を流しながら切り替え")
        await _swapped(show, rest, adapter)
        await _answering(show, rest, adapter.ref.name)
        _step(5, "the same question, over REST with a key", "同じ質問をREST APIで")
        await _compared(rest, show.base, adapter)


def _step(number: int, en: str, ja: str) -> None:
    output.say(f"\n[bold]{number}/5  {en}[/]", f"\n[bold]{number}/5  {ja}[/]")


def _trained(show: _Demo) -> Version:
    """The newest adapter of exactly this job on this base; trained first if there is none."""
    config = jobs.load(JOB, [f"base.version={show.base.ref}"])
    with show.store.read() as connection:
        for version in reversed(registry.list_all(connection)):
            if version.base == show.base.ref and _made_by(version, config):
                output.say(f"  {version.ref} is there already", f"  {version.ref} は学習済みです")
                return version
    return pipeline.run(config, show.store, show.settings.layout, output.out())


def _made_by(version: Version, config: JobConfig) -> bool:
    training = version.meta.get("training", {})
    return bool(training.get("config") == config.model_dump(mode="json"))


def _serves(show: _Demo, version: Version) -> bool:
    with show.store.read() as connection:
        alias = aliases.find(connection, version.ref.name)
    return alias is not None and alias.version_id == version.id


async def _deployed(show: _Demo, to: Version, reason: str) -> None:
    """The alias of the version's own name leads to it; asked for and waited for where it does not."""
    alias = to.ref.name
    if _serves(show, to):
        return
    with show.store.write() as connection:
        move = next((m for m in moves.list_open(connection) if m.alias == alias and m.to_id == to.id), None)
        move = move or aliases.ask_deploy(connection, alias, to, actor=actor(), reason=reason)
    await asyncio.to_thread(wait_for, show.store, move)


async def _answering(show: _Demo, rest: Rest, alias: str) -> None:
    """Wait until `alias` answers, with the engine's own last log line to look at meanwhile."""
    began = time.monotonic()
    with output.err().status("") as line:
        while not await rest.ready(alias):
            show.check_running()
            logs = sorted(show.settings.layout.logs.glob("engine-*.log"), key=lambda path: path.stat().st_mtime)
            last = tail(logs[-1], 1)[-90:] if logs else ""
            line.update(f"vLLM {time.monotonic() - began:.0f} s  [dim]{last.replace('[', ' ')}[/]")
            await asyncio.sleep(_POLL_S)
    output.say(f"  {alias} answers", f"  {alias} が応答します")


async def _swapped(show: _Demo, rest: Rest, adapter: Version) -> None:
    """Move the adapter's alias while the base streams an answer, and show that the stream went on to its end."""
    if _serves(show, adapter):
        output.say(f"  {adapter.ref.name} serves {adapter.ref} already", f"  {adapter.ref.name} は {adapter.ref} を配備済みです")
        return
    pieces, moved_at = 0, 0

    async def stream() -> None:
        nonlocal pieces
        messages = [{"role": "user", "content": _STREAM_QUESTION}]
        async for _ in rest.chat(show.base.ref.name, messages, max_tokens=120, temperature=0.8):
            pieces += 1

    streaming = asyncio.create_task(stream())
    while pieces < 3 and not streaming.done():
        await asyncio.sleep(_POLL_S)
    began = time.monotonic()
    await _deployed(show, adapter, "the demo's adapter")
    seconds, moved_at = time.monotonic() - began, pieces
    await streaming
    output.say(
        f"  {adapter.ref.name} → {adapter.ref} in {seconds:.1f} s; the stream had {moved_at} pieces then and ended whole with {pieces}",
        f"  {adapter.ref.name} → {adapter.ref} を {seconds:.1f} 秒で切り替え。配信中の応答は {moved_at} 片目で切り替わり、{pieces} 片で最後まで届きました",
    )


async def _compared(rest: Rest, base: Version, adapter: Version) -> None:
    output.out().print(f"\n  [bold]{QUESTION}[/]", highlight=False)
    for alias in (base.ref.name, adapter.ref.name):
        text, last = await rest.answer(alias, QUESTION, **_ANSWER)
        shown = " ".join(text.split()) or "(…)"
        output.out().print(f"\n  [cyan]{last.version}[/] [dim]finish_reason={last.finish_reason}[/]", highlight=False)
        output.out().print(f"  {shown[:160]}", highlight=False, markup=False)


def _app_key(settings: Settings, store: Store) -> str:
    """The demo's own key, made once: an app's, not an administrator's."""
    file = settings.layout.root / "demo.key"
    if file.exists():
        secret = file.read_text().strip()
        with store.read() as connection:
            if any(key.hash == keys.hashed(secret) and not key.revoked_at for key in keys.list_all(connection)):
                return secret
    with store.write() as connection:
        secret, _ = keys.create(connection, "demo")
        write_atomically(file, secret.encode() + b"\n", mode=0o600)
    return secret


@contextmanager
def _running_stack(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """`sumika up` as a process of its own; ended, drained, when the show is over however it ends."""
    stack.check_port(settings)
    log = settings.layout.logs / "demo.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "sumika.cli.main", "up", "--parent", str(os.getpid())],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            output.say("\ndraining …", "\n処理中の応答を終えています…")
            process.send_signal(signal.SIGTERM)
        process.wait()


def _tell_how_to_ask(settings: Settings, adapter: Version) -> None:
    file = settings.layout.root / "demo.key"
    file = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    command = (
        f'curl {settings.url}/v1/chat/completions -H "Authorization: Bearer $(cat {file})" '
        f"-H 'Content-Type: application/json' "
        f'-d \'{{"model": "{adapter.ref.name}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}\''
    )
    output.say("\nServing until Ctrl-C. Ask it yourself:", "\nCtrl-Cまで配信を続けます。試してみてください:")
    output.out().print(command, highlight=False, markup=False, soft_wrap=True)
