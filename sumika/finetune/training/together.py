"""Several GPUs at one job: accelerate starts a process for each, which share every step; the model comes back from their checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from peft import get_peft_model, load_peft_weights, set_peft_model_state_dict

from sumika.finetune import runs
from sumika.finetune.training import checkpoints, journal
from sumika.finetune.training.arguments import lora
from sumika.finetune.training.task import Task, Trained
from sumika.models.errors import SumikaError, quoted

BATCHING = "batching.json"
_FSDP = (
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_state_dict_type", "FULL_STATE_DICT", "--fsdp_cpu_ram_efficient_loading", "true",
)  # fmt: skip
_STOPPED = 130
_LAST_WORDS = 2000


def train(task: Task, load: Callable[[], Any], *, cpu: bool = False) -> Trained:
    """Train `task` on `train.gpus` GPUs, each in a process of `finetune.training.shard`, and put what they learned on the
    base that `load` gives then.

    `cpu`: processes on the CPU in the GPUs' place.

    Raises:
        Stopped: when they were asked to stop and saved.
        SumikaError: `training_failed`, with the last words of a process that failed.
    """
    runs.keep(task.run, BATCHING, asdict(task.batching))
    config = task.config.train
    where = ["--cpu"] if cpu else ["--multi_gpu", *(_FSDP if config.sharding == "fsdp" else ())]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--quiet", *where, "--num_processes", str(config.gpus), "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "sumika.finetune.training.shard", str(task.run),
    ]  # fmt: skip
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if (task.run / runs.STOPPED).exists():
        raise runs.Stopped(task.run.name)
    if ended.returncode != 0:
        said = quoted(ended.stderr[-_LAST_WORDS:], _LAST_WORDS)
        raise SumikaError(
            "training_failed",
            f"One of the {config.gpus} training processes failed: {said}",
            f"{config.gpus} 個の学習プロセスの1つが失敗しました: {said}",
            status=500,
        )
    return _brought_back(task, load())


def _brought_back(task: Task, base: Any) -> Trained:
    last = checkpoints.listed(task.run)[-1]
    state = json.loads((last.folder / "trainer_state.json").read_bytes())
    best = state["best_global_step"] if task.config.stop_early else None
    chosen = next(one for one in checkpoints.listed(task.run) if one.step == (best or last.step))
    model = get_peft_model(base, lora(task.config))
    set_peft_model_state_dict(model, load_peft_weights(str(chosen.folder), device=str(base.device)))
    lines = journal.read(task.run)
    tokens = int(sum(row.trained for row in task.rows) * state["epoch"])
    seconds = json.loads((task.run / journal.PROGRESS).read_bytes())["seconds"]
    return Trained(model.eval(), state["global_step"], seconds, tokens, [line["loss"] for line in lines if "loss" in line], best)
