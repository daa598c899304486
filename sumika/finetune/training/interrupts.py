"""Ctrl-C and SIGTERM: the first asks the run to save and stop after its step, the second ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from transformers import TrainerCallback


class Interrupts(TrainerCallback):  # type: ignore[misc]
    """Listens `with interrupts.caught():`; after training, `stopped` tells whether it was asked to stop."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.stopped = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if args.world_size > 1:  # all must stop after the same step: what one was told, all are
            asked = torch.tensor(int(self.stopped), device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.stopped = bool(asked)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        self._console.print("Saving and stopping after this step; once more to stop at once without saving.", highlight=False)
