"""One of several processes at one job, started by `together`."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sumika.finetune import base_model, checks, runs
from sumika.finetune.batching import Batching
from sumika.finetune.config import JobConfig, load
from sumika.finetune.tracking import Tracking
from sumika.finetune.training import mlflow_run
from sumika.finetune.training.journal import Journal
from sumika.finetune.training.task import Task
from sumika.finetune.training.train import train
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.settings import load_settings

ENDED = "ended.json"


def main(rank: int, run: Path, batching: dict[str, Any], processes: int, port: int) -> None:
    """Train as process `rank` of `processes`, which meet at `port`; the first keeps in `ENDED` how it ended."""
    os.setpgrp()  # Ctrl-C at the terminal then reaches our parent alone, who tells each of us once
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    first = rank == 0
    try:
        figures = _train(load(run / runs.CONFIG), Batching(**batching), run, first)
    except runs.Stopped:
        end: dict[str, Any] = {"stopped": True}
    except SumikaError as error:
        runs.keep(run, ENDED, {"error": {"code": error.code, "en": error.en, "ja": error.ja, "status": error.status}})
        raise
    else:
        end = {"trained": figures}
    if first:
        runs.keep(run, ENDED, end)


def ended(run: Path) -> dict[str, Any]:
    """What the first process, or one that failed, kept; empty where none did."""
    try:
        return dict(json.loads((run / ENDED).read_bytes()))
    except FileNotFoundError:
        return {}


def _train(config: JobConfig, batching: Batching, run: Path, first: bool) -> dict[str, Any]:
    settings = load_settings()
    looked = checks.look(config, open_store(settings), settings.layout)
    rows = looked.data.pairs() if config.job.method == "dpo" else looked.data.rows()
    held_out = [looked.chat.render_conversation(row.content) for row in looked.data.held_out]
    task = Task(config, looked.chat, rows, held_out, batching, run)
    base = base_model.load(looked.folder, quantize=config.base.quantize)
    with ExitStack() as following:
        followers = (
            following.enter_context(mlflow_run.following(config, run, Tracking(settings.finetune.tracking))) if first else []
        )
        trained = train(base, task, Journal(run, mute=not first), Console(quiet=not first), *followers)
    return {name: getattr(trained, name) for name in ("steps", "seconds", "trained_tokens", "losses", "best_step")}
