"""Kinds of values that several groups share: names, versions, files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from sumika.finetune.data.settings import is_named, local
from sumika.finetune.group import refused
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef, check_name


def _a_name(text: str) -> str:
    try:
        return check_name(text)
    except SumikaError as error:
        raise refused(error.en, error.ja) from None


def _a_version(text: str) -> str:
    try:
        return str(VersionRef.parse(text)) if "@" in text else check_name(text)
    except SumikaError as error:
        raise refused(error.en, error.ja) from None


def _a_file(path: Path, info: ValidationInfo) -> Path:
    if not is_named(path, info) and not path.is_file():
        raise refused(
            f"there is no file {path}; give the path of a local file",
            f"ファイル {path} がありません。このマシンのファイルのパスを指定してください",
        )
    return path


Name = Annotated[str, AfterValidator(_a_name)]
VersionName = Annotated[str, AfterValidator(_a_version)]
LocalFile = Annotated[Path, BeforeValidator(local, json_schema_input_type=Path), AfterValidator(_a_file)]
