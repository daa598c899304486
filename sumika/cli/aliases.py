"""`sumika deploy`, `promote`, `abort`, `rollback`: ask for an alias to move, and wait until it is done or refused. `undeploy`, `scale`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from sumika.cli import output, proof
from sumika.cli.context import actor, opened
from sumika.cli.output import Json
from sumika.models import aliases, audit, engines, keys, moves, registry, scales
from sumika.models.audit import Action
from sumika.models.errors import SumikaError
from sumika.models.moves import Move
from sumika.models.names import VersionRef
from sumika.models.store import Store

_POLL_S = 0.02
Alias = Annotated[str, typer.Argument(help="The name apps call.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
Override = Annotated[bool, typer.Option(help="Serve a version that failed its evaluation; needs --reason.")]
Wait = Annotated[bool, typer.Option(help="Wait until it is done or refused.")]


def register(app: typer.Typer) -> None:
    for command in (deploy, promote, abort, rollback, undeploy, scale):
        app.command(command.__name__)(command)


def deploy(
    alias: Alias,
    version: Annotated[str, typer.Argument(help="NAME@N.")],
    reason: Reason = "",
    canary: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="Let only this share of the keys have it; then 'promote' or 'abort'.")
    ] = None,
    override: Override = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Let ALIAS serve VERSION, once it is loaded and proven."""
    action = Action.ALIAS_DEPLOY if canary is None else Action.ALIAS_CANARY
    with opened() as (_, store):
        with audit.refusals(store, action, alias), store.write() as connection:
            to = registry.get(connection, VersionRef.parse(version))
            if canary is None:
                move = aliases.ask_deploy(connection, alias, to, actor=actor(), reason=reason, override=override)
            else:
                move = aliases.ask_canary(connection, alias, to, canary, actor=actor(), reason=reason, override=override)
        _finish(store, move, wait, json)


def promote(alias: Alias, reason: Reason = "", override: Override = False, wait: Wait = True, json: Json = False) -> None:
    """Let everybody have the canary of ALIAS."""
    with opened() as (_, store):
        with audit.refusals(store, Action.ALIAS_PROMOTE, alias), store.write() as connection:
            move = aliases.ask_promote(connection, alias, actor=actor(), reason=reason, override=override)
        _finish(store, move, wait, json)


def abort(alias: Alias, reason: Reason = "", json: Json = False) -> None:
    """End the canary of ALIAS, or its open move; what it serves stays."""
    with opened() as (_, store):
        with audit.refusals(store, Action.ALIAS_ABORT, alias), store.write() as connection:
            move = aliases.abort(connection, alias, actor=actor(), reason=reason)
    if json:
        output.print_json(move.shown())
    elif move.kind == "abort":
        output.say(
            f"The canary {move.from_ref} is ended; {alias} → {move.to_ref} for everybody.",
            f"カナリア {move.from_ref} を終えました。{alias} は全員に {move.to_ref} を提供します。",
        )
    else:
        output.say(f"The move of {alias} to {move.to_ref} is ended.", f"{alias} の {move.to_ref} への切り替えを中止しました。")


def rollback(alias: Alias, reason: Reason = "", override: Override = False, wait: Wait = True, json: Json = False) -> None:
    """Let ALIAS serve again what it served before."""
    with opened() as (_, store):
        with audit.refusals(store, Action.ALIAS_ROLLBACK, alias), store.write() as connection:
            move = aliases.ask_rollback(connection, alias, actor=actor(), reason=reason, override=override)
        _finish(store, move, wait, json)


def undeploy(alias: Alias, reason: Reason = "", json: Json = False) -> None:
    """Remove ALIAS; its version stays, and engines that no other alias needs are ended."""
    with opened() as (_, store), audit.refusals(store, Action.ALIAS_REMOVE, alias), store.write() as connection:
        removed = aliases.remove(connection, alias, actor=actor(), reason=reason)
        version = str(registry.by_id(connection, removed.version_id).ref)
    if json:
        output.print_json({"alias": alias, "version": version})
    else:
        output.say(
            f"{alias} is removed (it served {version}).", f"{alias} を削除しました(提供していた版: {version})。"
        )  # fmt: skip


def scale(
    base: Annotated[str, typer.Argument(help="A base model's name, without @N.")],
    replicas: Annotated[int, typer.Argument(help="How many engines each served version of it shall have.")],
    json: Json = False,
) -> None:
    """Let BASE be served by so many engines; each holds all its adapters."""
    with opened() as (_, store), audit.refusals(store, Action.BASE_SCALE, base), store.write() as connection:
        scales.put(connection, base, replicas, actor=actor())
    if json:
        output.print_json({"base": base, "replicas": replicas})
    else:
        output.say(
            f"{base}: {replicas} engines asked for; see 'sumika status'.",
            f"{base}: エンジン {replicas} 個を依頼しました。sumika status で確認できます。",
        )


def wait_for(store: Store, move: Move) -> Move:
    """The move when it has ended; with what it waits for shown meanwhile."""
    began = time.monotonic()
    with output.err().status("") as line:
        while move.state == "open":
            time.sleep(_POLL_S)
            with store.read() as connection:
                move = moves.get(connection, move.id)
                states = [engine.state for engine in engines.list_all(connection)]
            line.update(_waiting(move, states, time.monotonic() - began))
    if move.state == "refused":
        raise move.failure or SumikaError("refused", "The move was refused.", "切り替えは拒否されました。", status=409)
    return move


def _waiting(move: Move, states: Sequence[str], seconds: float) -> str:
    if not states:
        en, ja = "nobody starts an engine; is 'sumika up' running?", "エンジンが起動されません。sumika up は動いていますか"
    elif "starting" in states:
        en, ja = "vLLM is starting (one to two minutes on a CPU)", "vLLMを起動しています(CPUでは1〜2分)"
    else:
        en, ja = _STEPS.get(move.step, _STEPS["asked"])
    return f"{ja if output.language() == 'ja' else en}  {seconds:.0f} s"


_STEPS = {
    "asked": ("loading and proving", "読み込みと確認"),
    "rolling": ("an engine of the old base makes room", "旧ベースのエンジンを1つ減らして場所を空けています"),
    "holding": ("the old base makes room; requests wait", "旧ベースを終了して入れ替えています(リクエストは待機中)"),
    "returning": ("the new base failed; the old one comes back", "新しいベースが起動できないため、元に戻しています"),
}


def _finish(store: Store, move: Move, wait: bool, json: bool) -> None:
    if wait:
        move = wait_for(store, move)
    if json:
        output.print_json(move.shown())
    elif move.state != "done":
        output.say(f"Asked for {move.alias} → {move.to_ref}.", f"{move.alias} → {move.to_ref} を依頼しました。")
    elif move.kind == "canary":
        _tell_canary(store, move)
    else:
        before = f" (was {move.from_ref})" if move.from_ref else ""
        output.say(
            f"{move.alias} → {move.to_ref}{before}",
            f"{move.alias} → {move.to_ref}{f'(以前は {move.from_ref})' if before else ''}",
        )
        proof.mark_unproven(store, move)


def _tell_canary(store: Store, move: Move) -> None:
    with store.read() as connection:
        valid = [key for key in keys.list_all(connection) if key.valid_at(datetime.now(UTC)) and key.may_use(move.alias)]
    drawn = sum(aliases.has_canary(move.alias, key.id, move.share or 0) for key in valid)
    output.say(
        f"{move.alias}: {move.share} % → {move.to_ref} ({drawn} of {len(valid)} keys), the rest → {move.from_ref}. "
        f"Then 'sumika promote {move.alias}' or 'sumika abort {move.alias}'.",
        f"{move.alias}: {move.share} % を {move.to_ref} へ(キー {len(valid)} 個中 {drawn} 個)、残りは {move.from_ref}。"
        f"結果を見て sumika promote {move.alias} または sumika abort {move.alias} を実行してください。",
    )
