"""One of several processes at one job: `python -m sumika.finetune.training.shard RUN`, started by accelerate."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rich.console import Console

from sumika.finetune import base_model, checks, runs
from sumika.finetune.batching import Batching
from sumika.finetune.config import load
from sumika.finetune.training import mlflow_run, together
from sumika.finetune.training.journal import Journal
from sumika.finetune.training.task import Task
from sumika.finetune.training.train import train
from sumika.models.bootstrap import open_store
from sumika.models.settings import load_settings


def main(run: Path) -> None:
    settings = load_settings()
    first = os.environ.get("RANK", "0") == "0"
    config = load(run / runs.CONFIG)
    looked = checks.look(config, open_store(settings), settings.layout)
    rows = looked.data.pairs() if config.job.method == "dpo" else looked.data.rows()
    held_out = [looked.chat.render_conversation(row.content) for row in looked.data.held_out]
    batching = Batching(**json.loads((run / together.BATCHING).read_bytes()))
    task = Task(config, looked.chat, rows, held_out, batching, run)
    tracked = mlflow_run.begun(config, run) if first else None
    (run / runs.STOPPED).unlink(missing_ok=True)
    try:
        base = base_model.load(looked.folder, quantize=config.base.quantize)
        train(base, task, Journal(run, mute=not first), Console(stderr=True, quiet=not first), *([tracked] if tracked else []))
    except runs.Stopped:
        if first:
            (run / runs.STOPPED).touch(mode=0o600)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
