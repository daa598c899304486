"""A checkpoint wherever the held-out loss is the lowest so far, so that stopping early has the best one to give back."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class KeepBest(TrainerCallback):  # type: ignore[misc]
    """Stands after transformers' own callbacks: the trainer compares with `best_metric` before it renews it."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:  # noqa: ARG002
        if state.best_metric is None or metrics["eval_loss"] < state.best_metric:
            control.should_save = True
