"""`sumika audit`: verify the log, look things up, hand it out, prune it; keys for sealed contents, and opening one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.moments import Moment, moment
from sumika.cli.output import Json
from sumika.models import audit, clock
from sumika.models.audit import Action, export, listing, pruning, sealing, sinks, verify
from sumika.models.audit.chain import AuditRow
from sumika.models.audit.findings import Findings
from sumika.models.audit.listing import Filter
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError, quoted
from sumika.models.store import LONG_STATEMENT_S

app = typer.Typer(no_args_is_help=True, help="The audit log: who did what, and proof that nobody changed it.")


@app.command("verify")
def verify_log(
    file: Annotated[Path | None, typer.Option(help="An export, verified by itself.")] = None,
    witness: Annotated[
        Path | None,
        typer.Option(
            help="What the witness kept: its file, or a log server's with this Sumika's lines. Default: audit.witness, where it is a file."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say whether the log, and keys, aliases and versions, are as it was written, and name the first row that is not; exit code 1 then."""
    if file is None:
        with opened() as (settings, store):
            told = witness or sinks.file_of(settings.audit.witness)
            with _files_told(told or settings.layout.root):
                found = verify.verify(store, settings.layout, told)
    else:
        with _files_told(file):
            found = export.verify_file(file, witness)
    if json:
        output.print_json(found.as_dict())
    else:
        _tell(found, is_export=file is not None)
    if not found.ok:
        raise typer.Exit(1)


@app.command("list")
def list_rows(
    actor: Annotated[str | None, typer.Option(help="A key's id, cli:USER@HOST, system …")] = None,
    action: Annotated[str | None, typer.Option(help="For example alias.deploy, or alias for all of them.")] = None,
    object: Annotated[str | None, typer.Option(help="What it was done to.")] = None,
    since: Moment = None,
    until: Moment = None,
    below: Annotated[int | None, typer.Option(metavar="ROW", help="The last row of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = listing.PAGE,
    json: Json = False,
) -> None:
    """Rows, the newest first."""
    wanted = Filter(actor, action, object, _moment(since), _moment(until), below)
    with opened() as (_, store):
        with store.read(statement_s=LONG_STATEMENT_S) as connection:
            rows = listing.find(connection, wanted, limit)
        with store.write() as connection:
            audit.append(connection, Action.AUDIT_SEARCH, "audit", details=wanted.told())
    if json:
        output.print_json([asdict(row) for row in rows])
        return
    output.print_table(
        ("row", "at (UTC)", "actor", "action", "object", "outcome", "reason"),
        [(row.seq, row.at[:19], row.actor, row.action, row.object, row.outcome, row.reason) for row in rows],
        ("No rows.", "該当する行はありません。"),
    )
    if len(rows) == limit:
        output.say(f"Older ones: --below {rows[-1].seq}", f"続き: --below {rows[-1].seq}")


@app.command("export")
def export_log(file: Annotated[Path, typer.Argument(help="The file to write.")], json: Json = False) -> None:
    """Write the whole log with its checkpoints, to be verified elsewhere."""
    with opened() as (settings, store), audit.told(store, Action.AUDIT_EXPORT, quoted(file.name)) as told, _files_told(file):
        rows = told["rows"] = export.export(store, settings.layout, file)
    if json:
        output.print_json({"file": str(file), "rows": rows})
    else:
        output.say(f"{rows} rows are in {file}.", f"{rows} 行を {file} に書き出しました。")


@app.command()
def prune(
    before: Moment = None,
    keep_years: Annotated[int | None, typer.Option(min=1, max=100, help="Keep this many years.")] = None,
    contents: Annotated[bool, typer.Option("--contents", help="Only sealed contents; the rows stay.")] = False,
    json: Json = False,
) -> None:
    """Delete what is older, so that it can be proven that nothing else went."""
    if (before is None) == (keep_years is None):
        raise typer.BadParameter("give either --before or --keep-years")
    limit = _moment(before) if keep_years is None else clock.spell(_years_ago(keep_years))
    with opened() as (settings, store), audit.refusals(store, Action.AUDIT_PRUNE, "contents" if contents else "rows"):
        witness = Witness(settings.layout, settings.audit.witness)
        pruned = pruning.prune(store, settings.layout, str(limit), contents_only=contents, witness=witness)
    if json:
        output.print_json({"before": limit, "pruned": pruned, "contents_only": contents})
    else:
        output.say(
            f"{pruned} {'contents' if contents else 'rows'} from before {limit} are gone.",
            f"{limit} より前の{'内容' if contents else '行'} {pruned} 件を削除しました。",
        )


@app.command()
def keygen(file: Annotated[Path, typer.Argument(help="The private key's file; the public one is FILE.pub.")]) -> None:
    """Make the key pair that contents are sealed to; carry the private half away from this machine."""
    with _files_told(file):
        made = sealing.keygen(file)
    output.out().print(made, highlight=False, soft_wrap=True)
    output.warn(
        f"Set audit.content_key to {sealing.public_of(file)}, and keep {file} elsewhere: whoever has it reads everything, and without it nobody does.",
        f"audit.content_key に {sealing.public_of(file)} を設定し、{file} は別の場所で保管してください。持つ人はすべて読め、失うと誰も読めません。",
    )


@app.command("open")
def open_row(
    row: Annotated[int, typer.Argument(help="The row's number, as 'audit list --action inference' shows it.")],
    key: Annotated[Path, typer.Option(help="The private key's file.")],
    file: Annotated[
        Path | None, typer.Option(help="An export, opened where the key is; the server's log can't record that.")
    ] = None,
    json: Json = False,
) -> None:
    """Read what was asked and answered in one request; that you did is recorded."""
    private = sealing.private_key(key)
    if file is not None:
        with _files_told(file):
            content = sealing.unseal(private, *_named(export.sealed_in(file, row)))
    else:
        with opened() as (_, store), audit.told(store, Action.AUDIT_OPEN, str(row)):
            with store.read() as connection:
                found = listing.sealed(connection, row)
            content = sealing.unseal(private, *_named(found))
    if json:
        output.print_json(asdict(content))
    else:
        output.out().print(output.plain_lines(content.request), soft_wrap=True)
        output.out().print(output.plain_lines(content.answer), soft_wrap=True)


def _named(found: tuple[AuditRow, bytes]) -> tuple[str, bytes]:
    """The id of the request that a sealed content is bound to, and the content."""
    return str(found[0].details.get("request")), found[1]


def _tell(found: Findings, *, is_export: bool) -> None:
    for one in found.pruned:
        what_en, what_ja = ("contents", "内容") if one.contents_only else ("rows", "行")
        output.say(
            f"Pruned: {what_en} up to {one.last}, by {quoted(one.actor)} at {one.at}.",
            f"削除済み: {one.last} までの{what_ja}({one.at}、{quoted(one.actor)})。",
        )
    if found.late_s > _LATE_S:
        output.say(
            f"Some rows were without a signed checkpoint for {found.late_s} s; until then only hashes vouched for them.",
            f"署名付きチェックポイントのない期間が最長 {found.late_s} 秒ありました(その間はハッシュのみの保護です)。",
        )
    _tell_wrong(found)
    if found.witness:
        output.say(
            f"The witness knows the log up to row {found.witnessed} ({found.witness} checkpoints).",
            f"証人ファイルの記録は行 {found.witnessed} までです(チェックポイント {found.witness} 件)。",
        )
    if found.adopted:
        output.say(
            f"{found.adopted} keys, aliases or versions are explained by an upgrade alone, which found them there ('sumika audit list --action audit.state').",
            f"キー・エイリアス・バージョンのうち {found.adopted} 件は、更新時に存在していたことのみが記録されています(sumika audit list --action audit.state)。",
        )
    if found.ok:
        output.say(
            f"Rows {found.first} to {found.last} are as they were written ({found.checkpoints} checkpoints, {found.unsigned} rows since the last).",
            f"行 {found.first}〜{found.last} は記録時のままです(チェックポイント {found.checkpoints} 件、以後の未署名 {found.unsigned} 行)。",
        )
    if is_export and found.signers:
        shown = ", ".join(found.signers)
        output.say(
            f"Signed by {shown}. Compare with what 'sumika signing show' prints where the log comes from.",
            f"署名: {shown}。書き出し元の sumika signing show の指紋と一致するか確認してください。",
        )


def _tell_wrong(found: Findings) -> None:
    if found.bad_checkpoint is not None:
        output.warn(
            f"Line {found.bad_checkpoint} of the checkpoints is missing, damaged, or not signed by a key that is trusted here for the log; what follows it counts for nothing.",
            f"チェックポイントの {found.bad_checkpoint} 行目がないか、破損しているか、監査ログ用に信頼された鍵の署名ではありません。以降は無効です。",
        )
    if found.bad is not None:
        output.warn(found.bad.text("en"), found.bad.text("ja"))
    for other in found.unexplained:
        output.warn(other.text("en"), other.text("ja"))
    if found.witness == 0:
        output.warn(
            "The witness's file holds no checkpoint: either it never got one, or somebody emptied it.",
            "証人ファイルにチェックポイントがありません。一度も書き込まれていないか、消去された可能性があります。",
        )


# Twice as long as the gateway waits to sign for requests.
_LATE_S = 120


def _moment(text: str | None) -> str | None:
    """A moment in the store's spelling, from what a person types."""
    found = moment(text)
    return None if found is None else clock.spell(found)


def _years_ago(years: int) -> datetime:
    now = datetime.now(UTC)
    try:
        return now.replace(year=now.year - years)
    except ValueError:  # 29 February
        return now.replace(year=now.year - years, day=28)


@contextmanager
def _files_told(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        shown = quoted(str(file))
        raise SumikaError(
            "bad_file",
            f"'{shown}' can't be read or written ({error.strerror}). Check the folder and its permissions.",
            f"「{shown}」を読み書きできません({error.strerror})。フォルダーと権限を確認してください。",
        ) from None
