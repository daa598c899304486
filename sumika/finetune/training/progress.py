"""The live line of a training run: step, loss, trained tokens a second, memory, time left; and the same to its journal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from sumika.finetune.training.journal import Journal

_LINE_EVERY = 10


class ProgressLine(TrainerCallback):  # type: ignore[misc]
    """A rich bar on `console`, fed by the trainer; `epoch_tokens` is how many one epoch trains.

    Train inside `with line.bar:`, which gives the terminal back however training ends: an error or Ctrl-C reaches no callback.
    """

    def __init__(self, console: Console, journal: Journal, epoch_tokens: int) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(), TextColumn("→"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._journal = journal
        self._epoch_tokens = epoch_tokens
        self._task: TaskID | None = None
        self._began, self._from_step, self._from_epoch = 0.0, 0, 0.0
        self._figures = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._began, self._from_step, self._from_epoch = time.monotonic(), state.global_step, state.epoch or 0.0
        self._task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step, figures="")
        self._journal.progress.steps = state.max_steps
        self._journal.enter("training")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ARG002
        figures = {
            key: value for key, value in (logs or {}).items() if key in ("loss", "eval_loss", "learning_rate", "grad_norm")
        }
        if not figures:
            return
        self._journal.add({"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), **figures})
        progress = self._journal.progress
        progress.loss = figures.get("loss", progress.loss)
        progress.eval_loss = figures.get("eval_loss", progress.eval_loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        progress, seconds = self._journal.progress, time.monotonic() - self._began
        taken = state.global_step - self._from_step
        progress.step, progress.epoch = state.global_step, round(state.epoch or 0.0, 4)
        progress.seconds = round(seconds, 1)
        progress.tokens_per_second = self._epoch_tokens * ((state.epoch or 0.0) - self._from_epoch) / seconds
        progress.eta_s = seconds / taken * (state.max_steps - state.global_step) if taken else None
        self._journal.tell()
        loss = "" if progress.loss is None else f"loss {progress.loss:.3f}  "
        memory = (progress.memory_bytes or 0) / 2**30
        self._figures = f"{loss}{progress.tokens_per_second:,.0f} trained tokens/s  {memory:.1f} GiB"
        if self._task is not None:
            self.bar.update(self._task, completed=state.global_step, figures=self._figures)
        if not self.bar.console.is_terminal and state.global_step % _LINE_EVERY == 0:  # a log file gets lines, not a bar
            self.bar.console.print(f"step {state.global_step} of {state.max_steps}  {self._figures}", highlight=False)
