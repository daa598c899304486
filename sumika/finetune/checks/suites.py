"""The rows of a suite: readable, and such that its check can judge them."""

from __future__ import annotations

import json

from sumika.finetune.chat import ChatFormat
from sumika.finetune.config import Suite
from sumika.finetune.data import records
from sumika.finetune.data.clean import Cleaner
from sumika.finetune.data.fit import fit
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.reading import How, Reader
from sumika.finetune.data.record import Content, Conversation, Row, record_hash
from sumika.finetune.data.settings import Data
from sumika.finetune.evaluation import patterns


def read(
    suite: Suite, data: Data, chat: ChatFormat, limit: int | None, trained: set[str], reader: Reader
) -> list[Row[Conversation]]:
    """Every row that is right; the others go to the reader's problems. `trained`: the marks of what is trained on (`records`)."""
    cleaner, found = Cleaner(data, chat.control_tokens), []
    how = How(
        data.columns.named(), "auto", data.encoding, facts="required" if suite.check == "facts" else "none", columns_may_lack=True
    )
    for row in reader.rows(suite.path, how):
        try:
            cleaned = cleaner.clean(row)
            if not isinstance(cleaned.content, Conversation):
                raise DataError(
                    "a suite's row is a question and its answer, as messages or prompt and completion",
                    "スイートの行は質問と応答の組です(messages、または prompt と completion)",
                )
            fit(chat, cleaned.content, limit, "error")
            _refuse_trained(row.content, trained)
            _check_answer(suite, cleaned.content.messages[-1]["content"])
            found.append(Row(cleaned.content, row.where, row.hash, cleaned.facts))
        except DataError as error:
            reader.problems.add(row.where, error)
    return found


def _refuse_trained(content: Content, trained: set[str]) -> None:
    """A conversation is known again whole; one of a single question by the question, whatever its answer."""
    questions = list(records.questions(content))
    if f"r {record_hash(content)}" in trained or (len(questions) == 1 and questions[0] in trained):
        raise DataError(
            "this question is also trained on, so its score would flatter; take it out of one of the two",
            "この質問は学習データにもあるため、評価になりません。どちらかから取り除いてください",
        )


def _check_answer(suite: Suite, answer: str) -> None:
    if suite.check == "json":
        try:
            json.loads(answer)
        except (ValueError, RecursionError):
            raise DataError(
                f"its answer is not JSON, and suite '{suite.name}' compares answers as JSON; correct it, or set check: exact",
                f"応答がJSONではありませんが、スイート「{suite.name}」はJSONとして比べます。直すか、check: exact にしてください",
            ) from None
    if suite.check == "regex" and (said := patterns.fault(answer)) is not None:
        raise DataError(
            f"its answer is no regular expression ({said}), and suite '{suite.name}' looks for it as one; correct it, or set check: exact",
            f"応答が正規表現ではありません({said})。スイート「{suite.name}」は正規表現として探します。直すか、check: exact にしてください",
        )
