"""A job that may start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sumika.finetune.batching import Batching
from sumika.finetune.chat import ChatFormat, Rendered, RenderedPair
from sumika.finetune.data.prepare import Prepared
from sumika.finetune.data.record import Conversation, Row
from sumika.finetune.data.report import Said
from sumika.finetune.memory import Estimate
from sumika.models.registry import Version


@dataclass(frozen=True, slots=True)
class Checked:
    """A base, the rows as it will see them, how many of them make a step, and what that takes of memory.

    `suites` by name; `sha256` of the files that were read; `warnings` are what does not stop the job and still wants a person's eye.
    """

    base: Version
    folder: Path
    chat: ChatFormat
    data: Prepared
    rows: Sequence[Rendered] | Sequence[RenderedPair]
    suites: Mapping[str, Sequence[Row[Conversation]]]
    batching: Batching
    memory: Estimate
    sha256: Mapping[str, str] = field(default_factory=dict)
    warnings: list[Said] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        tokens = self.data.report.tokens()
        return {
            "base": str(self.base.ref),
            "rows": len(self.rows),
            "held_out": len(self.data.held_out),
            "longest_row_tokens": tokens["longest"],
            "median_row_tokens": tokens["median"],
            "tokens": sum(row.length for row in self.rows),
            "trained_tokens": sum(row.trained for row in self.rows),
            **asdict(self.batching),
            "memory_bytes": self.memory.total,
        }
