"""What the gateway itself tells the audit log: requests with their contents, and refused sign-ins; in batches, off the
requests' path. Where the policy is `metadata`, the log has its rows from usage's journals (`models/usage/drain.py`)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from sqlalchemy import insert

from sumika.models import schema
from sumika.models.actor import SYSTEM
from sumika.models.audit import Action, chain, sealing
from sumika.models.audit.chain import Entry
from sumika.models.audit.sealing import Content
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError
from sumika.models.settings import AuditSettings
from sumika.models.store import Store
from sumika.serving.metrics import Metrics
from sumika.serving.refused import Refused

log = logging.getLogger(__name__)

FLUSH_S = 0.5
# What may wait to be written: rows, and bytes of contents.
MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 * 2**20
_BATCH = 2_000
# The witness signs for these rows, and those of who looked something up, this often; for what people do it signs at once.
_SIGN_ROWS = 1_000
_SIGN_S = 60.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it ended. `content`: its body and its answer's pieces, where they are kept."""

    entry: Entry
    content: tuple[bytes, list[bytes]] | None = None

    @property
    def request_id(self) -> str:
        return str(self.entry.details["request"])

    @property
    def bytes(self) -> int:
        return 0 if self.content is None else len(self.content[0]) + sum(map(len, self.content[1]))


class Recorder:
    """The rows of one gateway worker. `run` writes them until `close`."""

    def __init__(self, store: Store, witness: Witness, settings: AuditSettings, metrics: Metrics) -> None:
        self._store = store
        self._witness = witness
        self._policy = settings.inference
        self._key = sealing.public_key(settings.content_key) if settings.content_key is not None else None
        self._metrics = metrics
        self.refused = Refused()
        self._counted: list[Entry] = []
        self._waiting: list[Exchange] = []
        self._waiting_bytes = 0
        self._promised = 0
        self._lost = 0
        self._failing = False
        self._unsigned = 0
        self._signed_at = time.monotonic()
        self._stop = asyncio.Event()

    @property
    def keeps_content(self) -> bool:
        return self._policy == "content"

    def admit(self) -> bool:
        """Before a request is answered: whether room was set aside for its content, which `note` then takes.

        Raises:
            SumikaError: `audit_unavailable` (503), where contents must be kept and can't be.
        """
        if not self.keeps_content:
            return False
        if self._failing or not self._room() or self._waiting_bytes >= MOST_WAITING_BYTES:
            raise SumikaError(
                "audit_unavailable",
                "Requests are recorded here, and the record can't be written now, so none is answered. Try again in a moment; if it lasts, tell your administrator.",
                "このサーバーはリクエストを記録しますが、現在記録できないため応答しません。少し待ってやり直し、続く場合は管理者に連絡してください。",
                status=503,
                retry_after=5,
            )
        self._promised += 1
        return True

    def note(self, exchange: Exchange, *, admitted: bool) -> None:
        """Keep what is to be told of a request that has ended; where there is no room, only how many there were."""
        self._promised -= admitted
        if not self._room():
            return self.lose()
        self._waiting.append(exchange)
        self._waiting_bytes += exchange.bytes

    def lose(self) -> None:
        """Tell of a request that there was no room to tell of."""
        if self._policy != "none":
            self._lost += 1
            self._metrics.audit_lost.inc()

    async def run(self) -> None:
        """Write what waits, every `FLUSH_S`, until `close`; then the rest."""
        while not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._stop.wait()
            await self._write_all()
        await self._write_all(ending=True)

    def close(self) -> None:
        self._stop.set()

    def _room(self) -> bool:
        return len(self._waiting) + self._promised < MOST_WAITING

    async def _write_all(self, *, ending: bool = False) -> None:
        """Whatever can't be written now stays and is tried again."""
        self._counted += self.refused.take(ending=ending)
        while self._waiting or self._counted or self._lost:
            batch, counted, lost = self._waiting[:_BATCH], list(self._counted), self._lost
            gap = [Entry(Action.AUDIT_GAP, "inference", "failed", details={"rows": lost}, actor=SYSTEM)] if lost else []
            try:
                await asyncio.to_thread(self._write, batch, counted + gap)
            except SumikaError as error:
                return self._fails(error.en)
            except Exception as error:  # a loop that ended here would record nothing any more
                return self._fails(type(error).__name__)
            self._failing = False
            del self._waiting[: len(batch)], self._counted[: len(counted)]
            self._waiting_bytes -= sum(exchange.bytes for exchange in batch)
            self._lost -= lost
        if ending or self._unsigned >= _SIGN_ROWS or time.monotonic() - self._signed_at > _SIGN_S:
            await asyncio.to_thread(self._witness.look, self._store)
            self._unsigned, self._signed_at = 0, time.monotonic()

    def _fails(self, why: str) -> None:
        if not self._failing:
            log.error("the audit log can't be written; %d rows wait: %s", len(self._waiting), why)
        self._failing = True

    def _write(self, batch: Sequence[Exchange], counted: Sequence[Entry]) -> None:
        sealed = [_sealed(self._key, exchange) for exchange in batch]
        entries = [_with_content(exchange.entry, blob, self._key) for exchange, blob in zip(batch, sealed, strict=True)]
        with self._store.write(quiet=True, by=SYSTEM) as connection:
            last = chain.append_many(connection, [*counted, *entries])
            first = last - len(entries) + 1
            contents = [{"seq": seq, "sealed": blob} for seq, blob in enumerate(sealed, first) if blob is not None]
            if contents:
                connection.execute(insert(schema.audit_contents), contents)
        self._unsigned += len(entries) + len(counted)


def _sealed(key: X25519PublicKey | None, exchange: Exchange) -> bytes | None:
    if exchange.content is None or key is None:
        return None
    asked, answered = exchange.content
    return sealing.seal(
        key, exchange.request_id, Content(asked.decode(errors="replace"), b"".join(answered).decode(errors="replace"))
    )


def _with_content(entry: Entry, blob: bytes | None, key: X25519PublicKey | None) -> Entry:
    if blob is None or key is None:
        return entry
    named = {"sealed": hashlib.sha256(blob).hexdigest(), "key": sealing.fingerprint(key)}
    return replace(entry, details={**entry.details, **named})
