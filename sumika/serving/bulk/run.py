"""One batch as it runs: its lines checked, asked with few at once, each answer kept as it comes, its files made at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sumika.models import batches, clock, files, leases
from sumika.models.actor import SYSTEM
from sumika.models.batches import Batch
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.leases import Lease
from sumika.models.principals import Principal
from sumika.models.shelf import Shelf
from sumika.models.store import Store
from sumika.serving.bulk import endings, outcome, output
from sumika.serving.bulk.asking import Reply, ask
from sumika.serving.bulk.endings import Ending
from sumika.serving.bulk.lines import Lines
from sumika.serving.bulk.output import Output
from sumika.serving.bulk.pace import Pace
from sumika.serving.bulk.results import Results
from sumika.serving.inference import Inference
from sumika.serving.operations import OPERATIONS
from sumika.serving.threads import to_end
from sumika.serving.usage_events import Tokens

log = logging.getLogger(__name__)

_TICK_S = 1.0
_DISK_PAUSE_S = 5.0
# A request that an engine died of is asked once more and not again: it may be why.
_ATTEMPTS = 2
_ENGINE = ("engine_failed", "engine_unreachable", "engine_timeout")


@dataclass(frozen=True, slots=True)
class Means:
    """What all batches of a worker share. `holder`: who a key is now; None once it has ended. `room`: how many requests may be
    under way in all of them; `longest_line`: bytes of one request with what says where it goes."""

    store: Store
    home: Home
    shelf: Shelf
    endpoints: Mapping[str, Inference]
    holder: Callable[[str], Principal | None]
    room: asyncio.Semaphore
    ceiling: int
    longest_line: int


class Run:
    """`run` until the batch has ended; `leave` lets somebody else go on."""

    def __init__(self, means: Means, batch: Batch, lease: Lease) -> None:
        self._means = means
        self._lease = lease
        self.batch = batch
        self._endpoint = next(o.endpoint for o in OPERATIONS if o.path == batch.endpoint)
        self._headers = {
            b"x-sumika-priority": b"batch", b"x-sumika-sensitivity": batch.sensitivity.encode(),
            b"accept-language": batch.language.encode(),
        }  # fmt: skip
        self._pace = Pace(means.ceiling)
        self._ending: Ending | None = None
        self._tries: Counter[int] = Counter()
        self._counted = (-1, -1)
        # Nothing new is asked; what is under way ends as for a client that left; nobody else may be told anything.
        self._quiet = asyncio.Event()
        self._gone = asyncio.Event()
        self._left = False

    def leave(self, *, at_once: bool) -> None:
        """Ask nothing more; `at_once`: break off what is under way too."""
        self._left = True
        self._quiet.set()
        if at_once:
            self._gone.set()

    async def run(self) -> None:
        """Raises SumikaError: `fenced`, and what the store raises; then the batch is to be taken up again."""
        try:
            lines = Lines(self._means.shelf.path(self.batch.input_id), self.batch.endpoint, self._means.longest_line)
        except FileNotFoundError:
            return await self._close(endings.INPUT_GONE, None, Output(None, None))
        try:
            errors = await lines.check(self.batch.language)
            if errors:
                return await to_end(self._refuse, errors)
            writer = f"{self._lease.token:010d}-{self._lease.holder}-{time.time_ns()}"
            results = await to_end(Results, self._means.home.batches / self.batch.id, writer)
            try:
                await self._run(lines, results)
            finally:
                results.close()
        finally:
            lines.close()

    def _refuse(self, errors: list[dict[str, object]]) -> None:
        """The input is wrong as a whole: nothing is asked."""
        state: batches.State = "cancelled" if self.batch.state == "cancelling" else "failed"
        with self._means.store.write(by=SYSTEM) as connection:
            leases.check(connection, self._lease)
            batches.end(connection, self.batch, state, errors=errors)
        log.info("batch %s: %s, %d lines of its input are wrong", self.batch.id, state, len(errors))

    async def _run(self, lines: Lines, results: Results) -> None:
        await to_end(self._begin, len(lines))
        ticking = asyncio.create_task(self._tick(results))
        try:
            await self._ask_all(lines, results)
            if self._left:
                return
            ending = self._ending or endings.COMPLETED
            await to_end(self._finalize)
            made = await self._made(lines, results, ending)
            await self._close(ending, results, made)
        finally:
            ticking.cancel()

    def _begin(self, total: int) -> None:
        with self._means.store.write(quiet=True, by=SYSTEM) as connection:
            leases.check(connection, self._lease)
            batches.begin(connection, self.batch, total)

    async def _ask_all(self, lines: Lines, results: Results) -> None:
        pending = deque(index for index in range(len(lines)) if index not in results)
        under_way: set[asyncio.Task[None]] = set()
        quiet = asyncio.ensure_future(self._quiet.wait())
        self._look(self.batch)
        try:
            while (pending and not self._quiet.is_set()) or under_way:
                while pending and not self._quiet.is_set() and len(under_way) < self._pace.most:
                    under_way.add(asyncio.create_task(self._one(pending.popleft(), pending, lines, results)))
                waiting = under_way if self._quiet.is_set() else {*under_way, quiet}
                pause_s = self._pace.pause_s or None if pending else None
                ended, _ = await asyncio.wait(waiting, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                for task in ended & under_way:
                    under_way.discard(task)
                    task.result()
        finally:
            quiet.cancel()
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _one(self, index: int, pending: deque[int], lines: Lines, results: Results) -> None:
        async with self._means.room:
            if self._quiet.is_set():
                return
            who = self._holder()
            if who is None:
                self._end(endings.KEY_ENDED)
                return
            line = lines.read(index)
            reply = await ask(
                self._means.endpoints[self.batch.endpoint], self.batch.endpoint, who, self._headers, line.body, self._gone
            )
        if self._gone.is_set() and not reply.whole:
            return  # broken off
        code = reply.code
        if self._no_room(reply, code) or self._engine_fell(index, reply, code):
            self._pace.no_room(reply.retry_after_s)
            pending.append(index)
            return
        self._pace.went_well()
        await self._keep(results, index, *await to_end(self._outcome, line.custom_id, reply))

    @staticmethod
    def _no_room(reply: Reply, code: str) -> bool:
        """Whether it is only to be waited. A month's budget that is used up is not: it lasts longer than any batch."""
        return code not in _ENGINE and (reply.status == 503 or (reply.status == 429 and code != "insufficient_quota"))

    def _engine_fell(self, index: int, reply: Reply, code: str) -> bool:
        """Whether it is worth another try."""
        if reply.whole and code not in _ENGINE:
            return False
        self._tries[index] += 1
        return self._tries[index] < _ATTEMPTS

    def _outcome(self, custom_id: str, reply: Reply) -> tuple[bool, Tokens, bytes]:
        if reply.whole and outcome.is_json(reply.body):
            return outcome.answered(custom_id, reply)
        broken = SumikaError(
            "engine_failed", "The engine failed on this request.", "エンジンがこのリクエストで失敗しました。", status=502
        )
        return False, Tokens(), outcome.refused(custom_id, broken, self.batch.language)

    async def _keep(self, results: Results, index: int, ok: bool, tokens: Tokens, line: bytes) -> None:
        """A disk that takes nothing is waited for, with the answer in memory and nothing new asked."""
        told = False
        while not (self._left and self._gone.is_set()):
            try:
                return await to_end(results.append, index, ok, tokens, line)
            except OSError as error:
                if not told:
                    log.error("batch %s: its answers can't be written (%s); it waits", self.batch.id, error.strerror)
                told = True
                await asyncio.sleep(_DISK_PAUSE_S)

    def _holder(self) -> Principal | None:
        who = self._means.holder(self.batch.key)
        return who if who is not None and who.may_reach("batches") and who.may_reach(self._endpoint) else None

    def _end(self, ending: Ending) -> None:
        """Ask nothing more, and end what is under way."""
        self._ending = self._ending or ending
        self._quiet.set()
        self._gone.set()

    def _look(self, now: Batch) -> None:
        if now.state == "cancelling":
            self._end(endings.CANCELLED)
        elif clock.parse(now.expires_at) <= datetime.now(UTC):
            self._end(endings.EXPIRED)
        elif self._holder() is None:
            self._end(endings.KEY_ENDED)

    async def _tick(self, results: Results) -> None:
        """Tell how far it is, and see whether it is to end."""
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                self._look(await to_end(self._counted_now, results))
                await to_end(results.sync)
            except SumikaError as error:
                if error.code == "fenced":
                    return self.leave(at_once=True)
                log.error("batch %s: %s", self.batch.id, error.en)
            except OSError as error:
                log.error("batch %s: its answers can't be synced (%s)", self.batch.id, error.strerror)

    def _counted_now(self, results: Results) -> Batch:
        counts = (len(results) - results.failed, results.failed)
        if counts == self._counted:
            with self._means.store.read() as connection:
                return batches.find(connection, self.batch.id)
        with self._means.store.write(quiet=True, by=SYSTEM) as connection:
            leases.check(connection, self._lease)
            batches.count(connection, self.batch, *counts)
            self._counted = counts
            return batches.find(connection, self.batch.id)

    def _finalize(self) -> None:
        with self._means.store.write(quiet=True, by=SYSTEM) as connection:
            leases.check(connection, self._lease)
            batches.finalize(connection, self.batch)

    async def _made(self, lines: Lines, results: Results, ending: Ending) -> Output:
        told = False
        while True:
            try:
                return await to_end(output.write, self._means.shelf, self.batch, lines, results, ending)
            except SumikaError as error:
                if error.code != "disk_full":
                    raise
                if not told:
                    log.error("batch %s: its files can't be written, the disk is full; it waits", self.batch.id)
                told = True
                await asyncio.sleep(_DISK_PAUSE_S)

    async def _close(self, ending: Ending, results: Results | None, made: Output) -> None:
        """Files and state in one transaction: whoever sees the one sees the other."""
        await to_end(self._close_now, ending, results, made)
        if results is not None:
            await to_end(results.remove)
        log.info("batch %s: %s", self.batch.id, ending.state)

    def _close_now(self, ending: Ending, results: Results | None, made: Output) -> None:
        error = ending.error
        why = [{"code": error.code, "line": None, "message": error.text(self.batch.language), "param": None}]
        try:
            with self._means.store.write(by=SYSTEM) as connection:
                leases.check(connection, self._lease)
                for file in made.made:
                    files.add(connection, file)
                batches.end(
                    connection, self.batch, ending.state,
                    errors=why if ending.whole else None,
                    **({} if results is None else _figures(results)),
                    output_id=made.answers.id if made.answers else None,
                    errors_id=made.errors.id if made.errors else None,
                )  # fmt: skip
        except BaseException:
            for file in made.made:
                self._means.shelf.drop(file.id)
            raise


def _figures(results: Results) -> dict[str, object]:
    return {"done": len(results) - results.failed, "failed": results.failed, "usage": _usage(results.tokens)}


def _usage(tokens: Tokens) -> dict[str, object]:
    """As OpenAI's `batch.usage`."""
    given, made = tokens.prompt or 0, tokens.completion or 0
    return {
        "input_tokens": given, "input_tokens_details": {"cached_tokens": tokens.cached or 0}, "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning or 0}, "total_tokens": given + made,
    }  # fmt: skip
