"""`records.txt` in an adapter's folder: the hashes of what it was trained on, for finding it when a record must go.

One mark a line, sorted, each once: `r` and the hash of a record, `q` and that of one user's question in it (see
`record.record_hash`). A million rows make about 70 MB. No text can be read from it; who has the text can ask for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sumika.finetune.data.record import Content, Conversation, Document, Preference, question_hash, record_hash

FILE = "records.txt"
_HEAD = "# sumika-records 1\n"


def marks(content: Content) -> Iterator[str]:
    """What a record leaves in the list: itself, each question in it, and for a pair both conversations it stands for."""
    yield f"r {record_hash(content)}"
    if isinstance(content, Preference):
        yield from (f"r {record_hash(content.answered(answer))}" for answer in (content.chosen, content.rejected))
    yield from questions(content)


def questions(content: Content) -> Iterator[str]:
    match content:
        case Conversation(messages) | Preference(messages):
            yield from (f"q {question_hash(m['content'])}" for m in messages if m["role"] == "user")
        case Document():
            return


def write(folder: Path, marks: Iterable[str]) -> None:
    with (folder / FILE).open("w", encoding="ascii") as file:
        file.write(_HEAD)
        file.writelines(f"{mark}\n" for mark in sorted(set(marks)))


def seen(folder: Path, wanted: set[str]) -> set[str] | None:
    """Which of the marks stand in this adapter's list; None where it has none to read (it was trained elsewhere)."""
    try:
        with (folder / FILE).open(encoding="ascii") as file:
            return {line for line in map(str.rstrip, file) if line in wanted} if file.readline() == _HEAD else None
    except (FileNotFoundError, UnicodeDecodeError):
        return None
