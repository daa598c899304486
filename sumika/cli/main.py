"""`sumika`: one command, a group for each noun."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import typer

from sumika.cli import output
from sumika.cli.context import Alone
from sumika.models.errors import SumikaError
from sumika.models.home import denied

# Module of this package → its commands. Only that of the command in hand is loaded: all of them take two seconds.
_COMMANDS = {
    "serve": ("up", "gateway", "supervise"),
    "status": ("status",),
    "chat": ("chat",),
    "doctor": ("doctor",),
    "aliases": ("deploy", "promote", "abort", "rollback", "undeploy", "scale"),
    "demo": ("demo",),
    "backup": ("backup", "restore"),
    "install": ("install",),
    "sbom": ("sbom", "licences"),
    "usage": ("usage",),
}
# The same for groups, which are a module's `app`.
_GROUPS = {
    "models": "models",
    "keys": "keys",
    "limits": "limits",
    "teams": "teams",
    "alias_owners": "aliases",
    "jobs": "finetune",
    "archive": "signing",
    "audit": "audit",
    "db": "db",
    "bundle": "bundle",
}


def build(word: str | None = None) -> typer.Typer:
    """The command line; with `word`, the command that was typed, that one alone where there is such a one."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="住処: your company's own language models.",
    )
    app.callback()(lambda: None)  # a command by itself keeps its name
    known = any(word in words for words in _COMMANDS.values()) or word in _GROUPS.values()
    for module, words in _COMMANDS.items():
        if word in words or not known:
            import_module(f"sumika.cli.{module}").register(app)
    for module, name in _GROUPS.items():
        if word == name or not known:
            app.add_typer(import_module(f"sumika.cli.{module}").app, name=name)
    return app


def main(*, alone: bool = True) -> None:
    """Run one command; an expected failure is one sentence and an exit code, not a traceback. `alone`: the process ends with it."""
    os.umask(0o077)  # weights, records and logs are nobody else's on this machine
    try:
        build(sys.argv[1] if len(sys.argv) > 1 else None)(obj=Alone() if alone else None)
    except SumikaError as error:
        sys.exit(output.fail(error).exit_code)
    except PermissionError as error:  # of whatever file, by another user than the one whose home it is
        if error.filename is None:
            raise
        sys.exit(output.fail(denied(Path(os.fsdecode(error.filename)))).exit_code)


if __name__ == "__main__":
    main()
