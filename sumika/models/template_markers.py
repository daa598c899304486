"""What a chat template writes to steer a model: marks of a turn, a call, a thought that need not be tokens of their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

# What one filter after the other replaces in a text: what it looks for, and what it writes in its place.
Replaced = tuple[tuple[str, str], ...]

_MARKS = re.compile(
    r"<\|[^<>|\s'\"]{1,64}\|?>"  # <|im_start|>
    r"|<｜[^<>\s'\"]{1,64}｜>"  # as DeepSeek's tokens are written
    r"|<</?[A-Z]{2,32}>>"  # <<SYS>>
    r"|\[/?[A-Z][A-Z0-9_]{1,64}\]"  # [INST]
    r"|</?[A-Za-z_][\w.:-]{0,64}(?:[>=]| name=)"  # <tool_call>, <function=, <invoke name=
)
# Of `<name>` and its like: templates explain with such words too (`<name>`, `<description>`), which are ordinary text.
_STEERS = re.compile(
    r"tool|func|call|invoke|param|think|reason|answer|response|observ|inst|sys|user|human|assistant|model|role|turn|channel|message"
    r"|special|image|audio|video|bos|eos|pad|unk|start|end|mask|sep|cls|document",
    re.IGNORECASE,
)
# A role's name before what it says, in templates without tokens for roles: `### 指示:`, `USER:`.
_LABELS = re.compile(
    r"#{2,6} [^\s'\"{}#\\%][^'\"{}\\\n%]{0,40}[:：]"
    r"|(?<![A-Za-z])(?:USER|ASSISTANT|SYSTEM|HUMAN|User|Assistant|System|Human|ユーザー|アシスタント|システム)[:：]"
)
# Ordinary tags, which some tokenizers (Gemma's) have as tokens and some templates write: a text in HTML is no command.
_HTML = frozenset(
    "a abbr b blockquote body br caption center cite code col colgroup dd del details div dl dt em figcaption figure font footer h0 head "
    "header hr html i img ins kbd li link main mark meta nav ol p pre q s samp script section small span strong style sub summary sup "
    "table tbody td tfoot th thead title tr tt u ul var".split()
)
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]*)>")
_STRING = r"""('(?:[^'\\]|\\.){0,200}'|"(?:[^"\\]|\\.){0,200}")"""
_REPLACES = re.compile(rf"\breplace\(\s{{0,20}}{_STRING}\s{{0,20}},\s{{0,20}}{_STRING}", re.DOTALL)
_NEXT_FILTER = re.compile(r"[\s|.()]{0,80}(?:(?:trim|[lr]?strip)[\s|.()]{0,80})?")


def is_html(mark: str) -> bool:
    tag = _TAG.fullmatch(mark)
    return tag is not None and re.sub(r"\d+", "0", tag[1].lower()) in _HTML


def markers(template: str) -> Iterator[str]:
    """The marks and labels that stand in `template`, a Jinja text."""
    template = "".join(_written(template))
    for mark in _MARKS.findall(template):
        if not is_html(mark) and (mark[1:2] in "|｜<" or mark.startswith("[") or _STEERS.search(mark)):
            yield mark
    yield from _LABELS.findall(template)


def _written(template: str) -> Iterator[str]:
    """What is no comment."""
    first, *rest = template.split("{#")
    yield first
    for piece in rest:
        yield piece.partition("#}")[2]


def replaced(template: str) -> Iterator[Replaced]:
    """What the filters of `template` replace, each run of them by itself: a mark may be spelled around a word that one removes."""
    template = "".join(_written(template))
    run: list[tuple[str, str]] = []
    end = 0
    for found in _REPLACES.finditer(template):
        if run and not _NEXT_FILTER.fullmatch(template[end : found.start()].lstrip(",0123456789 ")):
            yield tuple(run)
            run = []
        run.append((_literal(found[1]), _literal(found[2])))
        end = found.end()
    if run:
        yield tuple(run)


def _literal(string: str) -> str:
    try:
        return str(ast.literal_eval(string.replace("\n", "\\n")))
    except (ValueError, SyntaxError):
        return string[1:-1]
