"""What the tests of data share: a byte-level tokenizer with a chat template, and files written for real."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from sumika.finetune.chat import ChatFormat
from sumika.finetune.data.prepare import Prepared, prepare
from sumika.finetune.data.problems import Problems
from sumika.finetune.data.reading import How, Reader
from sumika.finetune.data.record import Content, Row
from sumika.finetune.data.settings import Data

SPECIAL = ["<bos>", "<eos>", "<user>", "<assistant>", "<system>", "<end>"]
TEMPLATE = "<bos>{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
QA = [{"role": "user", "content": "有給は？"}, {"role": "assistant", "content": "3営業日前までに申請します。"}]
HELD_OUT = {"messages": [{"role": "user", "content": "まったく別の質問です"}, QA[1]], "facts": [["3営業日前"]]}


@cache
def chat_format() -> ChatFormat:
    """One token a byte, so that lengths can be reckoned by hand."""
    from transformers import PreTrainedTokenizerFast

    words = SPECIAL + sorted(ByteLevel.alphabet())
    model = Tokenizer(BPE({word: i for i, word in enumerate(words)}, []))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    model.decoder = ByteLevelDecoder()
    model.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    return ChatFormat(tokenizer, (SPECIAL.index("<end>"),), "")


def write(path: Path, rows: Sequence[dict[str, Any]], encoding: str = "utf-8") -> Path:
    """The rows in the format that the name asks for."""
    columns = list(rows[0])
    match path.suffix:
        case ".jsonl":
            path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(encoding))
        case ".json":
            path.write_bytes(json.dumps(rows, ensure_ascii=False).encode(encoding))
        case ".csv" | ".tsv":
            with path.open("w", encoding=encoding, newline="") as file:
                writer = csv.DictWriter(file, columns, delimiter="," if path.suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        case ".xlsx":
            import openpyxl

            book = openpyxl.Workbook()
            sheet = book.active
            sheet.append(columns)
            for number, row in enumerate(rows, start=2):
                for place, column in enumerate(columns, start=1):
                    cell = sheet.cell(number, place)
                    cell.value = row[column]
                    if isinstance(row[column], str) and cell.data_type != "s":
                        cell.data_type = "s"  # text that begins with = is text here
            book.save(path)
    return path


def read(path: Path, **how: Any) -> list[Row[Content]]:
    """The rows of `path`; raises BadData with all that is wrong."""
    problems = Problems()
    rows = list(Reader(problems).rows(path, How(how.pop("columns", {}), **how)))
    problems.stop()
    return rows


def prepared(
    tmp_path: Path, train: Any, *, limit: int | None = None, seed: int = 0, held_out: Path | None = None, **data: Any
) -> Prepared:
    """All of a job's data; `train` as in the YAML."""
    held_out = held_out or write(tmp_path / "held_out.jsonl", [HELD_OUT])
    settings = Data.model_validate({"train": train if isinstance(train, list) else [str(train)], **data})
    return prepare(settings, held_out, chat_format(), job="job", base="tiny@1", limit=limit, seed=seed)
