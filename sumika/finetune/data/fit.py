"""Rows longer than fit: refused, dropped or cut, as data.too_long says; nothing is cut in silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sumika.finetune.chat import ChatFormat, Rendered, RenderedPair
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.record import Content, Conversation, Document, Messages, Preference
from sumika.finetune.data.settings import TooLong

Fate = Literal["kept", "truncated", "too_long", "nothing_left"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """`rendered` is None for a row that was dropped; `tokens` is how long it was."""

    fate: Fate
    tokens: int
    rendered: Rendered | RenderedPair | None = None


def fit(chat: ChatFormat, content: Content, limit: int | None, too_long: TooLong) -> Fitted:
    """Render `content` within `limit` tokens.

    `truncate` takes the oldest question and answer away, as often as needed and while another is left: the template
    stays whole. If the last exchange alone is too long, the end of its answer is cut off, stop token and all, so that
    the model is not taught to stop there; a question that leaves no room for an answer drops the row. A document loses its end.

    Raises:
        DataError: the row can't be rendered, is too long and must not be, or has nothing to train.
    """
    rendered = chat.render(content)
    tokens = rendered.length
    if limit is None or tokens <= limit:
        if rendered.trained == 0:
            raise DataError(
                "no token of it is trained: its answer renders to nothing; fill it in, or take the row out",
                "学習されるトークンがありません(応答が空になります)。記入するか、行を削除してください",
            )
        return Fitted("kept", tokens, rendered)
    if too_long == "error":
        raise DataError(
            f"{tokens} tokens, at most {limit} fit; shorten it, split it, raise data.max_length, or set data.too_long to drop or truncate",
            f"{tokens} トークンで、上限 {limit} を超えています。短くするか分割するか、data.max_length を上げるか、data.too_long を drop か truncate にしてください",
        )
    if too_long == "drop":
        return Fitted("too_long", tokens)
    while rendered.length > limit and (shorter := _without_oldest(content)) is not None:
        content = shorter
        rendered = chat.render(content)
    rendered = rendered.cut(limit)
    return Fitted("truncated", tokens, rendered) if _teaches(rendered) else Fitted("nothing_left", tokens)


def _teaches(rendered: Rendered | RenderedPair) -> bool:
    """Whether a cut row has something left to learn: an answer's token, or a difference between two answers."""
    if isinstance(rendered, RenderedPair):
        return bool(rendered.chosen_ids and rendered.rejected_ids) and rendered.chosen_ids != rendered.rejected_ids
    return rendered.trained > 0


def _without_oldest(content: Content) -> Content | None:
    match content:
        case Conversation(messages):
            shorter = _without_first_exchange(messages, least=2)
            return Conversation(shorter) if shorter else None
        case Preference(prompt, chosen, rejected):
            shorter = _without_first_exchange(prompt, least=1)
            return Preference(shorter, chosen, rejected) if shorter else None
        case Document():
            return None


def _without_first_exchange(messages: Messages, *, least: int) -> Messages | None:
    """Without the first user message and its answer, if at least `least` messages are left beside the system's."""
    head = 1 if messages[0]["role"] == "system" else 0
    return messages[:head] + messages[head + 2 :] if len(messages) - head - 2 >= least else None
