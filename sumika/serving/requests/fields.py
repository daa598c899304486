"""What all requests have in common: strictness, the fields that sampling takes, and those that change nothing here."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from sumika.models.control_text import ControlText
from sumika.serving.requests.plain import Body, Plain

MAX_CHOICES = 8
MAX_TOKENS = 1_000_000
# What an answer is taken to need where nobody says: the engine's own bound is its whole context.
USUAL_TOKENS = 1024
# A Japanese character is three bytes of UTF-8 and about one token; four letters of English are one too.
BYTES_PER_TOKEN = 3

# An engine looks for each in every piece of an answer; an empty one would be found at once.
StopText = Annotated[str, Field(min_length=1, max_length=1_024)]
Stop = StopText | Annotated[list[StopText], Field(max_length=4)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Id = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=65_536)]
Dropped = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Dropped], Field(max_length=16)]
ServiceTier = Literal["auto", "default"]
# As in OpenAI's API; `max` is one model's own.
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class Strict(BaseModel):
    """No unknown field, no `true` for 1, no "1" for 1, no NaN; a field called `model_…` is no special case."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Asked(Strict):
    """One request to a model.

    `DROPPED`: fields that clients send and that change nothing here, so that no engine sees them; `SALTED`: whether the
    engine's endpoint takes a `cache_salt`; `COUNTED`: whether a model works for it, so that it costs tokens.
    """

    DROPPED: ClassVar[frozenset[str]] = frozenset()
    SALTED: ClassVar[bool] = True
    COUNTED: ClassVar[bool] = True

    model: Annotated[str, Field(max_length=256)]

    @property
    def most_completion(self) -> int:
        """Tokens that the answer may have."""
        return 0

    @property
    def bounds_completion(self) -> bool:
        """Whether the client set that bound itself, so that the engine keeps to it."""
        return True

    @property
    def choices(self) -> int:
        """How many answers are generated at once."""
        return 1

    def estimate(self, size: int) -> int:
        """Tokens that a body of `size` bytes may cost, prompt and answer."""
        return size // BYTES_PER_TOKEN + self.most_completion if self.COUNTED else 0

    @property
    def shows_usage(self) -> bool:
        """Whether the client sees the event that ends a stream with its usage."""
        return True

    @property
    def streams(self) -> bool:
        """Whether the answer is to come as events, a piece at a time."""
        return False

    @property
    def uses_tools(self) -> bool:
        """Whether an answer may call tools, which only some models can."""
        return False

    @property
    def bounds_thinking(self) -> bool:
        """Whether tokens are set aside to think with, which only an engine with a reasoning parser can count."""
        return False

    @property
    def grammar(self) -> Any:
        """What an engine makes a grammar of, before it answers: of schemas and the names of functions; None where the answer is free."""
        return None

    def upstream(
        self, version: str, salt: str | None = None, controls: ControlText | None = None, *, running_usage: bool = False
    ) -> bytes:
        """The body for the engine: what the client set, less what is ours, on the version its alias leads to. `salt` parts
        the prefix cache: the time to a first token tells who has sent the same text before. What `controls` finds in texts
        is parted (`plain`). `running_usage`: each event of a stream is to tell its tokens, where the engine's endpoint can."""
        body = {"model": version, **self._body()}
        if salt is not None and self.SALTED:
            body["cache_salt"] = salt
        if running_usage and "stream_options" in body:
            body["stream_options"] |= {"continuous_usage_stats": True}
        if controls is not None:
            self._part(body, Plain(controls))
        return json.dumps(body, ensure_ascii=False).encode()

    def _part(self, body: Body, plain: Plain) -> None:
        """Take the control tokens out of all texts of `body` that a template or the tokenizer reads."""

    def _body(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude_unset=True, by_alias=True, exclude={"model", *self.DROPPED})


class StreamOptions(Strict):
    """`include_obfuscation` pads OpenAI's own streams against listeners on the wire; TLS before us is the place for that."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Generating(Asked):
    """A request whose answer is generated. Bounds are the OpenAI API's where it has them; `top_k`, `min_p` and
    `repetition_penalty` are vLLM's own."""

    DROPPED = frozenset({"user", "stream_options"})

    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
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
    logit_bias: LogitBias | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Dropped | None = None

    @property
    def most_completion(self) -> int:
        """Over all choices; `USUAL_TOKENS` each where the client set no bound."""
        return self.choices * (self._bound() or USUAL_TOKENS)

    @property
    def bounds_completion(self) -> bool:
        return self._bound() is not None

    @property
    def choices(self) -> int:
        return self.n or 1

    def _bound(self) -> int | None:
        return self.max_tokens

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def shows_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _body(self) -> dict[str, Any]:
        """A stream always ends with its usage, which goes no further than the gateway where the client did not ask for it."""
        body = super()._body()
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        return body


TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
LogitBias = Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)]
Generating.model_rebuild()
