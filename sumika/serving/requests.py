"""What a client may ask, field by field. Everything that goes to an engine is built from these and from nothing else.

Bounds are the OpenAI API's where it has them; `top_k`, `min_p` and `repetition_penalty` are vLLM's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sumika.models.errors import SumikaError, quoted

MAX_CHOICES = 8
_MAX_TOKENS = 1_000_000
_MAX_DEPTH = 32
# What an answer is taken to need where nobody says: the engine's own bound is its whole context.
USUAL_TOKENS = 1024

Stop = str | Annotated[list[str], Field(max_length=4)]


class _Strict(BaseModel):
    """No unknown field, no `true` for 1, no "1" for 1, no NaN; a field called `model_…` is no special case."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(_Strict):
    include_usage: bool = False


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(max_length=64)] | None = None


class _Sampling(_Strict):
    model: Annotated[str, Field(max_length=256)]
    max_tokens: int | None = Field(default=None, ge=1, le=_MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1_000_000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @property
    def most_completion(self) -> int:
        """Tokens that the answer may have, over all choices; `USUAL_TOKENS` each where the client set no bound."""
        return (self.n or 1) * (self._bound() or USUAL_TOKENS)

    def _bound(self) -> int | None:
        return self.max_tokens

    @property
    def shows_usage(self) -> bool:
        """Whether the client asked for a stream's usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def upstream(self, version: str) -> bytes:
        """The body for the engine: what the client set, less what is ours, on the version its alias leads to. A stream
        always ends with its usage, which goes no further than the gateway where the client did not ask for it."""
        body: dict[str, Any] = self.model_dump(exclude_none=True, exclude={"user", "model", "stream_options"})
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        return json.dumps({"model": version, **body}, ensure_ascii=False).encode()


class ChatRequest(_Sampling):
    messages: list[Message] = Field(min_length=1, max_length=4_096)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=_MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    def _bound(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Sampling):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    suffix: None = None

    @property
    def most_completion(self) -> int:
        prompts = len(self.prompt) if isinstance(self.prompt, list) else 1
        return prompts * super().most_completion


def parse(kind: type[_Sampling], body: bytes) -> Any:
    """Read one request.

    Raises:
        SumikaError: `invalid_json`, or `invalid_request` naming the field (`param`) and what is wrong with it.
    """
    data = read_json(body)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from None


def read_json(body: bytes) -> Any:
    """Raises SumikaError `invalid_json`."""
    try:
        # Text first: json.loads would guess UTF-16 and 32 from bytes.
        data = json.loads(body.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
        _check(data, _MAX_DEPTH)
        return data
    except (ValueError, RecursionError) as error:
        reason = quoted(str(error)) if isinstance(error, _Refused) else "it is not JSON in UTF-8"
        raise SumikaError(
            "invalid_json",
            f"The request body can't be read: {reason}.",
            f"リクエスト本文を読み取れません: {reason}。",
        ) from None


class _Refused(ValueError):
    """JSON that a lenient reader would take, with our own words for why we do not."""


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Refused("a key is given twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise _Refused(f"{name} is no JSON number")


def _check(value: Any, depth: int) -> None:
    """Bound the depth, and refuse lone surrogates and infinite numbers, which would fail later and elsewhere."""
    if depth == 0:
        raise _Refused(f"it is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise _Refused("a text holds half of a surrogate pair")
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth)
            _check(item, depth - 1)


def invalid(problems: Sequence[Mapping[str, Any]]) -> SumikaError:
    """What pydantic found, the first of it in words."""
    first = problems[0]
    path = [str(part) for part in first["loc"]]
    param = quoted(".".join(path)) if path else None
    unknown = first["type"] == "extra_forbidden"
    reason = "unknown field" if unknown else quoted(first["msg"])
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    return SumikaError(
        "unknown_field" if unknown else "invalid_request",
        f"{param or 'The body'}: {reason}{more}.",
        f"{param or '本文'}: {'未対応の項目です' if unknown else reason}{more}。",
        param=param,
    )
