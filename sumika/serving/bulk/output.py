"""The files that a batch leaves: answers in one, errors in the other, each in the order of its input."""

from __future__ import annotations

from sumika.models import files
from sumika.models.batches import Batch
from sumika.models.files import File
from sumika.models.shelf import Draft, Shelf
from sumika.serving.bulk.endings import Ending
from sumika.serving.bulk.lines import Lines
from sumika.serving.bulk.outcome import never_asked
from sumika.serving.bulk.results import Results

_PIECE = 2**20


class Output:
    """Both files of one batch, on the shelf but in no row yet."""

    def __init__(self, answers: File | None, errors: File | None) -> None:
        self.answers = answers
        self.errors = errors

    @property
    def made(self) -> list[File]:
        return [file for file in (self.answers, self.errors) if file is not None]


def write(shelf: Shelf, batch: Batch, lines: Lines, results: Results, ending: Ending) -> Output:
    """Make the files; one that would be empty is not made.

    Raises:
        SumikaError: `disk_full`; nothing is left then.
    """
    drafts = {ok: shelf.begin() for ok in (True, False)}
    try:
        for ok, draft in drafts.items():
            _fill(draft, ok, batch, lines, results, ending)
        return Output(_settled(drafts[True], batch, "output"), _settled(drafts[False], batch, "errors"))
    finally:
        for draft in drafts.values():
            draft.discard()


def _fill(draft: Draft, ok: bool, batch: Batch, lines: Lines, results: Results, ending: Ending) -> None:
    piece = bytearray()
    for index in range(len(lines)):
        if index in results:
            good, line = results.line(index)
        else:
            good, line = False, never_asked(lines.read(index).custom_id, ending.error.code, ending.error, batch.language)
        if good == ok:
            piece += line + b"\n"
        if len(piece) >= _PIECE:
            draft.write(bytes(piece))
            piece.clear()
    draft.write(bytes(piece))


def _settled(draft: Draft, batch: Batch, what: str) -> File | None:
    if draft.bytes == 0:
        return None
    name = f"{batch.id}_{what}.jsonl"
    file = files.made(
        batch.owner, batch.key, "batch_output", name, draft.bytes, draft.sha256, batch.output_seconds, batch.sensitivity
    )
    draft.settle(file.id)
    return file
