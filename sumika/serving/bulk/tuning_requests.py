"""The body of `POST /v1/fine_tuning/jobs`, as OpenAI's clients send it, held to what a LoRA job here can do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from sumika.serving.admin.asking import Body
from sumika.serving.requests.fields import Id, Metadata
from sumika.serving.requests.problems import refused

Auto = Literal["auto"]
Epochs = Auto | Annotated[int, Field(ge=1, le=100)]
Rows = Auto | Annotated[int, Field(ge=1, le=4096)]
Rate = Auto | Annotated[float, Field(gt=0, le=100)]
Beta = Auto | Annotated[float, Field(gt=0, le=10)]


class Hyperparameters(Body):
    n_epochs: Epochs = "auto"
    batch_size: Rows = "auto"
    learning_rate_multiplier: Rate = "auto"


class DpoHyperparameters(Hyperparameters):
    beta: Beta = "auto"


class Supervised(Body):
    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(Body):
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(Body):
    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Method:
        if (self.supervised if self.type == "dpo" else self.dpo) is not None:
            raise refused(
                "bad_value", f"type is '{self.type}'; give that one's hyperparameters alone.",
                f"type は「{self.type}」です。その hyperparameters だけを指定してください。",
            )  # fmt: skip
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        chosen: Supervised | Dpo | None = self.dpo if self.type == "dpo" else self.supervised
        return chosen.hyperparameters if chosen is not None else Hyperparameters()


class NewTuning(Body):
    """`model`: a base of the registry, NAME or NAME@N. `suffix`: the name of the adapter that is to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"model": "gemma-3-270m", "training_file": "file-0123456789abcdef01234567", "suffix": "sakura-faq", "metadata": {"案件": "社内FAQ"},
         "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}}},
    ]})  # fmt: skip

    model: Annotated[str, Field(min_length=1, max_length=80)]
    training_file: Id
    validation_file: Id | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    metadata: Metadata | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _said_once(self) -> NewTuning:
        if self.method is not None and self.hyperparameters is not None:
            raise refused(
                "bad_value", "hyperparameters stand in 'method' now; leave the outer ones out.",
                "hyperparameters は method の中に指定してください。外側のものは省いてください。",
            )  # fmt: skip
        return self

    @property
    def chosen(self) -> Hyperparameters:
        if self.method is not None:
            return self.method.hyperparameters
        return self.hyperparameters or Hyperparameters()


def given(value: Any) -> Any:
    """None for 'auto'."""
    return None if value == "auto" else value
