"""The `data` group of a job's YAML: which files, how they are read, and what happens to rows that don't fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from sumika.finetune.group import Group

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
        raise ValueError("is an address, and data is only read from local disks; copy the file here and give its path")
    return given


def _there(path: Path) -> Path:
    if not (path.is_file() or path.is_dir()):
        what = "is no regular file" if path.exists() else f"there is no file {path}"
        raise ValueError(f"{what}; give the path of a local file or folder (names of data sets on a hub are not looked up)")
    return path


LocalPath = Annotated[Path, BeforeValidator(local), AfterValidator(_there)]


class Columns(Group):
    """Which column of the file holds which field: `{prompt: 質問, completion: 回答}`. Fields not named keep their own name."""

    messages: str | None = None
    conversations: str | None = None
    system: str | None = None
    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    history: str | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    facts: str | None = None

    def named(self) -> dict[str, str]:
        """Field → column, for those that are named."""
        return {field: column for field, column in self if column is not None}


class Source(Group):
    """One file or folder. In an epoch each row is seen `weight` times: its whole part, and a seeded sample for the rest.

    `weight: 2` shows every row twice, `0.25` a quarter of the rows once, `1.5` every row once and half of them again.
    Which rows the sample takes follows from `job.seed` and stays the same in every epoch.
    """

    path: LocalPath
    weight: float = Field(default=1.0, gt=0, le=100)
    columns: Columns | None = None
    format: Format | None = None
    encoding: Encoding | None = None


class Pii(Group):
    """What happens to personal data, by kind. One word for all kinds, or a mapping.

    `block` stops the job, `mask` puts 〔電話番号〕 and the like in its place, `allow` only counts it. Individual Numbers
    may be used for the purposes that the law (番号法) lists, and training is none; card numbers have no place in a model
    either: both block unless said otherwise. Phones and addresses of a company's own desks are what an FAQ is made of:
    they are counted and shown, and it is for a person to decide.
    """

    my_number: Action = "block"
    card: Action = "block"
    phone: Action = "allow"
    email: Action = "allow"


def _each_source(given: Any) -> Any:
    given = given if isinstance(given, list) else [given]
    return [{"path": one} if isinstance(one, str) else one for one in given]


def _each_kind(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    if given not in get_args(Action):
        raise ValueError(f"must be one of {', '.join(get_args(Action))}, or a mapping of {', '.join(Pii.model_fields)} to these")
    return dict.fromkeys(Pii.model_fields, given)


class Data(Group):
    """`max_length` in tokens; None takes what the base is served with. `too_long` says what happens to longer rows."""

    train: Annotated[list[Source], BeforeValidator(_each_source), Field(min_length=1, max_length=1000)]
    format: Format = "auto"
    encoding: Encoding = "auto"
    columns: Columns = Columns()
    normalize: Normalize = "none"
    max_length: int | None = Field(default=None, ge=16)
    too_long: TooLong = "error"
    packing: Packing = "auto"
    pii: Annotated[Pii, BeforeValidator(_each_kind)] = Pii()
