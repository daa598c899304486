"""What every group of a job's YAML is: frozen, no unknown key, no NaN; the text under a key is its description everywhere."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def refused(en: str, ja: str) -> PydanticCustomError:
    """What a validator raises: what is wrong with its value and what to do, in both languages."""
    return PydanticCustomError("refused", "{en}", {"en": en, "ja": ja})


def refused_at(*at: str | int, en: str, ja: str) -> ValidationError:
    """What a rule over several keys of one group raises: `at` is the key to point to, from the group on."""
    return ValidationError.from_exception_data("rule", [InitErrorDetails(type=refused(en, ja), loc=at, input=None)])
