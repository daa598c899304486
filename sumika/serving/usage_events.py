"""vLLM's own count of tokens, taken from the end of an answer that passes through, without reading the rest of it.

Inside a JSON string a quotation mark is written `\\"`, so neither marker below can stand in what a model says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from sumika.serving.wire import EngineLost

_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
# How an event tells the tokens of its choice so far; the event that ends the stream has no choice.
_RUNNING_MARK = b',"usage":{"prompt_tokens":'
_RUNNING = re.compile(rb',"usage":\{"prompt_tokens":(\d{1,10}),"total_tokens":\d{1,10},"completion_tokens":(\d{1,10})[^{}]*\}')
_CHOICE_MARK = b'"choices":[{"index":'
_CHOICE = re.compile(rb"\d{1,4}")
_EVENT_END = b"\n\n"
# An answer that is no stream ends with its usage and a few fields that are null, or begins with it (rerank).
_TAIL_BYTES = 4096
_HEAD_BYTES = 1024
# The last event of /v1/responses holds the whole answer once more; what is longer is no event.
_MOST_EVENT_BYTES = 8 * 2**20
# More no engine counts for one request, and every database holds it.
_MOST_TOKENS = 2**31


@dataclass(frozen=True, slots=True)
class Tokens:
    """As vLLM counted them; None where it did not tell."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


class StreamCount:
    """Server-sent events: what goes on to the client, the tokens its last event tells, and how many events there were.

    `mark`: what that event holds. `shows_usage`: the client asked for that last event too. Only whole events go on, so what an engine that died began to
    say does not run into the error that follows. `running`: every event tells its choice's tokens (`continuous_usage_stats`), which the client did
    not ask for.
    """

    def __init__(self, mark: bytes, *, shows_usage: bool, running: bool = False) -> None:
        self._mark = mark
        self._shows_usage = shows_usage
        self._running: dict[int, int] | None = {} if running else None
        self._prompt = 0
        self._begun = b""
        self.tokens: Tokens | None = None
        self.events = 0

    def feed(self, chunk: bytes) -> bytes:
        if self._begun:
            chunk, self._begun = self._begun + chunk, b""
        if not chunk.endswith(_EVENT_END):
            whole = chunk.rfind(_EVENT_END)
            chunk, self._begun = (chunk[: whole + 2], chunk[whole + 2 :]) if whole >= 0 else (b"", chunk)
            if len(self._begun) > _MOST_EVENT_BYTES:
                raise EngineLost("an event has no end")
        self.events += chunk.count(_EVENT_END)
        if self._running is not None:
            chunk = self._without_running(chunk, self._running)
        at = chunk.find(self._mark)
        return chunk if at < 0 else self._last_event(chunk, at)

    @property
    def running(self) -> Tokens | None:
        """The engine's own count so far; None where it tells none."""
        return Tokens(self._prompt, sum(self._running.values())) if self._running else None

    def _without_running(self, chunk: bytes, counts: dict[int, int]) -> bytes:
        kept, end = b"", 0
        while (at := chunk.find(_RUNNING_MARK, end)) >= 0:
            begun = chunk.rfind(_EVENT_END, 0, at)
            named = chunk.find(_CHOICE_MARK, max(0, begun), at)
            choice = _CHOICE.match(chunk, named + len(_CHOICE_MARK)) if named >= 0 else None
            told = _RUNNING.match(chunk, at) if choice else None
            if choice is None or told is None:
                break
            counts[int(choice[0])], self._prompt = int(told[2]), int(told[1])
            kept += chunk[end:at]
            end = told.end()
        return kept + chunk[end:] if end else chunk

    def _last_event(self, chunk: bytes, at: int) -> bytes:
        start = chunk.rfind(_EVENT_END, 0, at)
        start = 0 if start < 0 else start + 2
        end = chunk.find(_EVENT_END, at) + 2
        self.tokens = parse(chunk[start:end])
        self.events -= 1
        return chunk if self._shows_usage else chunk[:start] + chunk[end:]


class BodyCount:
    """An answer in one piece of JSON."""

    running = None

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self.events = 0

    def feed(self, chunk: bytes) -> bytes:
        if len(self._head) < _HEAD_BYTES:
            self._head = (self._head + chunk)[:_HEAD_BYTES]
        self._tail = chunk[-_TAIL_BYTES:] if len(chunk) >= _TAIL_BYTES else (self._tail + chunk)[-_TAIL_BYTES:]
        return chunk

    @property
    def tokens(self) -> Tokens | None:
        return parse(self._tail) or parse(self._head)


class NoCount:
    """An answer that no model worked for: nothing of it counts."""

    tokens = Tokens(0, 0)
    running = None
    events = 0

    def feed(self, chunk: bytes) -> bytes:
        return chunk


Count = StreamCount | BodyCount | NoCount


def parse(data: bytes) -> Tokens | None:
    """The last `usage` object in `data`; None where there is none that can be read."""
    found = None
    for found in _USAGE.finditer(data):  # noqa: B007 - the last one
        pass
    if found is None:
        return None
    try:
        told, _ = json.JSONDecoder().raw_decode(data[found.end() :].decode(errors="replace"))
        return _openai(told) if "prompt_tokens" in told else _responses_or_anthropic(told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # an engine gone wrong
        return None


def _openai(told: dict[str, Any]) -> Tokens:
    """Embeddings and reranking tell no completion, since they have none."""
    made = told["completion_tokens"] if "completion_tokens" in told else told["total_tokens"] - told["prompt_tokens"]
    return Tokens(
        _number(told["prompt_tokens"]), _number(made or 0),
        _detail(told, "prompt_tokens_details", "cached_tokens"), _detail(told, "completion_tokens_details", "reasoning_tokens"),
    )  # fmt: skip


def _responses_or_anthropic(told: dict[str, Any]) -> Tokens:
    """OpenAI's responses count what was cached among the input, Anthropic's messages beside it."""
    given, made = _number(told["input_tokens"]), _number(told["output_tokens"])
    if "input_tokens_details" in told:
        cached = _detail(told, "input_tokens_details", "cached_tokens")
        return Tokens(given, made, cached, _detail(told, "output_tokens_details", "reasoning_tokens"))
    read = told.get("cache_read_input_tokens")
    written = _number(told.get("cache_creation_input_tokens") or 0)
    return Tokens(given + _number(read or 0) + written, made, None if read is None else _number(read))


def _detail(told: dict[str, Any], group: str, name: str) -> int | None:
    value = (told.get(group) or {}).get(name)
    return None if value is None else _number(value)


def _number(value: Any) -> int:
    """Raises ValueError for what is no count of tokens."""
    if type(value) is not int or not 0 <= value <= _MOST_TOKENS:
        raise ValueError("no count of tokens")
    return value
