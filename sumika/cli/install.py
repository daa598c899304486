"""`sumika install`: how this machine starts Sumika by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import output, systemd
from sumika.models.settings import load_settings
from sumika.serving import machine


def register(app: typer.Typer) -> None:
    app.command("install")(install)


def install(
    _: Annotated[bool, typer.Option("--systemd", help="Units for systemd, a user of their own, and settings in /etc/sumika.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written.")] = False,
    root: Annotated[Path, typer.Option(help="Write under this folder, as for an image.")] = Path("/"),
) -> None:
    """Write systemd's units for gateway, supervisor and training worker; starting them is left to you."""
    config = root / systemd.CONFIG.relative_to("/")
    settings = load_settings(config if config.exists() else None)
    gpu = machine.look(Path("/")).driver is not None
    if dry_run:
        for path, text in systemd.units(settings, gpu=gpu).items():
            sys.stdout.write(f"# {path}\n{text}\n")
        return
    for written in systemd.install(settings, gpu=gpu, root=root):
        output.say(
            f"{'wrote' if written.fresh else 'as before'}: {written.path}",
            f"{'書き込み' if written.fresh else '変更なし'}: {written.path}",
        )
    output.say(
        f"Next: systemd-sysusers && systemctl daemon-reload && systemctl enable --now {systemd.TARGET}\n"
        f"Commands then: sudo -u sumika env SUMIKA_CONFIG={systemd.CONFIG} {sys.executable} -m sumika.cli.main status",
        f"次に: systemd-sysusers && systemctl daemon-reload && systemctl enable --now {systemd.TARGET}\n"
        f"以後のコマンド: sudo -u sumika env SUMIKA_CONFIG={systemd.CONFIG} {sys.executable} -m sumika.cli.main status",
    )
