"""Several GPUs at one job: a process for each, which share every step by accelerate; the model comes back from their checkpoint."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from peft import get_peft_model, load_peft_weights, set_peft_model_state_dict
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from sumika.finetune import runs
from sumika.finetune.training import checkpoints, shard
from sumika.finetune.training.arguments import lora
from sumika.finetune.training.task import Task, Trained
from sumika.models.errors import SumikaError, quoted

# How long the others may take to end by themselves once one has failed.
_GRACE_S = 10.0
_LAST_WORDS = 2000


def train(task: Task, load: Callable[[], Any]) -> Trained:
    """Train `task` on `train.gpus` GPUs, each in a process of `shard`, and put what they learned on the base that `load`
    gives then. On a machine without a GPU the processes share its CPU.

    Raises:
        Stopped: when they were asked to stop and saved.
        SumikaError: `training_failed`, with the last words of a process that failed, or what such a process told.
        KeyboardInterrupt: when they were asked twice.
    """
    (task.run / shard.ENDED).unlink(missing_ok=True)
    gpus = task.config.train.gpus
    with _port() as port:
        context = start_processes(shard.main, (task.run, asdict(task.batching), gpus, port), gpus, join=False)
    with _passing_signals_on(context):
        try:
            while not context.join(grace_period=_GRACE_S):
                pass
        except (ProcessRaisedException, ProcessExitedException) as failed:
            ended = shard.ended(task.run)
            raise SumikaError(**ended["error"]) if "error" in ended else _failed(gpus, str(failed)) from failed
    ended = shard.ended(task.run)
    if ended.get("stopped"):
        raise runs.Stopped(task.run.name)
    if "trained" not in ended:
        raise KeyboardInterrupt
    return _brought_back(task, load(), ended["trained"])


@contextmanager
def _port() -> Iterator[int]:
    """A port of the loopback where the processes meet; free until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield int(probe.getsockname()[1])


@contextmanager
def _passing_signals_on(context: ProcessContext) -> Iterator[None]:
    """Ctrl-C and SIGTERM reach us alone, since the processes have groups of their own; each of them is told once."""

    def tell(number: int, _: Any) -> None:
        for process in context.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failed(gpus: int, words: str) -> SumikaError:
    said = quoted(words[-_LAST_WORDS:], _LAST_WORDS)
    return SumikaError(
        "training_failed",
        f"One of the {gpus} training processes failed: {said}",
        f"{gpus} 個の学習プロセスの1つが失敗しました: {said}",
        status=500,
    )


def _brought_back(task: Task, base: Any, figures: dict[str, Any]) -> Trained:
    step = figures["best_step"] or figures["steps"]
    chosen = next(one for one in checkpoints.listed(task.run) if one.step == step)
    model = get_peft_model(base, lora(task.config))
    set_peft_model_state_dict(model, load_peft_weights(str(chosen.folder), device=str(base.device)))
    return Trained(model.eval(), **figures)
