"""Training and held-out rows from JSONL files of chat `messages`, read strictly; every bad row is told at once."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumika.models.errors import SumikaError, quoted

_ROLES = ("system", "user", "assistant")
_SHOWN = 20

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """One record: its messages, where it stands, and a hash that stays the same wherever it stands."""

    messages: Messages
    where: str
    hash: str
    facts: tuple[tuple[str, ...], ...] = ()

    @property
    def question(self) -> Messages:
        """All but the last answer."""
        return self.messages[:-1]


@dataclass(frozen=True, slots=True)
class Rows:
    path: Path
    sha256: str
    rows: list[Row]


def read(path: Path, *, with_facts: bool = False) -> Rows:
    """Read one JSONL file; `with_facts` asks each row for `facts`, a list of lists of accepted strings.

    Raises:
        SumikaError: `bad_data`, naming file, line and remedy of every bad row (the first 20 in full).
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadData([f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8"]) from None
    rows, problems = [], []
    for number, line_text in enumerate(text.split("\n"), start=1):
        if not line_text.strip():
            continue
        where = f"{path}:{number}"
        found = _row(line_text, where, with_facts)
        if isinstance(found, Row):
            rows.append(found)
        else:
            problems.append(f"{where}: {found}")
    if problems:
        raise BadData(problems)
    if not rows:
        raise BadData([f"{path}: holds no rows"])
    return Rows(path, hashlib.sha256(raw).hexdigest(), rows)


class BadData(SumikaError):
    """`bad_data`: rows that can't be trained on, one line of `problems` for each."""

    def __init__(self, problems: list[str]) -> None:
        shown = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
        more = f"\n  … {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        super().__init__(
            "bad_data",
            f"The data can't be trained on ({len(problems)} to mend):\n{shown}{more}",
            f"このデータでは学習できません(修正 {len(problems)} 件):\n{shown}{more}",
        )
        self.problems = problems


def record_hash(messages: Messages) -> str:
    """SHA-256 over the canonical JSON of the messages in NFC: one record has one hash in every file and order of keys."""
    canonical = json.dumps(
        [[m["role"], unicodedata.normalize("NFC", m["content"])] for m in messages], ensure_ascii=False, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def leaks(train: Rows, held_out: Rows) -> Iterator[str]:
    """Held-out questions that were trained on word for word."""
    seen = {record_hash(row.question) for row in train.rows}
    for row in held_out.rows:
        if record_hash(row.question) in seen:
            yield f"{row.where}: this question is also in {train.path}; take it out of one of the two"


def _row(line: str, where: str, with_facts: bool) -> Row | str:
    """The row, or what is wrong with it."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error}); each line holds one object"
    if not isinstance(data, dict):
        return "not a JSON object; each line holds one object with 'messages'"
    messages: Any = data.get("messages")
    problem = _messages_problem(messages)
    if problem:
        return problem
    facts: Any = data.get("facts")
    if with_facts and not _are_facts(facts):
        return "'facts' must be a list of lists of strings: all outer ones must be met, each by any of its strings"
    clean = [{"role": m["role"], "content": m["content"]} for m in messages]
    return Row(clean, where, record_hash(clean), tuple(tuple(one) for one in facts) if with_facts else ())


def _messages_problem(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "'messages' is missing or empty; it is a list of {role, content}"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            return f"message {number}: role must be one of {', '.join(_ROLES)}"
        if strange := sorted(message.keys() - {"role", "content"}):
            return f"message {number}: '{quoted(strange[0])}' is not trained on; a message holds role and content alone"
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            return f"message {number}: content is missing or empty"
        if "\ufffd" in content:
            return f"message {number}: content holds U+FFFD, left by a wrong decoding; export the data again as UTF-8"
        if any("\ud800" <= character <= "\udfff" for character in content):
            return f"message {number}: content holds half a surrogate pair, left by cutting an emoji; mend that character"
    turns = [m["role"] for m in messages]
    expected = ["system"] * (turns[0] == "system")
    expected += ["user", "assistant"] * ((len(turns) - len(expected)) // 2)
    if turns != expected or "assistant" not in turns:
        return (
            f"roles are {', '.join(turns)}; after an optional system they must be user, assistant, user, … and end with assistant"
        )
    return None


def _are_facts(facts: Any) -> bool:
    return (
        isinstance(facts, list)
        and bool(facts)
        and all(isinstance(one, list) and one and all(isinstance(s, str) and s.strip() for s in one) for one in facts)
    )
