"""`sumika backup` and `sumika restore`: everything in one file, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from typer.core import TyperGroup

from sumika.cli import output
from sumika.cli.archive import read_key
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.cli.shell_user import operator
from sumika.models import audit, backup, signing
from sumika.models.audit import Action
from sumika.models.audit.witness import Witness
from sumika.models.backup import Made, age
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError, quoted
from sumika.models.settings import DEFAULT_FILE, load_settings

_GIB = 2**30
_PIPE = Path("-")


class _FileOrCommand(TyperGroup):
    """`backup FILE` is `backup create FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["create", *args])


group = typer.Typer(cls=_FileOrCommand, help="Everything in one file: 'sumika backup FILE'; and keys to encrypt it to.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="backup")
    app.command("restore")(restore)


@group.command("create")
def make(
    file: Annotated[Path, typer.Argument(help="The file to write, or '-' for a pipe.")],
    recipient: Annotated[
        list[str] | None, typer.Option(metavar="AGE1…", help="Encrypt to this public key; repeat it. Default: backup.recipients.")
    ] = None,
    plaintext: Annotated[
        bool, typer.Option("--plaintext", help="Don't encrypt. Private keys and settings are left out; all else can be read.")
    ] = False,
    json: Json = False,
) -> None:
    """Write models, keys, audit log, usage, jobs and settings to one signed and encrypted file, while everything runs."""
    with opened() as (settings, store):
        to = _recipients(recipient or settings.backup.recipients, plaintext=plaintext)
        with audit.told(store, Action.BACKUP_CREATE, quoted(file.name), recipients=to) as told:
            if file == _PIPE:
                made = _piped(lambda out: backup.stream(store, settings.layout, out, recipients=to, settings=_settings_file()))
            else:
                made = backup.make(store, settings.layout, file.absolute(), recipients=to, settings=_settings_file())
            told |= {"versions": made.versions, "rows": made.rows, "key": made.key}
    if file == _PIPE:
        return
    if json:
        output.print_json(
            {
                "file": str(file), "bytes": made.bytes, "versions": made.versions, "rows": made.rows, "key": made.key,
                "encrypted": bool(to),
            }
        )  # fmt: skip
        return
    size = f"{made.bytes / _GIB:.2f} GiB"
    output.say(
        f"{file}: {made.versions} versions and {made.rows:,} rows, {size}, signed by {made.key}. Bring it to another machine; 'sumika restore' asks for this fingerprint{'' if not to else ' and the identity'}.",
        f"{file}: {made.versions} バージョン、{made.rows:,} 行、{size}、署名: {made.key}。別の機器に保管してください。復元時にこの指紋{'' if not to else 'と秘密鍵'}が必要です。",
    )


@group.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="The private key's file, made where backups are restored, not on the server.")],
) -> None:
    """Make a key pair to encrypt backups to, as age-keygen does; prints the public half, for backup.recipients."""
    try:
        public = age.keygen(file)
    except OSError as error:
        raise SumikaError(
            "bad_file",
            f"'{quoted(str(file))}' can't be written ({error.strerror}). Check the folder and its permissions.",
            f"「{quoted(str(file))}」に書き込めません({error.strerror})。フォルダーと権限を確認してください。",
        ) from None
    output.out().print(public, highlight=False, soft_wrap=True)
    output.warn(
        f"Set backup.recipients to [{public}] on the server, and keep {file} elsewhere, twice: whoever has it reads every backup, and without it nobody does.",
        f"サーバーの backup.recipients に [{public}] を設定し、{file} は別の場所に2か所以上保管してください。持つ人はすべて読め、失うと誰も復元できません。",
    )


def _recipients(given: list[str], *, plaintext: bool) -> list[str]:
    if plaintext:
        return []
    if not given:
        raise SumikaError(
            "no_recipient",
            "A backup is encrypted, and nobody is named to encrypt it to. Make a key where you would restore ('sumika backup keygen FILE') and set backup.recipients, or give --recipient; --plaintext writes it in clear, without private keys.",
            "バックアップは暗号化して保存しますが、受取人が指定されていません。復元する側で sumika backup keygen ファイル を実行して backup.recipients に設定するか、--recipient で指定してください。--plaintext を付けると暗号化せずに書き込みます(秘密鍵は除外)。",
        )
    for one in given:
        age.check_recipient(one)
    return given


def _piped(write: Callable[[IO[bytes]], Made]) -> Made:
    """To a program that carries it away: nothing lies on a disk here."""
    if sys.stdout.isatty():
        raise SumikaError(
            "no_pipe",
            "A backup is not for the screen; pipe it on, as in: sumika backup - | ssh HOST 'cat > FILE'.",
            "バックアップは画面に出力できません。sumika backup - | ssh ホスト 'cat > ファイル' のように渡してください。",
        )
    try:
        made = write(sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
        raise SumikaError(
            "cut_off",
            "The program that was to take the backup ended before its end; what it has of it is no backup.",
            "バックアップの受け取り側が途中で終了しました。受け取った分はバックアップとして使えません。",
        ) from None
    return made


def _settings_file() -> Path:
    return Path(os.environ.get("SUMIKA_CONFIG", DEFAULT_FILE))


def restore(
    file: Annotated[Path, typer.Argument(help="What 'sumika backup' wrote; '-' for a pipe.")],
    key: Annotated[
        str | None,
        typer.Option(metavar="SHA256:…", help="Who must have signed it: the fingerprint, a public key, or a file of one."),
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help="The private key's file, of 'sumika backup keygen' or age-keygen, for an encrypted one.")
    ] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Take it whoever made it, on nobody's word.")] = False,
    json: Json = False,
) -> None:
    """Bring a backup back, where there is no Sumika yet: into the home and the database that the settings name."""
    settings = load_settings()
    signer = None if key is None else signing.named(key if key.startswith(("SHA256:", "ssh-")) else read_key(Path(key)))
    source = Path("/dev/stdin") if file == _PIPE else file
    by = operator()
    done = backup.restore(source, settings.layout, settings.database_url, key=signer, unsigned=unsigned, identity=identity, by=by)
    store = open_store(settings, by)
    try:
        Witness(settings.layout, settings.audit.witness).look(store)
    finally:
        store.close()
    if json:
        output.print_json({"home": str(settings.layout.root), "rows": done.rows, "key": done.key})
        return
    output.say(
        f"{done.rows:,} rows and their files are in {settings.layout.root}. Next: 'sumika doctor --deep', then 'sumika up'.",
        f"{done.rows:,} 行とファイルを {settings.layout.root} に復元しました。次に sumika doctor --deep、続けて sumika up を実行してください。",
    )
    if not done.with_secrets:
        output.warn(
            "Private keys were not in it: the log and archives are signed by a new key from now on ('sumika signing show'), and admin.key is not there; keys go on working.",
            "秘密鍵は含まれていません。今後の監査ログとアーカイブは新しい鍵で署名されます(sumika signing show)。admin.key もありませんが、既存のAPIキーは引き続き使えます。",
        )
