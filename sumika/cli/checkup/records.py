"""The audit log: whether its end is signed, and, deeply, whether the whole still says what was written."""

from __future__ import annotations

from datetime import datetime, timedelta

from sumika.cli.checkup.finding import Finding, fail, fine, warn
from sumika.models import clock

# The witness signs after each write; what is later than this was not signed for a reason.
_LATE = timedelta(minutes=5)


def signed(unsigned: int, last_at: str | None, now: datetime) -> Finding:
    """`unsigned`: rows since the last checkpoint; `last_at`: its moment, None where there is none."""
    if unsigned < 0:
        return fail(
            "audit", f"the audit log has {-unsigned} rows fewer than were signed; run 'sumika audit verify', and don't prune before that is explained",
            f"監査ログが署名時より {-unsigned} 行少なくなっています。sumika audit verify を実行してください",
        )  # fmt: skip
    if unsigned > 0 and (last_at is None or now - clock.parse(last_at) > _LATE):
        since = last_at or "its beginning"
        return warn(
            "audit", f"{unsigned} rows of the audit log are not signed since {since}; look for 'checkpoint' in the gateway's log (disk full? signing.key gone?)",
            f"監査ログの {unsigned} 行が {last_at or '当初'} から未署名です。ゲートウェイのログで checkpoint を確認してください",
        )  # fmt: skip
    return fine("audit", "the audit log is signed to its end", "監査ログは末尾まで署名されています")


def witness(named: str | None, witnessed: int | None, signed_to: int) -> Finding:
    """`witnessed`: the last row that the witness's file knows, None where nobody here can read it; `signed_to`: that of the checkpoints."""
    if named is None:
        return warn(
            "audit_witness", "checkpoints of the audit log lie on this machine alone, so whoever has all of it can cut the log's end off unseen; set audit.witness (docs/audit.md)",
            "監査ログのチェックポイントがこの機械にしかなく、末尾の切り取りを検出できない場合があります。audit.witness を設定してください(docs/audit.md)",
        )  # fmt: skip
    if witnessed is not None and witnessed < signed_to:
        return warn(
            "audit_witness", f"the witness {named} knows the audit log up to row {witnessed}, and {signed_to} is signed; look for 'witness' in the gateway's log, and whether the file was changed",
            f"証人 {named} の記録は行 {witnessed} までで、署名済みは {signed_to} です。ゲートウェイのログで witness を確認してください",
        )  # fmt: skip
    return fine("audit_witness", f"checkpoints also go to {named}", f"チェックポイントの送り先: {named}")


def whole(intact: bool, rows: int) -> Finding:
    """Of a pass over the whole log."""
    if not intact:
        return fail(
            "audit_chain", "the audit log does not say what was written; 'sumika audit verify' names the place",
            "監査ログが書き込み時と一致しません。sumika audit verify で箇所を確認してください",
        )  # fmt: skip
    return fine(
        "audit_chain",
        f"all {rows} rows of the audit log are as they were written",
        f"監査ログ {rows} 行はすべて書き込み時のままです",
    )
