"""One request as the gateway knows it: told once, when it has ended, to the log, the metrics, the audit log and usage."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import Scope, Send

from sumika.models import clock
from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.models.usage.rows import Endpoint, UsageRow
from sumika.models.usage.table import Kind, Subject
from sumika.serving.dialects import Dialect
from sumika.serving.limiting.headers import headers as limit_headers
from sumika.serving.limiting.limiter import Reservation
from sumika.serving.limiting.refusals import RateLimited
from sumika.serving.limiting.standing import Standing
from sumika.serving.metrics import UNKNOWN, Metrics
from sumika.serving.proxy import Answer
from sumika.serving.throughput import Throughput
from sumika.serving.usage_events import Count, NoCount, StreamCount, Tokens

log = logging.getLogger("sumika.serving.inference")

# What the log says of a request whose client left (nginx's number for it).
CLIENT_CLOSED = 499
# Which version answered, or would have.
VERSION_HEADER = "x-sumika-version"
# What a client pays at least, of the answer it reserved, where it leaves before an answer in one piece is there.
LEAST_SHARE = 0.25
# How long a stream may be silent, when its client leaves, until what is made meanwhile counts.
SILENT_S = 1.0
# Of an answer's time; a client that reads more slowly says nothing of the engine's speed.
_MAX_WAITED = 0.1
# How the row of a request says that its gateway died.
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine was asked to generate, and since when (monotonic seconds). `reserved`: tokens of all choices; `most`: those that
    it can make of them at all, None where nobody knows."""

    base_id: int
    choices: int
    reserved: int
    most: int | None
    streams: bool
    began: float
    throughput: Throughput


@dataclass(slots=True)
class RequestRecord:
    """What is told of one request. Nothing of what it said, but `content`, which goes nowhere unsealed.

    `prompt_estimate`: tokens of the prompt as the gateway guesses them, for when the engine never told. `work`: what the last engine was asked
    for; None where none was. `passed_at`: when the last piece of the answer began to be
    sent; `waited_s`: how long the client let us wait for its reading in all.
    """

    request_id: str
    began: float = field(default_factory=time.monotonic)
    at: str = field(default_factory=clock.now)
    alias: str = UNKNOWN
    version: str = UNKNOWN
    key: str = UNKNOWN
    role: str = ""
    team: str | None = None
    code: str = UNKNOWN
    status: int = 0
    first_byte: float | None = None
    ended: float = 0
    admitted: bool = False
    content: tuple[bytes, list[bytes]] | None = None
    work: Work | None = None
    passed_at: float | None = None
    waited_s: float = 0
    prompt_estimate: int = 0
    count: Count | None = None
    held: Reservation | None = None
    _standings: Sequence[Standing] = ()
    _told: Tokens | None = None

    @classmethod
    def of(cls, scope: Scope) -> RequestRecord:
        """Of a request that comes in now."""
        return cls(scope["state"]["request_id"])

    @property
    def subjects(self) -> list[Subject]:
        """Whose limits count."""
        named: list[tuple[Kind, str | None]] = [("key", self.key), ("team", self.team), ("alias", self.alias)]
        return [(kind, name) for kind, name in named if name is not None]

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit of tokens or a budget is held against this request."""
        return self.held is not None and self.held.counts_tokens

    def headers(self) -> dict[str, str]:
        """What is ours to tell beside the answer: which version speaks, and how limits stand."""
        told = dict(limit_headers(self.held.standings if self.held is not None else self._standings))
        return told if self.version == UNKNOWN else {VERSION_HEADER: self.version, **told}

    def asks(self, engine: EngineRow) -> bytes:  # noqa: ARG002 - a record of another kind tells of it
        """What `engine`, which is asked now, is told beside the body: lines of headers."""
        return b"x-request-id: %s\r\n" % self.request_id.encode("ascii")

    def lose(self, error: SumikaError) -> None:
        """The engine that was asked gave no answer; there may be another one."""

    def refuse(self, error: SumikaError) -> None:
        self.status, self.code = error.status, error.code
        if isinstance(error, RateLimited):
            self._standings = error.standings

    def end(self) -> None:
        self.status = self.status or 500  # ended by a fault of ours
        self.ended = time.monotonic()
        self._told = self.count.tokens if self.count is not None else None
        self._learn()

    def _learn(self) -> None:
        """Let a whole answer tell how fast its base is."""
        if self.work is None or self.count is None or self._told is None or not self._told.completion:
            return
        work, seconds = self.work, self.ended - self.work.began
        if self.waited_s <= seconds * _MAX_WAITED:
            work.throughput.learn(work.base_id, self._told.completion, work.choices, seconds, self.count.events)

    @property
    def _seconds(self) -> float:
        return self.ended - self.began

    @property
    def partial(self) -> bool:
        """Whether an engine worked for this request and never told how much."""
        cut = self.first_byte is not None or self.status == CLIENT_CLOSED or self.code == "engine_timeout"
        return self.work is not None and cut and self._told is None

    @property
    def estimated(self) -> bool:
        """Whether `tokens` are a guess of ours, in all or for what was made in silence."""
        if not self.partial or self.work is None:
            return False
        return self.count is None or self.count.running is None or self._unseen(self.work, self.ended) > 0

    def tokens(self) -> Tokens:
        """As vLLM counted them; charged by `_cut_off` where it never told; none where no engine did anything."""
        if self.partial and self.work is not None:
            return self._cut_off(self.work, self.ended)
        return self._told or Tokens()

    def _cut_off(self, work: Work, now: float) -> Tokens:
        """Of a stream: the engine's running count, else the events that passed; and where the client left, what was made since, while it did not read
        or the engine held back. Of an answer in one piece, which nobody has seen: what an engine makes in that time; `LEAST_SHARE` at least, where the
        client left."""
        running = self.count.running if self.count is not None else None
        if isinstance(self.count, NoCount):
            return self.count.tokens
        if work.streams:
            events = self.count.events if self.count is not None else 0
            made = (running and running.completion) or round(events * work.throughput.per_event(work.base_id))
            made += self._unseen(work, now)
        else:
            made = work.throughput.tokens(work.base_id, now - work.began, work.choices)
            if self.status == CLIENT_CLOSED:
                made = max(made, round(work.reserved * LEAST_SHARE))
        prompt = self.prompt_estimate if running is None else running.prompt
        return Tokens(prompt, made if work.most is None else min(made, work.most))

    def _unseen(self, work: Work, now: float) -> int:
        """Tokens of a stream that were made while nothing of it passed, until its client left."""
        if not work.streams or self.status != CLIENT_CLOSED:
            return 0
        return work.throughput.tokens(work.base_id, now - (self.passed_at or work.began) - SILENT_S, work.choices)

    def usage(self, endpoint: Endpoint) -> UsageRow:
        """For the usage table."""
        code = "" if self.code == UNKNOWN else self.code
        return self._row(endpoint, self.tokens(), self.status, code, self.ended, partial=self.partial, estimated=self.estimated)

    def interrupted(self, endpoint: Endpoint) -> UsageRow:
        """The row for the case that this process ends now."""
        now = time.monotonic()
        tokens = self._cut_off(self.work, now) if self.work is not None else Tokens()
        estimated = self.count is None or self.count.running is None
        return self._row(endpoint, tokens, 500, INTERRUPTED, now, partial=True, estimated=estimated)

    def _row(
        self, endpoint: Endpoint, tokens: Tokens, status: int, code: str, ended: float, *, partial: bool, estimated: bool
    ) -> UsageRow:
        return UsageRow(
            self.request_id, self.at, self.key, self.team, self.alias, self.version, endpoint, status, code, partial,
            tokens.prompt, tokens.cached, tokens.completion, tokens.reasoning,
            None if self.first_byte is None else round((self.first_byte - self.began) * 1000), round((ended - self.began) * 1000),
            self.role, estimated,
        )  # fmt: skip

    def tell(self, metrics: Metrics) -> None:
        """For Prometheus and the log."""
        metrics.requests.labels(self.alias, str(self.status)).inc()
        metrics.duration.labels(self.alias).observe(self._seconds)
        if self.first_byte is not None:
            metrics.first_byte.labels(self.alias).observe(self.first_byte - self.began)
        self._tell_tokens(metrics)
        log.info(
            "request %(request_id)s key=%(key)s alias=%(alias)s version=%(version)s status=%(status)d code=%(code)s seconds=%(seconds).3f",
            {"request_id": self.request_id, "key": self.key, "alias": self.alias, "version": self.version, "status": self.status,
             "code": self.code, "seconds": self._seconds},
        )  # fmt: skip

    def _tell_tokens(self, metrics: Metrics) -> None:
        tokens = self.tokens()
        for kind, count in (
            ("prompt", tokens.prompt),
            ("cached", tokens.cached),
            ("completion", tokens.completion),
            ("reasoning", tokens.reasoning),
        ):
            if count:
                metrics.tokens.labels(self.alias, kind).inc(count)
        if self.first_byte is not None and isinstance(self.count, StreamCount) and (tokens.completion or 0) > 1:
            metrics.token.labels(self.alias).observe((self.ended - self.first_byte) / ((tokens.completion or 0) - 1))


class RecordedAnswer(Answer):
    """Tells the version that answers, and notes when it began and what passed."""

    def __init__(
        self, scope: Scope, send: Send, record: RequestRecord, dialect: Dialect, *, is_stream: bool, shows_usage: bool
    ) -> None:
        super().__init__(scope, send, dialect, is_stream=is_stream, shows_usage=shows_usage)
        self._record = record

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self._record.headers().items()]

    async def break_off(self, error: SumikaError) -> None:
        self._record.status, self._record.code = error.status, error.code
        await super().break_off(error)

    async def pass_on(self, chunk: bytes) -> None:
        if self._record.first_byte is None:
            self._record.first_byte, self._record.count = time.monotonic(), self.count
        if self._record.content is not None:
            self._record.content[1].append(chunk)
        record = self._record
        record.passed_at = began = time.monotonic()
        await super().pass_on(chunk)
        record.waited_s += time.monotonic() - began
