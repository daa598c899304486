"""Which adapters saw a record: for requests to delete, and for data that should never have been there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sumika.finetune.data import records
from sumika.finetune.data.problems import DataError, Problems
from sumika.finetune.data.reading import How, Reader
from sumika.finetune.data.record import Conversation
from sumika.models import aliases, registry
from sumika.models.home import Home
from sumika.models.store import Store


@dataclass(frozen=True, slots=True)
class Asked:
    """One row of the request: the marks of the whole record (none where only its question is given) and of its questions."""

    whole: frozenset[str]
    questions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Saw:
    """`name` is NAME@N, or RUN/adapter for one left in a run's folder. How many of the rows asked for it saw.

    `records` rows were there as a whole; of `questions` more only a question was there, with another answer or none given.
    Both are None for an adapter that keeps no list of what it saw: it was trained elsewhere.
    """

    name: str
    aliases: tuple[str, ...]
    records: int | None
    questions: int | None

    @property
    def affected(self) -> bool:
        return bool(self.records or self.questions)


def read(path: Path, how: How) -> list[Asked]:
    """The rows of the request, in any format that training takes, or with questions alone.

    Raises:
        BadData: what can't be read; none is left out, since a row passed over would look like one that nobody saw.
    """
    problems = Problems()
    asked = []
    for row in Reader(problems).rows(path, how):
        questions = frozenset(records.questions(row.content))
        unanswered = isinstance(row.content, Conversation) and row.content.messages[-1]["role"] == "user"
        asked.append(Asked(frozenset() if unanswered else frozenset(records.marks(row.content)) - questions, questions))
    if not asked:
        problems.add(str(path), DataError("holds no record to look for", "調べるレコードがありません"))
    problems.stop()
    return asked


def find(asked: Sequence[Asked], store: Store, home: Home) -> list[Saw]:
    """Every adapter of the registry, and every one that lies in a run's folder, with what it saw of `asked`."""
    with store.read() as connection:
        versions = [version for version in registry.list_all(connection) if version.kind == "adapter"]
        pointing = aliases.list_all(connection)
    found = [
        _saw(
            str(version.ref),
            tuple(alias.name for alias in pointing if alias.version_id == version.id),
            home.artifacts / version.folder,
            asked,
        )
        for version in versions
    ]
    runs = sorted(home.runs.glob(f"*/adapter/{records.FILE}"))
    return found + [_saw(f"{path.parent.parent.name}/adapter", (), path.parent, asked) for path in runs]


def _saw(name: str, in_service: tuple[str, ...], folder: Path, asked: Sequence[Asked]) -> Saw:
    wanted = {mark for one in asked for mark in one.whole | one.questions}
    seen = records.seen(folder, wanted)
    if seen is None:
        return Saw(name, in_service, None, None)
    whole = sum(bool(one.whole & seen) for one in asked)
    questions = sum(bool(one.questions & seen) for one in asked if not one.whole & seen)
    return Saw(name, in_service, whole, questions)
