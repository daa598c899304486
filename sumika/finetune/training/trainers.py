"""TRL's trainers with four things changed: how the loss is taken on a CPU, the order of rows, how checkpoints are written,
and that rows come tokenised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl import DPOTrainer, SFTTrainer

from sumika.finetune.training import checkpoints
from sumika.finetune.training.answer_loss import summed
from sumika.finetune.training.order import Order


class _Kept:
    """What both trainers change of transformers' one. `keep`: how many checkpoints stay, beside the best; `lengths`: tokens
    by row."""

    def __init__(self, *args: Any, run: Path, lengths: list[int], keep: int, **kwargs: Any) -> None:
        self._run, self._lengths, self._keep = run, lengths, keep
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:  # noqa: ARG002
        args: Any = self.args  # type: ignore[attr-defined]
        rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return Order(self._lengths, rows_per_step, args.seed)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Of several processes the first opens and closes the folder, and all write into it."""
        trainer: Any = self
        step, first = trainer.state.global_step, trainer.is_world_process_zero()
        if not first:
            trainer.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            trainer.accelerator.wait_for_everyone()
            return
        with checkpoints.writing(self._run, step) as staging:
            trainer.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            trainer.accelerator.wait_for_everyone()
            inner = staging / f"checkpoint-{step}"
            for path in inner.iterdir():
                path.rename(staging / path.name)
            inner.rmdir()
        checkpoints.prune(self._run, self._keep, also=trainer.state.best_global_step)

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002
        return str(checkpoints.staging(self._run))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: what made an adapter stands in its manifest."""


class AnswerTrainer(_Kept, SFTTrainer):  # type: ignore[misc]
    """For conversations and texts."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if model.device.type == "cuda":  # TRL's own goes through the output matrix in tiles, which saves memory there
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = summed(model, inputs)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            total = total * self.accelerator.num_processes  # the count is of all processes, whose gradients are averaged
        loss = total / (count if num_items_in_batch is None else num_items_in_batch)
        return (loss, None) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> tuple[Any, None, None]:
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None


class PairTrainer(_Kept, DPOTrainer):  # type: ignore[misc]
    """For preference pairs; the base itself, with the adapter switched off, is the reference."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset
