"""Rows as the model sees them: the base's own chat template, and which tokens are trained, found by the template's spans."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumika.finetune.dataset import BadData, Messages, Row
from sumika.models.errors import SumikaError

IGNORED = -100  # what torch's cross-entropy leaves out


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of one row, and the same with every token that is not trained replaced by -100."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def stop_ids(base: Path) -> list[int]:
    """The tokens on which the served model stops; empty where generation_config.json names none."""
    config = base / "generation_config.json"
    stops = json.loads(config.read_bytes()).get("eos_token_id") if config.is_file() else None
    return [stops] if isinstance(stops, int) else stops or []


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A tokenizer with its template, and the tokens on which the served model stops."""

    tokenizer: Any
    stop_ids: tuple[int, ...]
    template_sha256: str

    @classmethod
    def of(cls, folder: Path) -> ChatFormat:
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
        return cls(tokenizer, tuple(stops), hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest())

    @property
    def pad_id(self) -> int:
        """Fills rows up to the longest of a batch; masked, so any token will do where the model has none for it."""
        pad = self.tokenizer.pad_token_id
        return self.stop_ids[0] if pad is None else int(pad)

    def prompt_ids(self, messages: Messages) -> list[int]:
        """What the engine is given when it is asked to answer `messages`."""
        return self._ids(messages, add_generation_prompt=True)

    def render(self, row: Row) -> Rendered:
        """Token ids and labels of one row; trained is each answer up to and with its stop token.

        Raises:
            SumikaError: `bad_data`, when the template refuses the row, or its answers can't be found or do not end.
        """
        from jinja2 import TemplateError

        self._refuse_stops_in_text(row)
        try:
            whole = self._ids(row.messages, add_generation_prompt=False)
            labels = [IGNORED] * len(whole)
            for index, message in enumerate(row.messages):
                if message["role"] == "assistant":
                    start, end = self._span(row, index, whole)
                    labels[start:end] = whole[start:end]
        except TemplateError as error:
            raise BadData([f"{row.where}: the base's chat template refuses this row: {error}"]) from None
        return Rendered(whole, labels)

    def _refuse_stops_in_text(self, row: Row) -> None:
        """A stop token spelt out in a message would end its turn in the middle, and pass the rest off as another's."""
        for number, message in enumerate(row.messages, start=1):
            ids = self.tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            if found := sorted(set(ids) & set(self.stop_ids)):
                token = self.tokenizer.convert_ids_to_tokens(found[0])
                raise BadData(
                    [f"{row.where}: message {number}: content holds {token}, which ends a turn; write it in other words"]
                )

    def _span(self, row: Row, index: int, whole: list[int]) -> tuple[int, int]:
        before = self._ids(row.messages[:index], add_generation_prompt=True)
        upto = self._ids(row.messages[: index + 1], add_generation_prompt=False)
        if upto[: len(before)] != before or whole[: len(upto)] != upto:
            raise BadData([
                f"{row.where}: the base's template renders message {index + 1} differently within the whole conversation, "
                "so its tokens can't be told apart; train on single turns"
            ])  # fmt: skip
        stops = [i for i in range(len(before), len(upto)) if upto[i] in self.stop_ids]
        if not stops:
            raise BadData([
                f"{row.where}: answer {index + 1} does not end with a token the served model stops on {list(self.stop_ids)}; "
                "the template and generation_config.json disagree"
            ])  # fmt: skip
        return len(before), stops[-1] + 1

    def _ids(self, messages: Messages, *, add_generation_prompt: bool) -> list[int]:
        encoded = self.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=add_generation_prompt)
        return list(encoded["input_ids"])
