"""`sumika chat ALIAS`: talk to what is served, over the same REST endpoint that apps use."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.output import Json
from sumika.cli.rest import Rest, connected, own_key
from sumika.models.errors import SumikaError
from sumika.models.settings import load_settings


def register(app: typer.Typer) -> None:
    app.command("chat")(chat)


def chat(
    alias: Annotated[str, typer.Argument(help="The name apps call.")],
    question: Annotated[str | None, typer.Argument(help="One question; without it, a conversation until Ctrl-D.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 512,
    json: Json = False,
) -> None:
    """Ask ALIAS something, with SUMIKA_API_KEY or this home's admin key."""
    if json and question is None:
        raise SumikaError("bad_usage", "--json needs a question.", "--json には質問が必要です。")
    asyncio.run(_chat(alias, question, max_tokens, json))


async def _chat(alias: str, question: str | None, max_tokens: int, json: bool) -> None:
    settings = load_settings()
    async with connected(settings, own_key(settings)) as rest:
        if json:
            text, last = await rest.answer(alias, question or "", max_tokens=max_tokens)
            output.print_json({"answer": text, "version": last.version, "finish_reason": last.finish_reason})
        elif question is not None:
            await _turn(rest, alias, [{"role": "user", "content": question}], max_tokens)
        else:
            await _converse(rest, alias, max_tokens)


async def _converse(rest: Rest, alias: str, max_tokens: int) -> None:
    messages: list[dict[str, str]] = []
    while True:
        try:
            said = output.out().input("[bold cyan]> [/]").strip()
        except (EOFError, KeyboardInterrupt):
            output.out().print()
            return
        if said:
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": await _turn(rest, alias, messages, max_tokens)})


async def _turn(rest: Rest, alias: str, messages: list[dict[str, str]], max_tokens: int) -> str:
    console, text, version = output.out(), "", ""
    async for piece in rest.chat(alias, messages, max_tokens=max_tokens):
        console.print(piece.text, end="", markup=False, highlight=False, soft_wrap=True)
        text, version = text + piece.text, piece.version
    console.print(f"\n[dim]{version}[/]", highlight=False)
    return text
