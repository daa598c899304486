"""`sumika keys`: make, list, rotate and revoke API keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.durations import duration
from sumika.cli.output import Json
from sumika.models import audit, keys
from sumika.models.audit import Action
from sumika.models.keys import Key
from sumika.models.principals import ENDPOINTS, ROLES, SENSITIVITIES, USUAL, all_of, one_of

app = typer.Typer(no_args_is_help=True, help="API keys.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for example soumu-bot.")],
    role: Annotated[str, typer.Option(help=", ".join(ROLES))] = "app",
    team: Annotated[str | None, typer.Option(help="The team it belongs to ('sumika teams list').")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="An alias it may use; repeat for more. Default: all.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help=f"What it may call: {', '.join(ENDPOINTS)}. Default: all of its role.")
    ] = None,
    sensitivity: Annotated[
        str, typer.Option(help=f"The most confidential data it may send: {', '.join(SENSITIVITIES)}.")
    ] = USUAL,
    days: Annotated[int | None, typer.Option(min=1, max=3660, help="Days until it expires. Default: never.")] = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    with opened() as (_, store), audit.refusals(store, Action.KEY_CREATE, name), store.write() as connection:
        secret, key = keys.create(
            connection, name, role=one_of(ROLES, role, "role"), team=team, aliases=alias or None,
            endpoints=all_of(ENDPOINTS, endpoint, "endpoint") if endpoint else None,
            sensitivity=one_of(SENSITIVITIES, sensitivity, "sensitivity"), expires_at=expires,
        )  # fmt: skip
    _tell_secret(secret, key, json)


@app.command("list")
def list_keys(json: Json = False) -> None:
    """All keys, without their secrets."""
    with opened() as (_, store), store.read() as connection:
        found = keys.list_all(connection)
    if json:
        output.print_json([key.shown() for key in found])
        return
    rows = [
        (k.id, k.name, k.role, k.team, f"…{k.last4}", _few(k.aliases), _few(k.endpoints), k.sensitivity,
         _day(k.last_used_at), _day(k.expires_at), "revoked" if k.revoked_at else "")
        for k in found
    ]  # fmt: skip
    output.print_table(
        ("id", "name", "role", "team", "key", "aliases", "endpoints", "data up to", "last used", "expires", ""),
        rows, ("No keys yet.", "キーはまだありません。"),
    )  # fmt: skip


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The id that 'sumika keys list' shows.")],
    overlap: Annotated[str, typer.Option(help="How long the old secret stays good: 24h, 7d, 30m, 0.")] = "24h",
    json: Json = False,
) -> None:
    """Give a key a new secret and show it, this once; its id, scopes and limits stay."""
    with opened() as (_, store), audit.refusals(store, Action.KEY_ROTATE, key_id), store.write() as connection:
        secret, key = keys.rotate(connection, key_id, duration(overlap))
    _tell_secret(secret, key, json)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id that 'sumika keys list' shows.")], json: Json = False) -> None:
    """End a key at once."""
    with opened() as (_, store), audit.refusals(store, Action.KEY_REVOKE, key_id), store.write() as connection:
        key = keys.revoke(connection, key_id)
    if json:
        output.print_json(key.shown())
    else:
        output.say(f"{key.name} (…{key.last4}) is revoked.", f"{key.name}(…{key.last4})を失効しました。")


def _tell_secret(secret: str, key: Key, json: bool) -> None:
    if json:
        output.print_json({"key": secret, **key.shown()})
        return
    output.out().print(secret, highlight=False, soft_wrap=True)
    until = key.previous_until[:19] if key.previous_until else None
    output.err().print(
        "このキーは二度と表示されません。安全な場所に保存してください。" if output.language() == "ja"
        else "This key is not shown again; store it in a safe place.", style="dim",
    )  # fmt: skip
    if until is not None:
        output.err().print(
            f"以前のキーは {until} (UTC) まで使えます。"
            if output.language() == "ja"
            else f"The old one is good until {until} UTC.",
            style="dim",
        )


def _few(names: tuple[str, ...] | None) -> str:
    return "*" if names is None else ", ".join(names)


def _day(moment: str | None) -> str:
    return moment[:10] if moment else ""
