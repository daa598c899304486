"""How each API of the engine ends a stream, tells its tokens, and how a stream of it that broke is told.

Markers stand where JSON can't hold them: a line's end is never bare inside a string, and a quotation mark never unescaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sumika.models.errors import Language, SumikaError
from sumika.serving.replies import anthropic_body, error_body


@dataclass(frozen=True, slots=True)
class Dialect:
    """`usage`: what the event that tells the tokens holds. `ends`: how the last event of a whole stream may begin.
    `fails`: how an event begins by which the engine gives up. `broken`: the event for a stream that has begun and can't go on. `counts`: whether an answer tells tokens at all."""

    usage: bytes
    ends: tuple[bytes, ...]
    fails: bytes
    broken: Callable[[SumikaError, Language], bytes]
    counts: bool = True


def _event(name: str, body: dict[str, Any]) -> bytes:
    data = b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
    return b"event: " + name.encode() + b"\n" + data if name else data


def _responses_broken(error: SumikaError, speak: Language) -> bytes:
    """OpenAI's `error` event, with the envelope beside, which makes its clients raise."""
    text = {"type": "error", "code": error.code, "message": error.text(speak), "param": error.param, "sequence_number": 0}
    return _event("error", text | error_body(error, speak))


# The last event where `stream_options.include_usage` is set (vLLM 0.32, chat_completion/serving.py), then [DONE].
OPENAI = Dialect(
    b'"choices":[],"usage":{', (b"data: [DONE]",), b'data: {"error":', lambda error, speak: _event("", error_body(error, speak))
)
# The whole response again, with its usage; there is no [DONE].
RESPONSES = Dialect(
    b"event: response.completed\n",
    (b"event: response.completed\n", b"event: response.failed\n"),
    b"event: error\n",
    _responses_broken,
)
ANTHROPIC = Dialect(
    b"event: message_delta\n",
    (b"event: message_stop\n",),
    b"event: error\n",
    lambda error, speak: _event("error", anthropic_body(error, speak)),
)
# One object of JSON, and no model was asked.
UNCOUNTED = Dialect(b"", (), OPENAI.fails, OPENAI.broken, counts=False)
