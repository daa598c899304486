"""The `data` group of a job's YAML: which files, how they are read, and what happens to rows that don't fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo

from sumika.finetune.group import Group, refused

Format = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference"]
Encoding = Literal["auto", "utf-8", "cp932", "euc-jp", "utf-16"]
Normalize = Literal["none", "nfc", "nfkc"]
TooLong = Literal["error", "drop", "truncate"]
Packing = Literal["auto", "never"]
Action = Literal["block", "mask", "allow"]

# Two letters at least before the colon: `C:` is no address.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def local(given: Any) -> Any:
    """Refuse what names something that is not on this machine's disks, before a Path turns `https://` into a folder."""
    if isinstance(given, str) and _ADDRESS.match(given):
        raise refused(
            "is an address, and data is only read from local disks; copy the file here and give its path",
            "はアドレスです。データはこのマシンのディスクからだけ読みます。ファイルをコピーしてそのパスを指定してください",
        )
    return given


def is_named(path: Path, info: ValidationInfo) -> bool:
    """Whether the job is read with names (`info.context`) that stand for files elsewhere, and `path` is one of them."""
    return info.context is not None and path in info.context


def _there(path: Path, info: ValidationInfo) -> Path:
    if not is_named(path, info) and not (path.is_file() or path.is_dir()):
        en, ja = (
            ("is no regular file", "は通常のファイルではありません")
            if path.exists()
            else (f"there is no file {path}", f"ファイル {path} がありません")
        )
        raise refused(
            f"{en}; give the path of a local file or folder (names of data sets on a hub are not looked up)",
            f"{ja}。このマシンのファイルかフォルダーのパスを指定してください(ハブのデータセット名は使えません)",
        )
    return path


LocalPath = Annotated[Path, BeforeValidator(local, json_schema_input_type=Path), AfterValidator(_there)]


Column = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class Columns(Group):
    """Which column of the file holds which field: `{prompt: 質問, completion: 回答}`. Fields not named keep their own name."""

    messages: Column | None = None
    conversations: Column | None = None
    system: Column | None = None
    instruction: Column | None = None
    input: Column | None = None
    output: Column | None = None
    history: Column | None = None
    prompt: Column | None = None
    completion: Column | None = None
    text: Column | None = None
    chosen: Column | None = None
    rejected: Column | None = None
    facts: Column | None = None

    def named(self) -> dict[str, str]:
        """Field → column, for those that are named."""
        return {field: column for field, column in self if column is not None}


class Source(Group):
    """One file or folder. In an epoch each row is seen `weight` times: its whole part, and a seeded sample for the rest.

    `weight: 2` shows every row twice, `0.25` a quarter of the rows once, `1.5` every row once and half of them again.
    Which rows the sample takes follows from `job.seed` and stays the same in every epoch.
    """

    path: LocalPath
    """The file or folder."""
    weight: float = Field(default=1.0, gt=0, le=100)
    """How often an epoch shows each of its rows; 0.5 shows a seeded half of them."""
    columns: Columns | None = None
    """For this source instead of data.columns."""
    format: Format | None = None
    """For this source instead of data.format."""
    encoding: Encoding | None = None
    """For this source instead of data.encoding."""


class Pii(Group):
    """What happens to personal data, secrets and control tokens, by kind. One word for all kinds, or a mapping.

    `block` stops the job, `mask` puts 〔電話番号〕 and the like in its place, `allow` only counts it. Individual Numbers
    may be used for the purposes that the law (番号法) lists, and training is none; card numbers have no place in a model
    either: both block unless said otherwise. Phones and addresses of a company's own desks are what an FAQ is made of:
    they are counted and shown, and it is for a person to decide. A secret that lives is anybody's who asks the model: it blocks.
    """

    my_number: Action = "block"
    """Individual Numbers (マイナンバー), told by their check digit."""
    card: Action = "block"
    """Card numbers, told by Luhn's check digit."""
    phone: Action = "allow"
    """Telephone numbers."""
    email: Action = "allow"
    """E-mail addresses."""
    secret: Action = "block"  # noqa: S105 - what happens to one
    """API keys, access tokens and private keys, told by their makers' shapes (Sumika, AWS, GitHub, OpenAI, Slack, …)."""
    control_token: Action = "allow"  # noqa: S105
    """The base's own special tokens, spelt out in a text; one that ends a turn is always refused."""


def _each_source(given: Any) -> Any:
    given = given if isinstance(given, list) else [given]
    return [{"path": one} if isinstance(one, str) else one for one in given]


def _each_kind(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    if given not in get_args(Action):
        actions, kinds = ", ".join(get_args(Action)), ", ".join(Pii.model_fields)
        raise refused(
            f"must be one of {actions}, or a mapping of {kinds} to these",
            f"{actions} のいずれか、または {kinds} とこれらの組にしてください",
        )
    return dict.fromkeys(Pii.model_fields, given)


class Data(Group):
    """Which files are learned from, and how they are read (docs/finetune-data.md)."""

    train: Annotated[
        list[Source],
        BeforeValidator(_each_source, json_schema_input_type=Path | Source | list[Path | Source]),
        Field(min_length=1, max_length=1000),
    ]
    """A file or folder, or a list of sources: .jsonl, .json, .csv, .tsv, .parquet, .xlsx."""
    format: Format = "auto"
    """What a row holds; auto: by its columns."""
    encoding: Encoding = "auto"
    """auto stops where two encodings would do."""
    columns: Columns = Columns()
    """Which column holds which field, where their names differ: {prompt: 質問, completion: 回答}."""
    normalize: Normalize = "none"
    """nfc joins what macOS takes apart; nfkc also makes ｶﾞ ガ, Ａ A and ① 1."""
    max_length: int | None = Field(default=None, ge=16, le=2**20)
    """Tokens of a row at most; null: what the base is served with."""
    too_long: TooLong = "error"
    """Longer rows: error stops the job, drop leaves them out, truncate takes old turns, then the answer's end."""
    packing: Packing = "auto"
    """auto: rows share a sequence where the attention in use keeps them apart; never elsewhere."""
    pii: Annotated[Pii, BeforeValidator(_each_kind, json_schema_input_type=Action | Pii)] = Pii()
    """Personal data, secrets and control tokens, by kind or one word for all: block stops the job, mask replaces it, allow counts it."""
