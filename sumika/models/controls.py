"""The tokens a base is steered by: the marks of a turn, of a text's end. Spelled in somebody's text they must stay text."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sumika.models import tokenizer_files
from sumika.models.control_text import LONGEST, SHORTEST, ControlText
from sumika.models.errors import SumikaError
from sumika.models.template_markers import Replaced, is_html, markers, replaced

log = logging.getLogger(__name__)

_KEPT, _ANY_CASE, _REPLACED, _RULES = "control_tokens", "control_any_case", "control_replaced", "control_rules"
# Which rules a base's tokens were found by; those found by older ones are looked for again in its files.
_CURRENT = 3
_DIGITS = re.compile(r"\d+")
# Gemma has 6,249, of which all but a hundred are numbered alike; 4,000 that differ are no tokenizer that we know.
_MOST = 4_000
# Runs of filters that replace something; the templates that we know have two.
_MOST_REPLACED = 32
_PADDING = " \t\r\n\u2581"
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "processor_config.json")
_MOST_TEMPLATE_BYTES = 2**20
# vLLM's parsers look for these in an answer, whether the tokenizer has them or not.
_THINKING = ("<think>", "</think>")
_CALLING = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def told_by(folder: Path) -> dict[str, Any]:
    """What the registry should keep of a base's files: its control tokens, those that differ by a number once with `0` in its place.

    They are the tokens that its tokenizer calls special, others of its own that are written like marks, and the marks that its
    chat template writes. A token that is a plain word ("e", "user") is not kept: a text of ordinary words would be taken apart.

    Raises:
        SumikaError: `bad_model`, for files that no tokenizer has: too large, or with too many such tokens.
    """
    tokenizer = tokenizer_files.fields(folder / "tokenizer.json", {"added_tokens", "normalizer"}.__contains__)
    found = {_DIGITS.sub("0", token) for token in _tokens(folder, tokenizer.get("added_tokens"))}
    if len(found) > _MOST:
        raise tokenizer_files.bad_model(
            f"its tokenizer has more than {_MOST:,} control tokens", f"トークナイザーの制御トークンが {_MOST:,} 個を超えています"
        )
    filters = {run for template in _templates(folder) for run in replaced(template)}
    if len(filters) > _MOST_REPLACED:
        raise tokenizer_files.bad_model(
            f"its chat template replaces text in more than {_MOST_REPLACED} ways",
            f"チャットテンプレートによる文字列の置換が {_MOST_REPLACED} 通りを超えています",
        )
    return {
        _KEPT: sorted(found, key=lambda token: (-len(token), token)),
        _ANY_CASE: _any_case(tokenizer.get("normalizer")),
        _REPLACED: sorted(filters),
        _RULES: _CURRENT,
    }


def pattern(meta: Mapping[str, Any], folder: Path | None = None) -> ControlText | None:
    """Finds the control tokens of the base whose `meta` the registry kept; None where it has none. For one that came before
    today's rules they are looked for in its `folder`."""
    if folder is not None and meta.get(_RULES) != _CURRENT and folder.is_dir():
        meta = dict(meta) | _told_again(folder)
    serve: Mapping[str, Any] = meta.get("serve", {})
    parsed = (*(_THINKING if serve.get("reasoning_parser") else ()), *(_CALLING if serve.get("tool_call_parser") else ()))
    filters = tuple(tuple((old, new) for old, new in run) for run in meta.get(_REPLACED, ()))
    return _compiled((*meta.get(_KEPT, ()), *parsed), bool(meta.get(_ANY_CASE)), filters)


@lru_cache(maxsize=64)
def _compiled(tokens: tuple[str, ...], any_case: bool, filters: tuple[Replaced, ...]) -> ControlText | None:
    return ControlText(tokens, any_case=any_case, filters=filters) if tokens else None


@lru_cache(maxsize=64)
def _told_again(folder: Path) -> dict[str, Any]:
    try:
        return told_by(folder)
    except SumikaError as error:
        log.warning("the control tokens of %s can't be read (%s); those found at its import are used", folder.name, error.en)
        return {}


def _tokens(folder: Path, added: Any) -> Iterator[str]:
    """Each is stripped of what surrounds it: SentencePiece's mark of a space stands before some."""
    ignored = 0
    for token, special in _named(folder, added):
        bare = token.strip(_PADDING)
        if len(bare) > LONGEST:
            raise tokenizer_files.bad_model("one of its control tokens is too long", "長すぎる制御トークンがあります")
        if _is_mark(bare) if special else _is_marklike(bare):
            yield bare
        elif special and bare:
            ignored += 1
    if ignored:
        log.warning(
            "%d tokens that the tokenizer of %s calls special are plain text, and stay so in what users write",
            ignored,
            folder.name,
        )
    for template in _templates(folder):
        yield from markers(template)


def _is_mark(token: str) -> bool:
    """Whether it can be parted, and is no word: no user means anything else by it."""
    return len(token) >= SHORTEST and (unicodedata.category(token[0])[0] in "PS")


def _is_marklike(token: str) -> bool:
    """Of what a tokenizer has and does not call special: words of every kind, runs of spaces, HTML, and marks."""
    return len(token) >= SHORTEST and token[0] + token[-1] in ("<>", "[]", "||", "｜｜") and not is_html(token)


def _named(folder: Path, added: Any) -> Iterator[tuple[str, bool]]:
    """Each token that the files name, and whether they call it special."""
    for token in _list(added):
        yield from _told(token)
    config = tokenizer_files.fields(folder / "tokenizer_config.json", _names_tokens)
    for token in _list(config.pop("added_tokens_decoder", None)):
        yield from _told(token)
    for named in (*config.values(), *tokenizer_files.fields(folder / "special_tokens_map.json", _names_tokens).values()):
        for token in _list(named):
            yield from _told(token, special=True)
    for token in tokenizer_files.fields(folder / "added_tokens.json", lambda _: True):
        yield token, False
    yield from tokenizer_files.pieces(folder / "tokenizer.model")


def _names_tokens(field: str) -> bool:
    return field.endswith(("_token", "special_tokens")) or field == "added_tokens_decoder"


def _list(named: Any) -> Iterable[Any]:
    return named if isinstance(named, list) else named.values() if isinstance(named, dict) and "content" not in named else [named]


def _told(token: Any, *, special: bool = False) -> Iterator[tuple[str, bool]]:
    content = token.get("content") if isinstance(token, dict) else token
    if isinstance(content, str):
        yield content, special or (isinstance(token, dict) and token.get("special") is True)


def _templates(folder: Path) -> Iterator[str]:
    for name in _TEMPLATES:
        file = folder / name
        if name.endswith(".json"):
            value = tokenizer_files.fields(file, "chat_template".__eq__).get("chat_template")
            texts = [entry.get("template") if isinstance(entry, dict) else entry for entry in _list(value)]
        else:
            texts = [tokenizer_files.text(file)]
        for text in texts:
            if isinstance(text, str) and len(text) > _MOST_TEMPLATE_BYTES:
                raise tokenizer_files.bad_model(
                    f"the chat template in {name} is too long", f"{name} のチャットテンプレートが長すぎます"
                )
            yield text if isinstance(text, str) else ""


def _any_case(normalizer: Any) -> bool:
    """Whether the tokenizer makes small letters of large ones."""
    steps = [normalizer]
    while steps:
        step = steps.pop()
        if isinstance(step, dict):
            if step.get("type") == "Lowercase" or step.get("lowercase") is True:
                return True
            steps += _list(step.get("normalizers"))
    return False
