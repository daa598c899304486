"""Uploaded rows as a job reads them: OpenAI's shapes turned into ours, and some held out where no file for that was given.

Lines keep their numbers: one that goes to the other file leaves an empty line behind, so that a problem names the line that
the client uploaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sumika.models.errors import SumikaError
from sumika.models.orders import Method

TRAIN, HELD_OUT = "train.jsonl", "heldout.jsonl"
# Where no validation file is given: this share of the questions is held out, and no more than so many.
_SHARE, _MOST = 0.1, 100
_BOM = "\ufeff"


def turned(source: Path, target: Path, method: Method, *, held_out: bool) -> int:
    """Write `source`'s rows as a job's; how many there are. `held_out`: they are asked, not learned.

    Raises:
        SumikaError: `bad_data`.
    """
    count = 0
    with target.open("x", encoding="utf-8", newline="\n") as file:
        for row in _rows(source):
            count += row is not None
            file.write("\n" if row is None else _line(_held(row) if held_out else _learned(row, method)))
    return count


def split(source: Path, folder: Path, method: Method, seed: int) -> int:
    """Write `source`'s rows into `TRAIN` and `HELD_OUT` of `folder`; how many are trained on. Rows with the same question stay
    together: a question that was learned tells nothing of what was understood.

    Raises:
        SumikaError: `bad_data`; `too_few_rows`.
    """
    chosen = _chosen(source, seed)
    count = 0
    with (folder / TRAIN).open("x", encoding="utf-8", newline="\n") as train, (folder / HELD_OUT).open(
        "x", encoding="utf-8", newline="\n"
    ) as held:  # fmt: skip
        for row in _rows(source):
            out = row is not None and _question(row) in chosen
            count += row is not None and not out
            train.write("\n" if row is None or out else _line(_learned(row, method)))
            held.write(_line(_held(row)) if row is not None and out else "\n")
    return count


def _chosen(source: Path, seed: int) -> set[bytes]:
    """Questions to hold out, by their hash: drawn by the seed, and the same for the same file."""
    questions = {_question(row) for row in _rows(source) if row is not None}
    if len(questions) < 2:
        raise SumikaError(
            "too_few_rows",
            "The training file holds fewer than two different questions; at least one must be left to judge by. Add rows, or give a validation_file.",
            "学習ファイルに異なる質問が2つ以上ありません。評価用に1つ以上必要です。行を増やすか、validation_file を指定してください。",
            param="training_file",
        )
    order = sorted(questions, key=lambda one: hashlib.sha256(str(seed).encode() + one).digest())
    return set(order[: max(1, min(_MOST, round(len(questions) * _SHARE)))])


def _rows(source: Path) -> Iterator[dict[str, Any] | None]:
    """Each line's object; None for an empty line."""
    with source.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(_BOM).strip()
            try:
                row = json.loads(text) if text else None
            except (ValueError, RecursionError):
                row = ...
            if row is not None and not isinstance(row, dict):
                raise SumikaError(
                    "bad_data", f"Line {number} of the file is no JSON object; write one object a line.",
                    f"{number} 行目がJSONオブジェクトではありません。1行に1つ書いてください。",
                )  # fmt: skip
            yield row


def _learned(row: dict[str, Any], method: Method) -> dict[str, Any]:
    """A row to train on. What is neither shape goes on as it is, for the check to name what is wrong with it."""
    if method == "dpo" and isinstance(row.get("input"), dict):
        rest = {key: value for key, value in row.items() if key not in ("input", "preferred_output", "non_preferred_output")}
        return rest | {
            "prompt": row["input"].get("messages"), "chosen": row.get("preferred_output"), "rejected": row.get("non_preferred_output"),
        }  # fmt: skip
    messages = row.get("messages")
    return row | {"messages": [_weighed(one) for one in messages]} if isinstance(messages, list) else row


def _held(row: dict[str, Any]) -> dict[str, Any]:
    """A row to judge by: of a preference its question with the better answer."""
    row = _learned(row, "dpo")
    prompt, chosen = row.get("prompt"), row.get("chosen")
    if chosen is None:
        return row
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    answer = chosen if isinstance(chosen, list) else [{"role": "assistant", "content": chosen}]
    return {"messages": [*asked, *answer]}


def _weighed(message: Any) -> Any:
    """OpenAI's `weight: 1` says what is so anyway."""
    if isinstance(message, dict) and message.get("weight") == 1:
        return {key: value for key, value in message.items() if key != "weight"}
    return message


def _question(row: dict[str, Any]) -> bytes:
    """The hash of all but the answer."""
    held = _held(row)
    messages = held.get("messages")
    asked = messages[:-1] if isinstance(messages, list) else held.get("prompt", held)
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False, sort_keys=True).encode(errors="replace")).digest()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
