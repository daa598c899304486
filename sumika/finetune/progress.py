"""The live line of a training run: step, loss, trained tokens a second, time left."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

_LINE_EVERY = 10


class ProgressLine(TrainerCallback):  # type: ignore[misc]
    """A rich bar on `console`, fed by the trainer; `trained_tokens` is how many one epoch trains.

    Train inside `with line.bar:`, which gives the terminal back however training ends: an error or Ctrl-C reaches no callback.
    """

    def __init__(self, console: Console, trained_tokens: int) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(), TextColumn("→"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._epoch_tokens = trained_tokens
        self._task: TaskID | None = None
        self._began = 0.0
        self._figures = ""
        self.losses: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._began = time.monotonic()
        self._task = self.bar.add_task("training", total=state.max_steps, figures="")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ARG002
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            speed = self._epoch_tokens * (state.epoch or 0) / (time.monotonic() - self._began)
            self._figures = f"loss {self.losses[-1]:.3f}  {speed:,.0f} trained tokens/s"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self._task is not None:
            self.bar.update(self._task, completed=state.global_step, figures=self._figures)
        if not self.bar.console.is_terminal and state.global_step % _LINE_EVERY == 0:  # a log file gets lines, not a bar
            self.bar.console.print(f"step {state.global_step} of {state.max_steps}  {self._figures}", highlight=False)
