"""`sumika`: one command, a group for each noun."""

from __future__ import annotations

import os
import sys

import typer

from sumika.cli import (
    aliases,
    archive,
    audit,
    chat,
    demo,
    doctor,
    enqueuing,
    jobs,
    keys,
    limits,
    models,
    output,
    serve,
    status,
    teams,
    usage,
)
from sumika.cli.context import Alone
from sumika.models.errors import SumikaError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="住処: your company's own language models."
)
serve.register(app)
status.register(app)
chat.register(app)
doctor.register(app)
aliases.register(app)
demo.register(app)
usage.register(app)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(limits.app, name="limits")
app.add_typer(teams.app, name="teams")
enqueuing.register(jobs.app)
app.add_typer(jobs.app, name="finetune")
app.add_typer(archive.app, name="signing")
app.add_typer(audit.app, name="audit")


def main(*, alone: bool = True) -> None:
    """Run one command; an expected failure is one sentence and an exit code, not a traceback. `alone`: the process ends with it."""
    os.umask(0o077)  # weights, records and logs are nobody else's on this machine
    try:
        app(obj=Alone() if alone else None)
    except SumikaError as error:
        sys.exit(output.fail(error).exit_code)


if __name__ == "__main__":
    main()
