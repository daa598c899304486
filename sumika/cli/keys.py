"""`sumika keys`: make, list and revoke API keys."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import audit, keys
from sumika.models.audit import Action
from sumika.models.errors import SumikaError
from sumika.models.keys import Key, Role

app = typer.Typer(no_args_is_help=True, help="API keys.")
_ROLES = ("admin", "engineer", "app")


def _shown(key: Key) -> dict[str, Any]:
    """Everything but the hash, which helps nobody and belongs in the store alone."""
    return {name: value for name, value in asdict(key).items() if name != "hash"}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for example soumu-bot.")],
    role: Annotated[str, typer.Option(help="admin, engineer or app.")] = "app",
    alias: Annotated[list[str] | None, typer.Option(help="An alias it may use; repeat for more. Default: all.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3660, help="Days until it expires. Default: never.")] = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    if role not in _ROLES:
        raise SumikaError(
            "bad_role",
            f"'{role}' is no role; use {', '.join(_ROLES)}.",
            f"「{role}」という役割はありません。{', '.join(_ROLES)} から選んでください。",
        )
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    with opened() as (_, store), audit.refusals(store, Action.KEY_CREATE, name), store.write() as connection:
        secret, key = keys.create(connection, name, role=cast(Role, role), aliases=alias or None, expires_at=expires)
    if json:
        output.print_json({"key": secret, **_shown(key)})
        return
    output.out().print(secret, highlight=False, soft_wrap=True)
    output.err().print(
        "このキーは二度と表示されません。安全な場所に保存してください。" if output.language() == "ja"
        else "This key is not shown again; store it in a safe place.", style="dim",
    )  # fmt: skip


@app.command("list")
def list_keys(json: Json = False) -> None:
    """All keys, without their secrets."""
    with opened() as (_, store), store.read() as connection:
        found = keys.list_all(connection)
    if json:
        output.print_json([_shown(key) for key in found])
        return
    rows = [
        (k.id, k.name, k.role, f"…{k.last4}", ", ".join(k.aliases) if k.aliases is not None else "*", k.created_at[:19],
         k.expires_at[:19] if k.expires_at else "", "revoked" if k.revoked_at else "")
        for k in found
    ]  # fmt: skip
    output.print_table(
        ("id", "name", "role", "key", "aliases", "created (UTC)", "expires", ""), rows, ("No keys yet.", "キーはまだありません。")
    )


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id that 'sumika keys list' shows.")], json: Json = False) -> None:
    """End a key at once."""
    with opened() as (_, store), audit.refusals(store, Action.KEY_REVOKE, key_id), store.write() as connection:
        key = keys.revoke(connection, key_id)
    if json:
        output.print_json(_shown(key))
    else:
        output.say(f"{key.name} (…{key.last4}) is revoked.", f"{key.name}(…{key.last4})を失効しました。")
