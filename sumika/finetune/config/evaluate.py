"""What a candidate is asked at the end: held-out rows, and suites of a task's own questions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from sumika.finetune.config.fields import LocalFile, Name
from sumika.finetune.group import Group, refused_at

SuiteCheck = Literal["facts", "exact", "json", "regex"]


class Suite(Group):
    """A file of questions with a check of its own."""

    name: Name
    """By this name serve.gate.suites asks for a score."""
    path: LocalFile
    """Rows as in held_out."""
    check: SuiteCheck = "facts"
    """When an answer is right: it holds the row's facts; is exactly the row's answer; is the same JSON; or the row's answer is a pattern found in it."""
    max_new_tokens: int = Field(default=96, ge=1, le=4096)
    """Where an answer is cut off."""


class Evaluate(Group):
    """Rows that were never trained on."""

    held_out: LocalFile
    """Questions with their answers; where a row has facts, its answer must hold them."""
    max_new_tokens: int = Field(default=96, ge=1, le=4096)
    """Where an answer is cut off."""
    suites: list[Suite] = Field(default=[], max_length=100)
    """More questions, each file with its own check."""

    @field_validator("suites")
    @classmethod
    def _names_differ(cls, suites: list[Suite]) -> list[Suite]:
        names = [suite.name for suite in suites]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise refused_at(
                    number, "name",
                    en=f"two suites are called '{name}'; give one another name",
                    ja=f"「{name}」という名前のスイートが2つあります。どちらかの名前を変えてください",
                )  # fmt: skip
        return suites
