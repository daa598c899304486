"""What a run tells of itself on disk while it goes: `progress.json` for whoever watches, `metrics.jsonl` for ever."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sumika.models import runfiles
from sumika.models.home import write_atomically
from sumika.models.runfiles import METRICS, PROGRESS

State = Literal["loading", "training", "judging", "done"]
_EVERY_S = 1.0


@dataclass(slots=True)
class Progress:
    """`tokens_per_second` counts trained tokens; `memory_bytes` is the peak so far, of the GPU where there is one."""

    state: State = "loading"
    step: int = 0
    steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0
    eta_s: float | None = None
    memory_bytes: int | None = None


class Journal:
    """Writes into one run's folder; `mute` writes nothing: of several processes the first tells. A resumed run goes on in the
    same files."""

    def __init__(self, run: Path, *, mute: bool = False) -> None:
        self._run, self._mute = run, mute
        self._written = 0.0
        self.progress = Progress()

    def enter(self, state: State) -> None:
        self.progress.state = state
        self.tell(now=True)

    def tell(self, *, now: bool = False) -> None:
        """Renew `progress.json`, at most once a second unless `now`; a reader never sees half of it."""
        moment = time.monotonic()
        if not self._mute and (now or moment - self._written >= _EVERY_S):
            self._written = moment
            self.progress.memory_bytes = peak_memory()
            write_atomically(self._run / PROGRESS, json.dumps(asdict(self.progress)).encode(), mode=0o600)

    def add(self, figures: dict[str, Any]) -> None:
        """One logged step, as a line of `metrics.jsonl`."""
        if self._mute:
            return
        with (self._run / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")

    def rewind(self, step: int) -> None:
        """Forget lines after `step`: a run resumed from there will write them again."""
        if self._mute:
            return
        kept = [line for line in read(self._run) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self._run / METRICS, text.encode(), mode=0o600)


def read(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; one that a kill cut short is left out."""
    return runfiles.metrics(run)


def peak_memory() -> int:
    """Bytes: what torch took of the GPU at most, or the process of main memory."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
