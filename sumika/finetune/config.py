"""A training job as one YAML: what it learns from, on which base, how, and what it must reach to be served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sumika.finetune.data.settings import Data, local
from sumika.finetune.group import Group
from sumika.models import yamlfile
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef, check_name


def _a_name(text: str) -> str:
    try:
        return check_name(text)
    except SumikaError as error:
        raise ValueError(error.en) from None


def _a_version(text: str) -> str:
    try:
        return str(VersionRef.parse(text)) if "@" in text else check_name(text)
    except SumikaError as error:
        raise ValueError(error.en) from None


def _a_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of a local file")
    return path


Name = Annotated[str, AfterValidator(_a_name)]
LocalFile = Annotated[Path, BeforeValidator(local), AfterValidator(_a_file)]


class Job(Group):
    """`seed` fixes the order of the data and LoRA's first weights."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**32)


class Base(Group):
    """`version`: NAME@N, or NAME for its newest version."""

    version: Annotated[str, AfterValidator(_a_version)]


class Lora(Group):
    """As in PEFT: `r` is the rank, the update is scaled by `alpha / r`."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"


class Train(Group):
    """`batch_size` in rows a step; `warmup` as a share of all steps."""

    epochs: float = Field(default=3, gt=0, le=1000)
    batch_size: int = Field(default=8, ge=1, le=4096)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1)


class Evaluate(Group):
    """Rows that were never trained on, each with the facts its answer must hold."""

    held_out: LocalFile
    max_new_tokens: int = Field(default=96, ge=1, le=4096)


class Gate(Group):
    """What a candidate must reach to be served: `min_facts` is the share of held-out rows answered with the right facts."""

    min_facts: float = Field(default=0.6, ge=0, le=1)
    better_than_base: bool = True


class Serve(Group):
    """`alias` is also the adapter's name in the registry; `max_lora_rank` the limit of the engine that will load it."""

    alias: Name
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 16
    gate: Gate = Gate()


class JobConfig(Group):
    job: Job
    base: Base
    data: Data
    lora: Lora = Lora()
    train: Train = Train()
    evaluate: Evaluate
    serve: Serve

    @model_validator(mode="after")
    def _rank_fits(self) -> JobConfig:
        if self.lora.r > self.serve.max_lora_rank:
            raise ValueError(
                f"lora.r is {self.lora.r}, but the engine takes at most serve.max_lora_rank = {self.serve.max_lora_rank}; lower one or raise the other"
            )
        return self


def load(path: Path, overrides: list[str] | None = None) -> JobConfig:
    """Read a job, `overrides` (`lora.r=8`) laid over it.

    Raises:
        SumikaError: `bad_config`, with every problem at once.
    """
    return yamlfile.load(JobConfig, path, overrides)
