"""LoRA by TRL's SFTTrainer and PEFT: this file sets them up, and writes no loop of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTConfig

from sumika.finetune.answer_loss import AnswerTrainer, LeftPadded
from sumika.finetune.chat import ChatFormat, Rendered
from sumika.finetune.config import JobConfig
from sumika.finetune.progress import ProgressLine


@dataclass(frozen=True, slots=True)
class Trained:
    """A PEFT model after training, and the figures of its run."""

    model: Any
    steps: int
    seconds: float
    trained_tokens: int
    losses: list[float]


def train(model: Any, chat: ChatFormat, rows: Sequence[Rendered], config: JobConfig, run: Path, console: Console) -> Trained:
    """Teach `model` the labelled tokens of `rows`; event files for TensorBoard go under `run`.

    Raises:
        KeyboardInterrupt: Ctrl-C, once `console` was told how far it came; nothing is kept of the weights.
    """
    epoch_tokens = sum(row.trained for row in rows)
    line = ProgressLine(console, epoch_tokens)
    trainer = AnswerTrainer(
        model=model,
        args=_arguments(config, run),
        train_dataset=Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows]),
        processing_class=chat.tokenizer,
        data_collator=LeftPadded(chat.pad_id),
        peft_config=_lora(config),
        callbacks=[line],
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    began = time.monotonic()
    try:
        with line.bar:
            trainer.train()
    except KeyboardInterrupt:
        console.print(f"Stopped after step {trainer.state.global_step} of {trainer.state.max_steps}; no adapter was registered.")
        raise
    trained_model = trainer.model.eval()
    return Trained(
        trained_model, trainer.state.global_step, time.monotonic() - began, int(epoch_tokens * config.train.epochs), line.losses
    )


def _lora(config: JobConfig) -> LoraConfig:
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _arguments(config: JobConfig, run: Path) -> SFTConfig:
    return SFTConfig(
        output_dir=str(run),
        num_train_epochs=config.train.epochs,
        per_device_train_batch_size=config.train.batch_size,
        learning_rate=config.train.learning_rate,
        lr_scheduler_type=config.train.scheduler,
        warmup_steps=config.train.warmup,
        # Rows of like length beside each other: padding costs as much as text.
        train_sampling_strategy="group_by_length",
        # TRL turns it on by default; it costs a fifth of the time and a LoRA job of this size has the memory.
        gradient_checkpointing=False,
        max_length=None,  # lengths were checked; nothing is cut in silence
        packing=False,  # with SDPA attention, packed rows of Gemma 3 see each other
        bf16=False,  # the weights are bf16 already; autocast on top would convert each of them at each step
        seed=config.job.seed,
        data_seed=config.job.seed,
        logging_steps=1,
        report_to=["tensorboard"],
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        full_determinism=False,
    )
