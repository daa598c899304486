"""`sumika up`, and the two roles it starts (which systemd or compose may start by themselves)."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.logs import log_to_stderr
from sumika.models.actor import SYSTEM
from sumika.models.settings import load_settings
from sumika.serving import clerk, stack

Parent = Annotated[int | None, typer.Option(hidden=True, help="End when this process is no longer the parent.")]
Heartbeat = Annotated[int | None, typer.Option(hidden=True, help="Descriptor of the pipe that the parent listens at.")]


def register(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("gateway", hidden=True)(gateway)
    app.command("supervise", hidden=True)(supervise)


def up(parent: Parent = None) -> None:
    """Start the gateway and the engines; Ctrl-C drains and ends them."""
    with opened() as (settings, store):
        log_to_stderr(settings)
        store.check()
        output.say(
            f"Sumika on {settings.url}/v1 — admin key in {settings.layout.admin_key}",
            f"Sumika: {settings.url}/v1 — 管理者キーは {settings.layout.admin_key}",
        )
        asyncio.run(stack.run_stack(settings, parent))


def gateway(
    parent: Parent = None,
    heartbeat: Heartbeat = None,
    one: Annotated[bool, typer.Option("--one", hidden=True, help="One worker.")] = False,
) -> None:
    """The gateway: the parent that watches its workers, or one worker."""
    settings = load_settings()
    log_to_stderr(settings)
    if not one:
        settings.layout.create()
        return asyncio.run(stack.run_workers(settings, parent, heartbeat))
    import uvloop

    from sumika.serving import gateway_role  # here, since what each role loads takes longer than all else at its start

    with clerk.beside(settings) as ours, opened(SYSTEM) as (_, store):
        uvloop.run(gateway_role.serve(settings, store, parent, ours, heartbeat))


def supervise(parent: Parent = None, heartbeat: Heartbeat = None) -> None:
    """The supervisor."""
    from sumika.serving import supervisor_role

    with opened(SYSTEM) as (settings, store):
        log_to_stderr(settings)
        if parent is None:  # else 'up' did
            store.check()
        asyncio.run(supervisor_role.supervise(settings, store, parent, heartbeat=heartbeat))
