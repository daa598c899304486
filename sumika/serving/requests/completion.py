"""`POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sumika.serving.requests.fields import MAX_CHOICES, Generating


class CompletionRequest(Generating):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    suffix: None = None

    @property
    def choices(self) -> int:
        prompts = len(self.prompt) if isinstance(self.prompt, list) else 1
        return prompts * super().choices
