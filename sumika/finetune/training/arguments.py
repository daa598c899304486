"""A job's keys in TRL's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import DPOConfig, SFTConfig

from sumika.finetune.batching import Batching
from sumika.finetune.config import JobConfig


def lora(config: JobConfig) -> LoraConfig:
    """As vLLM takes it: no bias, no DoRA, nothing saved whole."""
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        use_rslora=config.lora.use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )


def arguments(config: JobConfig, run: Path, batching: Batching, *, joined: bool) -> SFTConfig | DPOConfig:
    """`joined`: the rows of a micro batch share one sequence, without padding between them."""
    common: dict[str, Any] = {
        "output_dir": str(run),
        "num_train_epochs": config.train.epochs,
        "max_steps": config.train.max_steps or -1,
        "per_device_train_batch_size": batching.micro_rows,
        "gradient_accumulation_steps": batching.accumulation,
        "learning_rate": config.train.learning_rate,
        "lr_scheduler_type": config.train.scheduler,
        "warmup_steps": config.train.warmup,
        "weight_decay": config.train.weight_decay,
        "max_grad_norm": config.train.max_grad_norm,
        # TRL turns it on by default; it costs a fifth of the time.
        "gradient_checkpointing": batching.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "max_length": None,  # lengths were checked; nothing is cut in silence
        "bf16": False,  # the weights are bf16 already; autocast on top would convert each of them at each step
        "torch_compile": config.train.compile,
        "seed": config.job.seed,
        "data_seed": config.job.seed,
        "logging_steps": 1,
        "report_to": ["tensorboard"],
        "save_strategy": "steps",
        "save_steps": config.checkpoint.every,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    if config.train.sharding == "fsdp":
        common |= {"fsdp": True}
    if config.stop_early is not None:
        common |= {
            "eval_strategy": "steps",
            "eval_steps": config.stop_early.every,
            "per_device_eval_batch_size": batching.micro_rows,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "prediction_loss_only": True,
        }
    if config.job.method == "dpo":
        return DPOConfig(beta=config.train.beta, **common)
    # Micro batches joined and not whole epochs packed: a step then learns from the same rows on every machine.
    return SFTConfig(packing=False, padding_free=joined, **common)
