"""A training job as OpenAI's `fine_tuning.job` tells it: from its row, and from what its run leaves on disk as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sumika.models import clock, runfiles
from sumika.models.errors import Language
from sumika.models.jobs import State
from sumika.models.orders import Order

_STATUS: Mapping[State, str] = {
    "queued": "queued", "running": "running", "stopping": "running", "done": "succeeded", "refused": "failed", "failed": "failed",
    "cancelled": "cancelled",
}  # fmt: skip


def status(order: Order) -> str:
    """A gate's no is a failure here: what came of the training may not serve."""
    told = _STATUS[order.job.state]
    return "validating_files" if told in ("queued", "running") and not order.prepared else told


def shown(order: Order, folder: Path, speak: Language) -> dict[str, Any]:
    """`folder`: the run's."""
    asked, job, now = order.asked, order.job, status(order)
    progress = runfiles.progress(folder)
    left = progress.get("eta_s") if now == "running" else None
    hyper = {
        "n_epochs": asked.epochs or "auto", "batch_size": asked.rows or "auto", "learning_rate_multiplier": asked.rate or "auto",
    }  # fmt: skip
    of_method = hyper | ({"beta": asked.beta or "auto"} if asked.method == "dpo" else {})
    return {
        "id": order.id, "object": "fine_tuning.job", "created_at": clock.seconds(order.created_at), "model": asked.model,
        "organization_id": order.owner, "training_file": asked.training_file, "validation_file": asked.validation_file,
        "method": {"type": asked.method, asked.method: {"hyperparameters": of_method}}, "hyperparameters": hyper, "seed": asked.seed,
        "status": now, "error": error(order, folder, speak),
        "fine_tuned_model": job.version if now == "succeeded" else None, "finished_at": clock.seconds(job.ended_at),
        "trained_tokens": _trained_tokens(folder) if now == "succeeded" else None, "result_files": [], "integrations": [],
        "estimated_finish": None if left is None else clock.now_seconds() + int(left), "metadata": order.metadata,
    }  # fmt: skip


def error(order: Order, folder: Path, speak: Language) -> dict[str, Any] | None:
    """Why it failed; the training's own last words, which may show what it read, stay with the server's administrator."""
    job = order.job
    if job.state == "refused":
        return {"code": "gate_refused", "param": None, "message": _refused(order, folder, speak)}
    if job.state != "failed":
        return None
    note = job.note or {}
    if "code" in note:  # what the check found
        return {"code": note["code"], "param": note.get("param"), "message": note[speak]}
    first = note.get(speak, "").partition("\n")[0].removesuffix(" Last lines:").removesuffix("ログの末尾:")
    also = f"'sumika finetune logs {job.id}' shows more." if speak == "en" else f"詳細: sumika finetune logs {job.id}"
    return {"code": "training_failed", "param": None, "message": f"{first} {also}".strip()}


def events(order: Order, folder: Path, speak: Language) -> list[dict[str, Any]]:
    """What happened, the newest first: states, and what each logged step measured. Nothing of any row."""
    job, told = (
        order.job,
        [_event(order.created_at, f"Job created for {order.asked.name}", f"{order.asked.name} のジョブを作成しました")],
    )
    if order.prepared and job.started_at is not None:
        told.append(_event(job.started_at, "Training files are being read and checked", "学習ファイルを読み込み、検査しています"))
    told += [_measured(line) for line in runfiles.metrics(folder)]
    if job.ended_at is not None:
        level = {"done": "info", "cancelled": "warn"}.get(job.state, "error")
        why = error(order, folder, speak)
        en, ja = _ENDED.get(job.state, ("The job failed", "ジョブは失敗しました"))
        made = f": {job.version}" if job.version is not None and job.state == "done" else f": {why['message']}" if why else ""
        told.append(_event(job.ended_at, en + made, ja + made, level))
    name = order.id.removeprefix("ftjob-")
    shown = [
        {"id": f"ftevent-{name}-{number}", "object": "fine_tuning.job.event", "type": "message", "data": {}, **one}
        for number, one in enumerate(told)
    ]
    return [{**one, "message": one["message"][speak]} for one in reversed(shown)]


_ENDED = {
    "done": ("The job has succeeded", "ジョブが完了しました"),
    "cancelled": ("The job was cancelled", "ジョブを中止しました"),
}


def checkpoints(order: Order, folder: Path) -> list[dict[str, Any]]:
    """Those that a killed run would go on from, the newest first. They are not served: `fine_tuned_model_checkpoint` only names them."""
    by_step = _by_step(folder)
    name = order.id.removeprefix("ftjob-")
    found = []
    for step, path in reversed(runfiles.checkpoints(folder)):
        measured = by_step.get(step, {})
        found.append({
            "id": f"ftckpt-{name}-{step}", "object": "fine_tuning.job.checkpoint", "created_at": int(path.stat().st_mtime),
            "fine_tuning_job_id": order.id, "fine_tuned_model_checkpoint": f"{order.asked.name}:step-{step}", "step_number": step,
            "metrics": {"step": step, "train_loss": measured.get("loss"), "full_valid_loss": measured.get("eval_loss")},
        })  # fmt: skip
    return found


def _event(at: str, en: str, ja: str, level: str = "info") -> dict[str, Any]:
    return {"created_at": clock.seconds(at), "level": level, "message": {"en": en, "ja": ja}}


def _measured(line: dict[str, Any]) -> dict[str, Any]:
    figures = {
        ours: line[theirs] for ours, theirs in (("train_loss", "loss"), ("full_valid_loss", "eval_loss")) if theirs in line
    }
    text = ", ".join(f"{name}={value:.4f}" for name, value in figures.items())
    message = {"en": f"Step {line['step']}: {text}", "ja": f"ステップ {line['step']}: {text}"}
    return {
        "created_at": line.get("at", 0),
        "level": "info",
        "message": message,
        "type": "metrics",
        "data": {"step": line["step"], **figures},
    }


def _by_step(folder: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for line in runfiles.metrics(folder):
        found.setdefault(line["step"], {}).update(line)
    return found


def _refused(order: Order, folder: Path, speak: Language) -> str:
    result = runfiles.result(folder) or {}
    reasons = "; ".join(one[speak] for one in result.get("evaluation", {}).get("reasons", []))
    en = f"Trained and registered as {order.job.version}, but its evaluation refused it, so it may not serve. {reasons}"
    ja = f"{order.job.version} として登録しましたが、評価に合格しなかったため配備できません。{reasons}"
    return (ja if speak == "ja" else en).strip()


def _trained_tokens(folder: Path) -> int | None:
    result = runfiles.result(folder) or {}
    told: int | None = result.get("figures", {}).get("trained_tokens")
    return told
