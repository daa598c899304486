"""Rows as the model sees them: the base's own chat template, and which tokens are trained, found by the template's spans."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sumika.finetune.data import pii
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.record import Content, Conversation, Document, Messages, Preference
from sumika.models.errors import SumikaError, quoted

IGNORED = -100  # what torch's cross-entropy leaves out


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of one row, and which of them are trained: (start, end) spans. A million rows fit in memory."""

    ids: array[int]
    trained_spans: tuple[tuple[int, int], ...]

    @property
    def input_ids(self) -> list[int]:
        return self.ids.tolist()

    @property
    def labels(self) -> list[int]:
        """The ids, with every one that is not trained replaced by -100."""
        labels = [IGNORED] * len(self.ids)
        for start, end in self.trained_spans:
            labels[start:end] = self.ids[start:end]
        return labels

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> int:
        return sum(end - start for start, end in self.trained_spans)

    def cut(self, limit: int) -> Rendered:
        """The first `limit` tokens."""
        spans = ((start, min(end, limit)) for start, end in self.trained_spans if start < limit)
        return Rendered(self.ids[:limit], tuple(spans))


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """A preference pair for DPO: its prompt's ids, and those of either answer up to and with the stop token."""

    prompt_ids: array[int]
    chosen_ids: array[int]
    rejected_ids: array[int]

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def trained(self) -> int:
        return len(self.chosen_ids) + len(self.rejected_ids)

    def cut(self, limit: int) -> RenderedPair:
        """Both answers cut so that each ends within `limit` tokens."""
        left = max(limit - len(self.prompt_ids), 0)
        return RenderedPair(self.prompt_ids, self.chosen_ids[:left], self.rejected_ids[:left])


def stop_ids(base: Path) -> list[int]:
    """The tokens on which the served model stops; empty where generation_config.json names none."""
    config = base / "generation_config.json"
    stops = json.loads(config.read_bytes()).get("eos_token_id") if config.is_file() else None
    return [stops] if isinstance(stops, int) else stops or []


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A tokenizer with its template, and the tokens on which the served model stops; `system` and `train_on` as in `chat`."""

    tokenizer: Any
    stop_ids: tuple[int, ...]
    template_sha256: str
    system: str | None = None
    train_on: Literal["answers", "last_answer"] = "answers"

    @classmethod
    def of(
        cls, folder: Path, *, system: str | None = None, train_on: Literal["answers", "last_answer"] = "answers"
    ) -> ChatFormat:
        """Read from the base's folder, the very files that vLLM reads.

        Raises:
            SumikaError: `no_template` or `no_stop_token`, when the base can't be trained to chat.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not tokenizer.chat_template:
            raise SumikaError(
                "no_template",
                "The base has no chat template. Put chat_template.jinja beside its weights and import it again.",
                "ベースモデルにチャットテンプレートがありません。chat_template.jinja を置いて取り込み直してください。",
            )
        stops = stop_ids(folder)
        if not stops:
            raise SumikaError(
                "no_stop_token",
                "The base's generation_config.json names no eos_token_id, so its answers would not end. Add it and import again.",
                "ベースモデルの generation_config.json に eos_token_id がなく、応答が終わりません。追加して取り込み直してください。",
            )
        template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
        return cls(tokenizer, tuple(stops), template, system, train_on)

    @property
    def pad_id(self) -> int:
        """Fills rows up to the longest of a batch; masked, so any token will do where the model has none for it."""
        pad = self.tokenizer.pad_token_id
        return self.stop_ids[0] if pad is None else int(pad)

    @property
    def control_tokens(self) -> re.Pattern[str] | None:
        """The tokenizer's special tokens, as a text may spell them."""
        added = self.tokenizer.added_tokens_decoder.values()
        return pii.any_of([*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special)])

    def prompt_ids(self, messages: Messages) -> list[int]:
        """What the engine is given when it is asked to answer `messages`."""
        return self._ids(self._begun(messages), add_generation_prompt=True)

    def render(self, content: Content) -> Rendered | RenderedPair:
        """A record as the model sees it.

        Raises:
            DataError: when the template refuses it, or its answers can't be found or do not end.
        """
        match content:
            case Conversation():
                return self.render_conversation(content)
            case Document():
                return self.render_document(content)
            case Preference():
                return self.render_preference(content)

    def render_conversation(self, content: Conversation) -> Rendered:
        """Trained is each answer up to and with its stop token.

        Raises:
            DataError: as `render`.
        """
        self._refuse_stops_in_text(content)
        messages = self._begun(content.messages)
        whole = self._templated(messages, add_generation_prompt=False)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        trained = answers[-1:] if self.train_on == "last_answer" else answers
        return Rendered(array("i", whole), tuple(self._span(messages, index, whole) for index in trained))

    def render_document(self, content: Document) -> Rendered:
        """The text without any template, between the tokenizer's own first token and its end of text; all else is trained.

        Raises:
            DataError: as `render`.
        """
        self._refuse_stops_in_text(content)
        ids = list(self.tokenizer(content.text)["input_ids"])
        first = int(bool(ids) and ids[0] == self.tokenizer.bos_token_id)
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        return Rendered(array("i", ids), ((first, len(ids)),))

    def render_preference(self, content: Preference) -> RenderedPair:
        """Raises DataError as `render`."""
        chosen, rejected = (self.render_conversation(content.answered(answer)) for answer in (content.chosen, content.rejected))
        start = chosen.trained_spans[-1][0]
        answers = (one.ids[slice(*one.trained_spans[-1])] for one in (chosen, rejected))
        return RenderedPair(chosen.ids[:start], *answers)

    def _begun(self, messages: Messages) -> Messages:
        """With the job's system message, where there is one and the row has none of its own."""
        if self.system is None or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def _refuse_stops_in_text(self, content: Content) -> None:
        """A stop token spelt out in a text would end its turn in the middle, and pass the rest off as another's."""
        for where, text in content.texts():
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if found := sorted(set(ids) & set(self.stop_ids)):
                token = self.tokenizer.convert_ids_to_tokens(found[0])
                raise DataError(
                    f"{where}: content holds {token}, which ends a turn; write it in other words",
                    f"{where}: 発話の終わりを表す {token} を含みます。別の書き方にしてください",
                )

    def _span(self, messages: Messages, index: int, whole: list[int]) -> tuple[int, int]:
        before = self._templated(messages[:index], add_generation_prompt=True)
        upto = self._templated(messages[: index + 1], add_generation_prompt=False)
        if upto[: len(before)] != before or whole[: len(upto)] != upto:
            raise DataError(
                f"the base's template renders message {index + 1} differently within the whole conversation, "
                "so its tokens can't be told apart; train on single turns",
                f"このベースモデルのテンプレートでは、会話全体の中でメッセージ {index + 1} の表現が変わるため、"
                "学習範囲を決められません。1往復の会話にしてください",
            )
        stops = [i for i in range(len(before), len(upto)) if upto[i] in self.stop_ids]
        if not stops:
            raise DataError(
                f"answer {index + 1} does not end with a token the served model stops on {list(self.stop_ids)}; "
                "the template and generation_config.json disagree",
                f"応答 {index + 1} が、配備時の停止トークン {list(self.stop_ids)} で終わりません。"
                "テンプレートと generation_config.json が食い違っています",
            )
        return len(before), stops[-1] + 1

    def _templated(self, messages: Messages, *, add_generation_prompt: bool) -> list[int]:
        from jinja2 import TemplateError

        try:
            return self._ids(messages, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            raise DataError(
                f"the base's chat template refuses this row: {quoted(str(error))}; change its roles or leave it out",
                f"ベースモデルのチャットテンプレートがこの行を受け付けません({quoted(str(error))})。roleを変えるか取り除いてください",
            ) from None

    def _ids(self, messages: Messages, *, add_generation_prompt: bool) -> list[int]:
        encoded = self.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=add_generation_prompt)
        return list(encoded["input_ids"])
