"""What an archive says of itself: the version, its lineage, and every file with its size and hash; this is what is signed."""

from __future__ import annotations

import json
import unicodedata
from typing import Annotated, Any, Final, Literal, NoReturn, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sumika.models import catalog, manifest, pooling, tasks
from sumika.models.errors import SumikaError, quoted
from sumika.models.manifest import MANIFEST, FileEntry
from sumika.models.names import NAME, VersionRef

FORMAT: Final = 1
HEADER, SIGNATURE = "header.json", "header.sig"
LONGEST_HEADER = 4 * 2**20
MOST_FILES = 4096
LONGEST_NAME = 100
"""Bytes that fit into the one block which tells of a tar member."""
_LARGEST_FILE = 2**50

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Number = Annotated[int, Field(ge=1, lt=10**9)]
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class Listed(BaseModel):
    """One file, in the order in which the archive holds them."""

    model_config = _STRICT

    name: str
    bytes: int = Field(ge=0, le=_LARGEST_FILE)
    sha256: Digest

    @model_validator(mode="after")
    def _is_a_plain_name(self) -> Listed:
        name = self.name
        if not name.isprintable() or name.startswith(".") or "/" in name or "\\" in name or not name:
            raise ValueError(f"'{quoted(name)}' is no plain file name")
        if len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"'{quoted(name)}' is longer than {LONGEST_NAME} bytes")
        if name in (HEADER, SIGNATURE, MANIFEST):
            raise ValueError(f"'{name}' is Sumika's own name for something else")
        return self


class BaseOf(BaseModel):
    """The base that an adapter was trained on, as it was called where the archive was written."""

    model_config = _STRICT

    name: Name
    number: Number
    digest: Digest

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.name, self.number)


class Header(BaseModel):
    """`to_bytes` gives one text for one header, and `read_header` takes no other, so that what is signed has one meaning."""

    model_config = _STRICT

    format: Literal[1] = FORMAT
    kind: Literal["base", "adapter"]
    name: Name
    number: Number
    base: BaseOf | None
    gate: Literal["none", "passed", "refused"]
    meta: dict[str, Any]
    digest: Digest
    files: list[Listed] = Field(min_length=1, max_length=MOST_FILES)

    @model_validator(mode="after")
    def _fits_together(self) -> Header:
        names = [file.name for file in self.files]
        if names != sorted(names) or len({unicodedata.normalize("NFKC", name).casefold() for name in names}) != len(names):
            raise ValueError("its files are not in order, or two have one name")
        if manifest.digest_of(self.entries) != self.digest:
            raise ValueError("its digest is not that of its files")
        if (self.kind == "adapter") != (self.base is not None):
            raise ValueError("an adapter has one base, and a base none")
        if "serve" in self.meta:
            catalog.Serve.model_validate(self.meta["serve"])
        for name, known in (("task", tasks.Task), ("pooling", pooling.Pooling)):
            if name in self.meta and self.meta[name] not in get_args(known):
                raise ValueError(f"its {name} is none that is known")
        return self

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.name, self.number)

    @property
    def entries(self) -> dict[str, FileEntry]:
        return {file.name: FileEntry(file.bytes, file.sha256) for file in self.files}

    @property
    def total(self) -> int:
        return sum(file.bytes for file in self.files)

    def to_bytes(self) -> bytes:
        return _canonical(self.model_dump(mode="python"))


def read_header(raw: bytes) -> Header:
    """What a signed header says.

    Raises:
        SumikaError: `bad_archive`, for another format or whatever no Sumika writes.
    """
    try:
        value = json.loads(raw, parse_constant=_no_constant)
        if isinstance(value, dict) and value.get("format") != FORMAT:
            raise bad_archive(
                f"its format is {quoted(str(value.get('format')), 20)} and this Sumika reads format {FORMAT}; update Sumika here",
                f"形式が {quoted(str(value.get('format')), 20)} です。このSumikaが読めるのは形式{FORMAT}なので、Sumikaを更新してください",
            )
        header = Header.model_validate(value)
        if header.to_bytes() != raw:
            raise ValueError("it is not written in the one way that Sumika writes it")
    except (ValueError, RecursionError) as error:
        said = quoted(_first(error) if isinstance(error, ValidationError) else str(error))
        raise bad_archive(f"its header can't be used ({said})", f"ヘッダーを使えません({said})") from None
    return header


def make_header(**parts: Any) -> Header:
    """A header from its fields.

    Raises:
        SumikaError: `bad_archive`, where a version holds what no archive can.
    """
    try:
        header = Header.model_validate(parts)
        size = len(header.to_bytes())
    except (ValueError, RecursionError) as error:
        said = quoted(_first(error) if isinstance(error, ValidationError) else str(error))
        raise _not_exportable(said) from None
    if size > LONGEST_HEADER:
        raise _not_exportable(f"its metadata is larger than {LONGEST_HEADER // 2**20} MiB")
    return header


def bad_archive(en: str, ja: str) -> SumikaError:
    return SumikaError(
        "bad_archive",
        f"The archive can't be imported: {en}. If it was damaged on the way, copy it again from where it was exported.",
        f"アーカイブを取り込めません: {ja}。途中で壊れた場合は、書き出し元からコピーし直してください。",
    )


def _not_exportable(said: str) -> SumikaError:
    return SumikaError(
        "bad_archive",
        f"The version can't be put into an archive: {said}. Correct it in the source folder, import it again and export that version.",
        f"この版はアーカイブにできません: {said}。元のフォルダーで直して取り込み直し、その版を書き出してください。",
    )


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
