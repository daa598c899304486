"""`POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sumika.serving.requests.fields import Asked, Dropped
from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.problems import refused

_MOST = 2_048


def _no_ids(given: Any) -> Any:
    """Token ids mean something to one tokenizer alone, and clients that send them use one of OpenAI's."""
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, int) or (isinstance(first, list) and first and isinstance(first[0], int)):
        raise refused(
            "unsupported_input",
            "send text, not token ids: they would be read by another tokenizer than made them (LangChain: check_embedding_ctx_length=False).",
            "トークンIDではなくテキストを送ってください。別のトークナイザーのIDでは意味が変わります(LangChain: check_embedding_ctx_length=False)。",
        )
    return given


_Text = Annotated[str, Field(min_length=1)]


class EmbeddingRequest(Asked):
    """One text or several. `dimensions` is for models that were trained for it; others refuse it."""

    DROPPED = frozenset({"user"})

    input: Annotated[_Text | Annotated[list[_Text], Field(min_length=1, max_length=_MOST)], BeforeValidator(_no_ids)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=65_536)
    user: Dropped | None = None

    def _part(self, body: Body, plain: Plain) -> None:
        plain.texts(body, "input")
        if isinstance(texts := body["input"], list):
            body["input"] = [plain.name(text) for text in texts]
