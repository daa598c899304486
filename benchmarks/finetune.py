"""Training beside plain TRL with its defaults: trained tokens a second, peak memory, and the loss both come to.

    python benchmarks/finetune.py                   # the demo's base and data, 12 steps of 8 rows, three runs each, in turn
    python benchmarks/finetune.py --steps 24 --runs 5 --base gemma-3-270m@1

Both learn the same rows of the same base from the same LoRA shape, at the same rate, in the same number of steps of as
many rows; each run is a process of its own, so that its memory is its own. Loading, the first two steps and judging are
not in the figures. The held-out loss is measured by the same code for both. What a peer does with the rows is its own
affair: TRL is given them as prompt and completion, and trains on completions alone, as its documentation says.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

JOB = Path("configs/finetune/sakura-faq.yaml")
_WARM = 2


def sumika(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    from sumika.finetune import base_model
    from sumika.finetune.training.journal import Journal
    from sumika.finetune.training.task import Task
    from sumika.finetune.training.train import train

    job, checked = _checked(options)
    clock = _clock()
    model = base_model.load(checked.folder)
    task = Task(job, checked.chat, checked.rows, [], checked.batching, folder)
    trained = train(model, task, Journal(folder), Console(quiet=True), clock)
    return _figures(checked, trained.model, clock)


def trl(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    job, checked = _checked(options)
    rows = [json.loads(line)["messages"] for line in Path(job.data.train[0].path).read_text(encoding="utf-8").splitlines()]
    clock = _clock()
    trainer = SFTTrainer(
        model=str(checked.folder),
        args=SFTConfig(
            str(folder), per_device_train_batch_size=checked.batching.rows_per_step, max_steps=options.steps, save_strategy="no",
            learning_rate=job.train.learning_rate, lr_scheduler_type=job.train.scheduler, warmup_steps=job.train.warmup,
            report_to=[], disable_tqdm=True, seed=job.job.seed, use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_list([{"prompt": turns[:-1], "completion": turns[-1:]} for turns in rows]),
        peft_config=LoraConfig(r=job.lora.r, lora_alpha=job.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    return _figures(checked, trainer.model.eval(), clock)


PEERS = {"Sumika": sumika, "TRL": trl}


def _checked(options: argparse.Namespace) -> tuple[Any, Any]:
    from sumika.finetune import checks
    from sumika.finetune import config as jobs
    from sumika.models.bootstrap import open_store
    from sumika.models.settings import load_settings

    settings = load_settings()
    job = jobs.load(JOB, [f"base.version={options.base}", f"train.max_steps={options.steps}"])
    return job, checks.check(job, open_store(settings), settings.layout)


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Seconds of each step after the first two."""

        def __init__(self) -> None:
            self.steps: list[float] = []
            self._last: float | None = None

        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            now = time.perf_counter()
            if self._last is not None and state.global_step > _WARM:
                self.steps.append(now - self._last)
            self._last = now

    return Clock()


def _figures(checked: Any, model: Any, clock: Any) -> dict[str, float]:
    from sumika.finetune.evaluation import answers
    from sumika.finetune.training.journal import peak_memory

    peak = peak_memory()
    trained = sum(row.trained for row in checked.rows) / len(checked.rows) * checked.batching.rows_per_step
    return {
        "tokens_s": trained / statistics.mean(clock.steps),
        "peak_gib": peak / 2**30,
        "held_out_loss": answers.loss(model, checked.chat, checked.data.held_out),
        "reckoned_gib": checked.memory.total / 2**30,
    }


def one(name: str, options: argparse.Namespace) -> None:
    """In a process of its own: the figures as the last line of its output."""
    with tempfile.TemporaryDirectory() as folder:
        figures = PEERS[name](options, Path(folder))
    sys.stdout.write("\n" + json.dumps(figures | {"cpu_s": resource.getrusage(resource.RUSAGE_SELF).ru_utime}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="gemma-3-270m")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options)
        return
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    for _ in range(options.runs):
        for name in PEERS:
            output = subprocess.run(
                [sys.executable, __file__, "--one", name, "--base", options.base, "--steps", str(options.steps)],
                stdout=subprocess.PIPE, text=True, check=True,
            ).stdout  # fmt: skip
            measured[name].append(json.loads(output.splitlines()[-1]))
    table = Table(
        "",
        "trained tokens/s",
        "of TRL's",
        "peak GiB",
        "reckoned GiB",
        "held-out loss",
        title=f"{options.runs} runs each, medians",
    )
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in measured.items()}
    for name, found in medians.items():
        ratio = found["tokens_s"] / medians["TRL"]["tokens_s"]
        reckoned = f"{found['reckoned_gib']:.2f}" if name == "Sumika" else ""
        table.add_row(
            name,
            f"{found['tokens_s']:.1f}",
            f"{ratio:.2f}",
            f"{found['peak_gib']:.2f}",
            reckoned,
            f"{found['held_out_loss']:.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
