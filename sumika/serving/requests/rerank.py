"""`POST /v1/rerank`, in Jina's and Cohere's shape."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sumika.serving.requests.fields import Asked
from sumika.serving.requests.plain import Body, Plain

_MOST = 1_000


class RerankRequest(Asked):
    """Which of `documents` answer `query` best: the `top_n` of them, all where it is not said. Documents come back either way,
    whatever `return_documents` says."""

    DROPPED = frozenset({"return_documents"})

    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=_MOST)]
    top_n: int | None = Field(default=None, ge=1, le=_MOST)
    max_tokens_per_doc: int | None = Field(default=None, ge=1, le=1_000_000)
    return_documents: bool | None = None

    def _part(self, body: Body, plain: Plain) -> None:
        """Each document stands behind the query, in a prompt of its own."""
        body["query"] = plain.text(body["query"])
        body["documents"] = [plain.after(body["query"], document) for document in body["documents"]]
