"""One record: a conversation, a document or a preference pair, and the hashes by which it is found again."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """An optional system message, then user and assistant in turn, an assistant last."""

    messages: Messages

    @property
    def question(self) -> Messages:
        """All but the last answer."""
        return self.messages[:-1]

    def texts(self) -> Iterator[tuple[str, str]]:
        return ((f"message {n}", m["content"]) for n, m in enumerate(self.messages, start=1))

    def mapped(self, change: Callable[[str], str]) -> Conversation:
        return Conversation(_mapped(self.messages, change))


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text, trained on from end to end."""

    text: str

    def texts(self) -> Iterator[tuple[str, str]]:
        return iter([("text", self.text)])

    def mapped(self, change: Callable[[str], str]) -> Document:
        return Document(change(self.text))


@dataclass(frozen=True, slots=True)
class Preference:
    """Messages that end with a user's, the better answer to them and the worse."""

    prompt: Messages
    chosen: str
    rejected: str

    def texts(self) -> Iterator[tuple[str, str]]:
        yield from ((f"prompt message {n}", m["content"]) for n, m in enumerate(self.prompt, start=1))
        yield from (("chosen", self.chosen), ("rejected", self.rejected))

    def mapped(self, change: Callable[[str], str]) -> Preference:
        return Preference(_mapped(self.prompt, change), change(self.chosen), change(self.rejected))

    def answered(self, answer: str) -> Conversation:
        return Conversation([*self.prompt, {"role": "assistant", "content": answer}])


Content = Conversation | Document | Preference
C = TypeVar("C", bound=Content, covariant=True)


@dataclass(frozen=True, slots=True)
class Row(Generic[C]):
    """A record as it is trained on, where it stands (FILE:ROW), and the hash of what stood there before any change."""

    content: C
    where: str
    hash: str
    facts: tuple[tuple[str, ...], ...] = ()


def record_hash(content: Content) -> str:
    """One record has one hash in every format, encoding and order of keys, whatever data.normalize and data.pii then do.

    The first 128 bits, in hex, of SHA-256 over canonical JSON of its texts, each in NFKC with LF line ends and without
    white space at its ends: what differs in width alone counts as the same.
    """
    match content:
        case Conversation():
            return _hash([[m["role"], canonical(m["content"])] for m in content.messages])
        case Document():
            return _hash({"text": canonical(content.text)})
        case Preference():
            prompt = [[m["role"], canonical(m["content"])] for m in content.prompt]
            return _hash({"prompt": prompt, "chosen": canonical(content.chosen), "rejected": canonical(content.rejected)})


def question_hash(text: str) -> str:
    """The hash of what one user asked, alone."""
    return _hash({"user": canonical(text)})


def question_key(content: Content) -> str:
    """The hash of all that stands before the last answer, but a system message: by this a held-out question is found in training."""
    match content:
        case Conversation():
            asked = content.question
        case Preference():
            asked = content.prompt
        case Document():
            return record_hash(content)
    return _hash([[m["role"], canonical(m["content"])] for m in asked if m["role"] != "system"])


def canonical(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\r\n", "\n").replace("\r", "\n").strip()


def _hash(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _mapped(messages: Messages, change: Callable[[str], str]) -> Messages:
    return [{"role": m["role"], "content": change(m["content"])} for m in messages]
