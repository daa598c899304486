"""`sumika models export` and `sumika signing`: carry a version to a machine without a network, and say whom to believe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import audit, exporting, signing
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, quoted
from sumika.models.names import VersionRef
from sumika.models.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="The key that signs, and the keys that are trusted.")
_PURPOSES: dict[signing.Trust, str] = {"archives": "モデルのアーカイブ", "bundles": "バンドル", "log": "監査ログの以前の鍵"}


def register(models: typer.Typer) -> None:
    models.command()(export)


def export(
    ref: Annotated[str, typer.Argument(metavar="NAME@N", help="A version.")],
    file: Annotated[Path, typer.Argument(help="The archive to write; its name ends in .sumika.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is already there.")] = False,
    json: Json = False,
) -> None:
    """Write a version as one signed archive, for a machine without a network."""
    with opened() as (settings, store), audit.told(store, Action.MODEL_EXPORT, ref, file=quoted(file.name)) as told:
        with output.copy_progress(f"exporting {ref}", f"{ref} を書き出し中") as progress:
            header = exporting.export(store, settings.layout, VersionRef.parse(ref), file, force=force, progress=progress)
        key = told["key"] = signing.fingerprint(signing.show(settings.layout))
    base = str(header.base.ref) if header.base else None
    if json:
        output.print_json({"version": ref, "file": str(file), "bytes": file.stat().st_size, "key": key, "base": base})
        return
    output.say(f"{ref} is in {file}, signed by {key}.", f"{ref} を {file} に書き出しました(署名: {key})。")
    if base:
        output.say(f"Its base must be there first: {base}.", f"取り込み先には先にベースモデル {base} が必要です。")


@app.command()
def show(json: Json = False) -> None:
    """Print this Sumika's public key, to be trusted elsewhere; it is made the first time."""
    home = load_settings().layout
    home.create()
    key = signing.show(home)
    signing.sort_trust(home)
    trusted = {
        purpose: {name: signing.fingerprint(found) for name, found in signing.trusted_keys(home, purpose).items() if name}
        for purpose in signing.TRUSTS
    }
    if json:
        output.print_json({"key": signing.line(key), "fingerprint": signing.fingerprint(key), "trusted": trusted})
        return
    typer.echo(signing.line(key))
    output.err().print(signing.fingerprint(key), highlight=False, soft_wrap=True)
    for purpose, keys in trusted.items():
        for name, found in keys.items():
            output.err().print(f"{found} {name} ({purpose})", highlight=False, soft_wrap=True, style="dim")


@app.command()
def trust(
    key: Annotated[str, typer.Argument(metavar="FILE_OR_KEY", help="What 'signing show' printed there, or a file of it.")],
    name: Annotated[str, typer.Argument(help="What to call it, for example honsha.")],
    purpose: Annotated[
        signing.Trust,
        typer.Option(
            "--for", help="Models of others; their releases of Sumika, which run as root; or an earlier key of this log."
        ),
    ] = "archives",
    json: Json = False,
) -> None:
    """Accept what this key signed, for one purpose; deleting trusted/PURPOSE/NAME.pub ends it."""
    with opened() as (settings, store), audit.told(store, Action.SIGNING_TRUST, name, purpose=purpose) as told:
        added = signing.trust(settings.layout, key if key.startswith("ssh-") else read_key(Path(key)), name, purpose)
        told["key"] = signing.fingerprint(added)
    if json:
        output.print_json({"trusted": name, "for": purpose, "fingerprint": signing.fingerprint(added)})
        return
    output.say(
        f"{name} is trusted for {purpose}: {signing.fingerprint(added)}. Compare it with what 'sumika signing show' prints there.",
        f"{name} を信頼しました({_PURPOSES[purpose]}): {signing.fingerprint(added)}。相手側の sumika signing show の表示と一致するか確認してください。",
    )


def read_key(path: Path) -> str:
    """Raises SumikaError `bad_key`."""
    try:
        with path.open("rb") as file:
            return file.read(8192).decode(errors="replace")
    except (OSError, ValueError) as error:
        shown = quoted(str(path))
        raise SumikaError(
            "bad_key",
            f"'{shown}' can't be read ({quoted(str(error))}). Give the line that 'sumika signing show' printed, or a file that holds it.",
            f"「{shown}」を読めません({quoted(str(error))})。sumika signing show の出力1行、またはそのファイルを指定してください。",
        ) from None
