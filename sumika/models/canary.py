"""The canary proof: does the engine, told an adapter's name, answer with that adapter's weights?

When training ends, or an adapter from elsewhere is imported, a few prompts are kept with the log-probabilities that transformers gave to the same answer with
the adapter and without. vLLM answers 200 for an adapter it then ignores; only its log-probabilities tell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef
from sumika.models.registry import Version

REFERENCE = "canary.json"
Origin = Literal["training", "import", "brought"]
# Mean absolute difference a token, in nats. Two right implementations in bf16 differ by some hundredths
# (see docs/performance.md for what was measured); another adapter or the bare base differs by whole nats.
TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class CanaryPrompt:
    """A prompt and an answer as token ids, and the log-probability (nats) of each of the answer's tokens."""

    prompt_ids: list[int]
    answer_ids: list[int]
    adapter: list[float]
    base: list[float]

    @property
    def contrast(self) -> float:
        """How far apart adapter and base are here, in nats a token."""
        return _distance(self.adapter, self.base)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Mean absolute difference (nats a token) between what vLLM said and the reference with, and without, the adapter."""

    from_adapter: float
    from_base: float
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def save(folder: Path, prompts: Sequence[CanaryPrompt]) -> None:
    text = json.dumps({"format": 1, "prompts": [asdict(p) for p in prompts]})
    (folder / REFERENCE).write_text(text, encoding="utf-8")


def load(folder: Path) -> list[CanaryPrompt] | None:
    """The reference kept beside an adapter; None where it has none (the adapter is unproven).

    Raises:
        SumikaError: `broken_artifact`, for one that can't be compared with anything.
    """
    path = folder / REFERENCE
    if not path.is_file():
        return None
    try:
        prompts = [CanaryPrompt(**prompt) for prompt in json.loads(path.read_bytes())["prompts"]]
        if not prompts or not all(_whole(prompt) for prompt in prompts):
            raise ValueError("a prompt is not as 'save' writes it")
        return prompts
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SumikaError(
            "broken_artifact",
            f"{path} can't be read ({error}). Train or import the adapter again.",
            f"{path} を読めません({error})。アダプターを学習し直すか、取り込み直してください。",
        ) from None


def _whole(prompt: CanaryPrompt) -> bool:
    ids, told = (prompt.prompt_ids, prompt.answer_ids), (prompt.adapter, prompt.base)
    return (
        all(isinstance(values, list) and values for values in (*ids, *told))
        and all(type(token) is int and token >= 0 for values in ids for token in values)
        and all(type(value) in (int, float) and isfinite(value) for values in told for value in values)
        and all(len(values) == len(prompt.answer_ids) for values in told)
    )


def origin(version: Version, folder: Path) -> Origin | None:
    """Where an adapter's reference comes from; None where it has none, and for a base, which needs none.

    `training`: kept when it was trained here; `import`: made here from the adapter itself; `brought`: it came with the files.
    """
    if version.kind == "base" or not (folder / REFERENCE).is_file():
        return None
    imported = version.meta.get("imported")
    if isinstance(imported, dict) and "key" in imported:
        return "brought"
    if "training" in version.meta:
        return "training"
    return "import" if "reference_made" in version.meta else "brought"


def judge(ref: VersionRef, prompts: Sequence[CanaryPrompt], observed: Sequence[Sequence[float]]) -> Verdict:
    """Compare what the engine gave with the reference.

    Raises:
        SumikaError: `canary_base`, when the engine answers as the bare base does; `canary_differs`, when it answers
            as neither (another adapter, template or base).
    """
    told = [value for values in observed for value in values]
    verdict = Verdict(
        round(_distance(told, [v for p in prompts for v in p.adapter]), 4),
        round(_distance(told, [v for p in prompts for v in p.base]), 4),
        len(told),
    )
    if verdict.from_adapter <= TOLERANCE and verdict.from_adapter < verdict.from_base:
        return verdict
    figures = (
        f"{verdict.from_adapter:.2f} nats a token from the adapter, {verdict.from_base:.2f} from the base, tolerance {TOLERANCE}"
    )
    if verdict.from_base <= TOLERANCE:
        raise SumikaError(
            "canary_base",
            f"{ref} was loaded but the engine answers as the bare base model does ({figures}). Its tensors fit no module; train or export it again.",
            f"{ref} は読み込まれましたが、応答がベースモデルと同じです({figures})。アダプターが効いていません。学習または書き出しをやり直してください。",
            status=409,
        )
    raise SumikaError(
        "canary_differs",
        f"{ref} does not answer as it did after training ({figures}). It belongs to another base, template or tokenizer.",
        f"{ref} の応答が学習直後と一致しません({figures})。別のベースモデル・テンプレート・トークナイザー用と思われます。",
        status=409,
    )


def _distance(left: Sequence[float], right: Sequence[float]) -> float:
    if len(left) != len(right) or not left:
        return float("inf")
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
