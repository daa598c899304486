"""The whole job: its groups, and the rules that hold between them."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from pydantic import PrivateAttr, ValidationInfo, field_validator

from sumika.finetune.config.evaluate import Evaluate
from sumika.finetune.config.job import Base, Chat, Job
from sumika.finetune.config.serve import Serve
from sumika.finetune.config.track import Track
from sumika.finetune.config.train import Checkpoint, Lora, StopEarly, Train
from sumika.finetune.data import inputs
from sumika.finetune.data.inputs import Inputs
from sumika.finetune.data.settings import Data
from sumika.finetune.group import Group, refused_at
from sumika.models import yamlfile
from sumika.models.yamlproblems import Document


class JobConfig(Group):
    """One job. A rule stands at the last of the groups it speaks of, where the ones before it are known."""

    job: Job
    base: Base
    data: Data
    chat: Chat = Chat()
    lora: Lora = Lora()
    train: Train = Train()
    checkpoint: Checkpoint = Checkpoint()
    stop_early: StopEarly | None = None
    evaluate: Evaluate
    track: Track = Track()
    serve: Serve

    _inputs: Inputs = PrivateAttr(default_factory=Inputs)

    @property
    def inputs(self) -> Inputs:
        """Where the files lie that the job names."""
        return self._inputs

    def with_inputs(self, inputs: Inputs) -> JobConfig:
        config = self.model_copy()
        config._inputs = inputs
        return config

    @property
    def paths(self) -> dict[str, Path]:
        """Every file and folder that the job names, by its key."""
        found = {f"data.train.{n}.path": source.path for n, source in enumerate(self.data.train)}
        found["evaluate.held_out"] = self.evaluate.held_out
        return found | {f"evaluate.suites.{n}.path": suite.path for n, suite in enumerate(self.evaluate.suites)}

    @field_validator("train")
    @classmethod
    def _beta_is_for_dpo(cls, train: Train, info: ValidationInfo) -> Train:
        job: Job | None = info.data.get("job")
        if job is not None and job.method == "sft" and train.beta != Train.model_fields["beta"].default:
            raise refused_at(
                "beta",
                en="is for DPO, and job.method is sft; leave it out, or set job.method: dpo",
                ja="はDPO用ですが、job.method は sft です。削除するか、job.method: dpo にしてください",
            )
        return train

    @field_validator("stop_early")
    @classmethod
    def _stops_by_a_loss(cls, stop: StopEarly | None, info: ValidationInfo) -> StopEarly | None:
        job: Job | None = info.data.get("job")
        if stop is not None and job is not None and job.method == "dpo":
            raise refused_at(
                en="needs a loss on held-out rows, which DPO has none of; take stop_early out, or set job.method: sft",
                ja="には評価用の行の損失が必要ですが、DPOにはありません。stop_early を削除するか、job.method: sft にしてください",
            )
        return stop

    @field_validator("serve")
    @classmethod
    def _engine_takes_the_rank(cls, serve: Serve, info: ValidationInfo) -> Serve:
        lora: Lora | None = info.data.get("lora")
        if lora is not None and lora.r > serve.max_lora_rank:
            raise refused_at(
                "max_lora_rank",
                en=f"lora.r is {lora.r}, but the engine takes at most serve.max_lora_rank = {serve.max_lora_rank}; lower one or raise the other",
                ja=f"lora.r が {lora.r} ですが、エンジンの上限は serve.max_lora_rank = {serve.max_lora_rank} です。どちらかを変えてください",
            )
        return serve

    @field_validator("serve")
    @classmethod
    def _gate_names_suites(cls, serve: Serve, info: ValidationInfo) -> Serve:
        evaluate: Evaluate | None = info.data.get("evaluate")
        known = [suite.name for suite in evaluate.suites] if evaluate is not None else list(serve.gate.suites)
        for name in serve.gate.suites:
            if name not in known:
                shown = ", ".join(known) or "none"
                raise refused_at(
                    "gate", "suites", name,
                    en=f"evaluate.suites has no suite of this name (it has: {shown}); add one, or take this line out",
                    ja=f"evaluate.suites にこの名前のスイートがありません(あるもの: {shown})。追加するか、この行を削除してください",
                )  # fmt: skip
        return serve


def load(path: Path, overrides: list[str] | None = None) -> JobConfig:
    """Read a job, `overrides` (`lora.r=8`) laid over it.

    Raises:
        SumikaError: `bad_config`, with every problem at once.
    """
    return read(path, overrides)[0]


def read(path: Path, overrides: list[str] | None = None) -> tuple[JobConfig, Document]:
    """As `load`; with the document, which knows the line of every key. In a run's folder names may stand for the run's copies."""
    document = yamlfile.overridden(yamlfile.read(path), overrides or [])
    found = inputs.of_run(path.parent)
    return yamlfile.check(JobConfig, document, found.paths).with_inputs(found), document


def read_names(path: Path) -> tuple[JobConfig, Document]:
    """As `read`, of a job from the network: nothing that it names is looked for.

    Raises:
        SumikaError: `bad_config`.
    """
    document = yamlfile.read(path)
    return yamlfile.check(JobConfig, document, _AnyName()), document


class _AnyName(Container[Path]):
    def __contains__(self, name: object) -> bool:
        return True
