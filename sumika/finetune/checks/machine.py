"""This machine: GPUs, memory, disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sumika.finetune.batching import Batching, plan
from sumika.finetune.chat import Rendered, RenderedPair
from sumika.finetune.checks.findings import Findings
from sumika.finetune.config import JobConfig
from sumika.finetune.device import Device
from sumika.finetune.memory import Estimate, Rows, adapter_numbers, estimate
from sumika.finetune.shape import Shape

_GIB, _MIB = 2**30, 2**20
# Event files, curves, the report, the log.
_RECORDS = 64 * _MIB
_NUMBER = 4  # bytes: PEFT keeps and saves an adapter in fp32


def check_device(config: JobConfig, device: Device, findings: Findings) -> None:
    if config.base.quantize == "nf4" and device.kind == "cpu":
        findings.add(
            "base.quantize",
            "nf4 needs a GPU with CUDA, and none answers here; write none, or run the job on a machine that has one",
            "nf4 にはCUDAのGPUが必要ですが、このマシンにはありません。none にするか、GPUのあるマシンで実行してください",
        )
    if config.train.gpus > device.count:
        have = f"{device.count} GPU{'s' if device.count > 1 else ''}" if device.kind == "cuda" else "no GPU"
        findings.add(
            "train.gpus",
            f"is {config.train.gpus}, and this machine has {have}; write {device.count}",
            f"が {config.train.gpus} ですが、このマシンのGPUは {device.count if device.kind == 'cuda' else 0} 基です。{device.count} にしてください",
        )


def check_disk(config: JobConfig, shape: Shape, runs: Path, findings: Findings) -> None:
    """Each checkpoint holds the adapter and AdamW's two moments; one more is written before the oldest goes. The adapter
    itself lies in the run's folder and, as a version, among the artifacts."""
    numbers = adapter_numbers(shape, config.lora)
    checkpoints = (config.checkpoint.keep + 1) * 3 * numbers * _NUMBER
    needed = checkpoints + 2 * numbers * _NUMBER + _RECORDS
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        findings.add(
            "checkpoint.keep",
            f"{config.checkpoint.keep} checkpoints and the adapter take {_shown(needed)}, and {_shown(free)} are free in {there}; "
            "free some, keep fewer checkpoints, or lower lora.r",
            f"チェックポイント {config.checkpoint.keep} 個とアダプターに {_shown(needed)} 必要ですが、{there} の空きは {_shown(free)} です。"
            "空きを作るか、checkpoint.keep か lora.r を下げてください",
        )


def fit(
    config: JobConfig, shape: Shape, device: Device, rows: Sequence[Rendered] | Sequence[RenderedPair], findings: Findings
) -> tuple[Batching, Estimate]:
    """Rows at once so that the largest micro batch fits into what is free; a finding where not even one row does."""
    longest, positions = max(row.length for row in rows), max(_positions(row) for row in rows)

    def reckoned(micro: int, checkpointing: bool, tokens: int = longest) -> Estimate:
        sequences = 2 * micro if config.job.method == "dpo" else micro
        return estimate(
            shape,
            config.lora,
            Rows(sequences, tokens, min(positions, tokens)),
            nf4=config.base.quantize == "nf4",
            gradient_checkpointing=checkpointing,
            shards=config.train.gpus if config.train.sharding == "fsdp" else 1,
        )

    lengths = [row.length for row in rows]
    batching = plan(
        lengths, config.train.batch_tokens, lambda n, again: reckoned(n, again).total <= device.free, config.train.gpus
    )
    planned = reckoned(batching.micro_rows, batching.gradient_checkpointing)
    if planned.total > device.free:
        most = next((n for n in _halves(longest) if reckoned(1, True, n).total <= device.free), None)
        _tell(config, planned, device, longest, most, findings)
    return batching, planned


def _tell(config: JobConfig, needed: Estimate, device: Device, longest: int, most: int | None, findings: Findings) -> None:
    where = ("on the GPU", "GPUの") if device.kind == "cuda" else ("of main memory", "メインメモリーの")
    parts = (
        f"weights {_shown(needed.weights)}, adapter and optimiser {_shown(needed.adapter + needed.optimiser)}, "
        f"activations {_shown(needed.activations)}, logits {_shown(needed.logits)}"
    )
    en, ja = "free memory, or choose a smaller base", "空きを作るか、小さいベースモデルを選んでください"
    if most is not None:
        en, ja = (
            f"set data.max_length: {most} or shorten the rows, or {en}",
            f"data.max_length: {most} にするか行を短くするか、{ja}",
        )
    elif device.kind == "cuda" and config.base.quantize == "none":
        en, ja = f"set base.quantize: nf4, or {en}", f"base.quantize: nf4 にするか、{ja}"
    findings.add(
        "data.max_length" if most is not None else "base.version",
        f"one row of {longest:,} tokens takes {_shown(needed.total)} ({parts}), and {_shown(device.free)} {where[0]} are free; {en}",
        f"{longest:,} トークンの行1つの学習に {_shown(needed.total)} 必要ですが({parts})、{where[1]}空きは {_shown(device.free)} です。{ja}",
    )


def _halves(longest: int) -> list[int]:
    """Lengths to suggest, the longest first: powers of two below `longest`."""
    return [2**n for n in range(longest.bit_length() - 1, 3, -1) if 2**n < longest]


def _positions(row: Rendered | RenderedPair) -> int:
    """Of how many of a row's positions the logits are computed: rows are aligned at their ends."""
    return row.length - (row.trained_spans[0][0] if isinstance(row, Rendered) else 0)


def _shown(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"
