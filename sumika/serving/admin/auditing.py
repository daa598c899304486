"""`/admin/v1/audit`: search, verify the chain, and take the whole log away as a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from sumika.models import audit, clock, people
from sumika.models.audit import Action, export, listing, sinks, verify
from sumika.models.audit.listing import Filter
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from sumika.models.store import LONG_STATEMENT_S, Store
from sumika.serving.admin.asking import After, Asker, Limit, actor, number, page
from sumika.serving.admin.usage import Day, moment
from sumika.serving.lookups import Lookups

_Text = Annotated[str, Query(max_length=255)]
_PIECE = 64 * 1024


def router(store: Store, settings: Settings) -> APIRouter:
    routes, lookups = APIRouter(prefix="/audit"), Lookups(store)

    @routes.get("")
    def search(
        who: Asker, limit: Limit = 50, after: After = "", actor: _Text = "", action: _Text = "", object: _Text = "", since: Day = "", until: Day = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Rows newest first; `action` is one, or a noun such as `key` for all of its actions."""
        begin, end = moment(since, "since"), moment(until, "until")
        wanted = Filter(
            actor or None,
            action or None,
            object or None,
            clock.spell(begin) if begin else None,
            clock.spell(end) if end else None,
            number(after),
        )
        lookups.note(who, Action.AUDIT_SEARCH, "audit", wanted.told())
        with store.read(statement_s=LONG_STATEMENT_S) as connection:
            rows = people.named(connection, [asdict(row) for row in listing.find(connection, wanted, limit + 1)])
        return page(rows, limit, lambda row: row["seq"], lambda row: row)

    @routes.get("/verify")
    def check() -> dict[str, Any]:
        """As `sumika audit verify`, which says more of a witness that can't be read."""
        try:
            return verify.verify(store, settings.layout, sinks.file_of(settings.audit.witness)).as_dict()
        except OSError as error:
            raise SumikaError(
                "bad_witness",
                f"The witness's file can't be read ({error.strerror}). Run 'sumika audit verify' on the server.",
                f"証人ファイルを読めません({error.strerror})。サーバーで sumika audit verify を実行してください。",
                status=503,
            ) from None

    @routes.get("/export")
    def download(who: Asker) -> StreamingResponse:
        """The file that `sumika audit export` writes; `sumika audit verify --file` reads it."""
        by = actor(who)
        with tempfile.TemporaryDirectory(dir=settings.layout.root) as folder:
            path = Path(folder) / "audit.jsonl"
            with audit.refusals(store, Action.AUDIT_EXPORT, "audit", by):
                rows = export.export(store, settings.layout, path)
            with store.write(by=by) as connection:
                audit.append(connection, Action.AUDIT_EXPORT, "audit", details={"rows": rows})
            file = path.open("rb")  # goes on to be read when its name is gone
        name = f"sumika-audit-{clock.now()[:10]}.jsonl"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(_pieces(file), media_type="application/jsonl", headers=headers)

    return routes


def _pieces(file: Any) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE):
            yield piece
