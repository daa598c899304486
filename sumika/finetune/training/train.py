"""LoRA by TRL and PEFT: sets a trainer up, resumes it, and says how it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from rich.console import Console
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from sumika.finetune.chat import RenderedPair
from sumika.finetune.runs import Stopped
from sumika.finetune.training import checkpoints, kernels
from sumika.finetune.training.arguments import arguments, lora
from sumika.finetune.training.interrupts import Interrupts
from sumika.finetune.training.journal import Journal, read
from sumika.finetune.training.keep_best import KeepBest
from sumika.finetune.training.progress import ProgressLine
from sumika.finetune.training.task import Task, Trained
from sumika.finetune.training.trainers import AnswerTrainer, PairTrainer


def train(model: Any, task: Task, journal: Journal, console: Console, *more: Any) -> Trained:
    """Teach `model` the trained tokens of the task's rows, from its newest good checkpoint if there is one.

    Raises:
        Stopped: on the first Ctrl-C or SIGTERM, once a checkpoint was written.
        SumikaError: `disk_full`.
        KeyboardInterrupt: on the second.
    """
    epoch_tokens = sum(row.trained for row in task.rows)
    line = ProgressLine(console, journal, epoch_tokens)
    interrupts = Interrupts(console)
    trainer = _trainer(model, task, [line, interrupts, *more])
    found = checkpoints.newest(task.run)
    journal.rewind(found.step if found else 0)
    if found:
        console.print(f"resuming after step {found.step}", highlight=False)
    began = time.monotonic()
    with interrupts.caught(), line.bar:
        trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
    state = trainer.state
    if interrupts.stopped and state.global_step < state.max_steps:
        raise Stopped(task.run.name)
    best = state.best_global_step if task.config.stop_early else None
    if best:
        _restore(trainer.model, task.run, best)
    losses = [entry["loss"] for entry in read(task.run) if "loss" in entry]
    return Trained(
        trainer.model.eval(), state.global_step, time.monotonic() - began, int(epoch_tokens * (state.epoch or 0)), losses, best
    )


def _trainer(model: Any, task: Task, callbacks: list[Any]) -> Any:
    config = task.config
    early = config.stop_early
    if early is not None:
        callbacks = [*callbacks, EarlyStoppingCallback(early.patience, early.min_delta), KeepBest()]
    joined = config.data.packing == "auto" and kernels.keeps_rows_apart(model)
    common: dict[str, Any] = {
        "model": model,
        "args": arguments(config, task.run, task.batching, joined=joined),
        "processing_class": task.chat.tokenizer,
        "peft_config": lora(config),
        "callbacks": callbacks,
        "run": task.run,
        "keep": config.checkpoint.keep,
        "lengths": [row.length for row in task.rows],
    }
    pairs = [row for row in task.rows if isinstance(row, RenderedPair)]
    if pairs:
        dataset = Dataset.from_list([
            {"prompt_ids": list(p.prompt_ids), "chosen_ids": list(p.chosen_ids), "rejected_ids": list(p.rejected_ids)} for p in pairs
        ])  # fmt: skip
        trainer: AnswerTrainer | PairTrainer = PairTrainer(
            train_dataset=dataset, data_collator=DataCollatorForPreference(task.chat.pad_id), **common
        )
    else:
        trainer = AnswerTrainer(
            train_dataset=_dataset(task.rows),
            eval_dataset=_dataset(task.held_out) if early is not None else None,
            data_collator=DataCollatorForLanguageModeling(task.chat.pad_id, padding_free=joined),
            **common,
        )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    return trainer


def _dataset(rows: Sequence[Any]) -> Dataset:
    return Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])


def _restore(model: Any, run: Path, step: int) -> None:
    """The adapter as it was at `step`, where the held-out loss was lowest."""
    folder = next(one.folder for one in checkpoints.listed(run) if one.step == step)
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))
