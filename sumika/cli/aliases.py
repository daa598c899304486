"""`sumika deploy` and `sumika rollback`: ask for an alias to move, and wait until it is done or refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sumika.cli import output, proof
from sumika.cli.context import actor, opened
from sumika.cli.output import Json
from sumika.models import aliases, engines, registry
from sumika.models.aliases import Move
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef
from sumika.models.store import Store

_POLL_S = 0.02
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
Wait = Annotated[bool, typer.Option(help="Wait until it is done or refused.")]


def register(app: typer.Typer) -> None:
    app.command("deploy")(deploy)
    app.command("rollback")(rollback)


def deploy(
    alias: Annotated[str, typer.Argument(help="The name apps call.")],
    version: Annotated[str, typer.Argument(help="NAME@N.")],
    reason: Reason = "",
    override: Annotated[bool, typer.Option(help="Serve a version that failed its evaluation; needs --reason.")] = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Let ALIAS serve VERSION, once it is loaded and proven."""
    with opened() as (_, store):
        with store.write() as connection:
            to = registry.get(connection, VersionRef.parse(version))
            move = aliases.ask_deploy(connection, alias, to, actor=actor(), reason=reason, override=override)
        _finish(store, move, wait, json)


def rollback(
    alias: Annotated[str, typer.Argument(help="The name apps call.")], reason: Reason = "", wait: Wait = True, json: Json = False
) -> None:
    """Let ALIAS serve again what it served before."""
    with opened() as (_, store):
        with store.write() as connection:
            move = aliases.ask_rollback(connection, alias, actor=actor(), reason=reason)
        _finish(store, move, wait, json)


def described(move: Move) -> dict[str, Any]:
    fields = asdict(move)
    fields["from"] = str(move.from_ref) if move.from_ref else None
    fields["to"] = str(move.to_ref)
    return {k: v for k, v in fields.items() if k not in ("from_ref", "to_ref", "to_id")}


def wait_for(store: Store, move: Move) -> Move:
    """The move when it has ended; with what it waits for shown meanwhile."""
    began = time.monotonic()
    with output.err().status("") as line:
        while move.state == "open":
            time.sleep(_POLL_S)
            with store.read() as connection:
                move = aliases.get_move(connection, move.id)
                states = [engine.state for engine in engines.list_all(connection)]
            line.update(_waiting(move, states, time.monotonic() - began))
    if move.state == "refused":
        error = move.error or {"code": "refused", "en": "refused", "ja": "拒否されました"}
        raise SumikaError(error["code"], error["en"], error["ja"], status=409)
    return move


def _waiting(move: Move, states: Sequence[str], seconds: float) -> str:
    if not states:
        en, ja = "nobody starts an engine; is 'sumika up' running?", "エンジンが起動されません。sumika up は動いていますか"
    elif "starting" in states:
        en, ja = "vLLM is starting (one to two minutes on a CPU)", "vLLMを起動しています(CPUでは1〜2分)"
    else:
        en, ja = f"{move.to_ref}: {move.step}", f"{move.to_ref}: {move.step}"
    return f"{ja if output.language() == 'ja' else en}  {seconds:.0f} s"


def _finish(store: Store, move: Move, wait: bool, json: bool) -> None:
    if wait:
        move = wait_for(store, move)
    if json:
        output.print_json(described(move))
    elif move.state == "done":
        before = f" (was {move.from_ref})" if move.from_ref else ""
        output.say(
            f"{move.alias} → {move.to_ref}{before}",
            f"{move.alias} → {move.to_ref}{f'(以前は {move.from_ref})' if before else ''}",
        )
        proof.mark_unproven(store, move)
    else:
        output.say(f"Asked for {move.alias} → {move.to_ref}.", f"{move.alias} → {move.to_ref} を依頼しました。")
