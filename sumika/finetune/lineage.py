"""What made an adapter: enough to make it again, and to find it by a record that it saw."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from sumika.finetune.checks import Checked
from sumika.finetune.config import JobConfig
from sumika.finetune.data import records
from sumika.finetune.training.journal import peak_memory
from sumika.finetune.training.task import Trained

_PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "bitsandbytes", "liger-kernel",
)  # fmt: skip


def of(config: JobConfig, checked: Checked, trained: Trained, run: Path) -> dict[str, Any]:
    """For the version's row: base, data, template, resolved job, packages, machine, and how training went."""
    return {
        "run": run.name,
        "base": {"version": str(checked.base.ref), "digest": checked.base.digest},
        "data": checked.data.report.as_dict() | {"records": records.FILE},
        "template_sha256": checked.chat.template_sha256,
        "stop_ids": list(checked.chat.stop_ids),
        "config": config.model_dump(mode="json"),
        "figures": checked.figures(),
        "packages": dict(_packages()),
        "machine": machine(),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "seconds": round(trained.seconds, 1),
        "trained_tokens": trained.trained_tokens,
        "first_loss": trained.losses[0],
        "last_loss": trained.losses[-1],
        "peak_memory_bytes": peak_memory(),
    }


def machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _packages() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, package_version(name)))
        except PackageNotFoundError:
            continue  # those for CUDA alone
    return found
