"""YAML's text to plain data: YAML 1.2's scalars, no tags, within bounds, and the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import yaml

from sumika.models.yamlproblems import Key, Place, Problem, dotted

# A person's file is a hundredth of these. Aliases are counted as often as they are used, so that a few lines can't stand
# for a billion values.
_MOST_VALUES = 20_000
_DEEPEST = 32
_TAG = "tag:yaml.org,2002:"


class Unusable(Exception):
    """What keeps a text from being data."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.en for problem in problems))
        self.problems = problems


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars only: `NO` is text, `12:30:45` is text, `0o17` is text (hostile to typed fields, not silent)."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
# Eighteen digits: what is longer fits no key, and Python refuses to read it as a number beyond 4,300.
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def parse(text: str) -> tuple[Any, dict[Key, Place]]:
    """The data of one document, and the line of every key.

    Raises:
        Unusable: it is no YAML, repeats a key, uses tags, or is beyond the bounds.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        walk = _Walk(loader)
        problems = list(walk.problems(node, ()))
        if problems:
            raise Unusable(*problems)
        return loader.construct_document(node), walk.places
    except RecursionError:
        raise Unusable(_TOO_DEEP) from None
    except yaml.YAMLError as error:
        raise Unusable(_syntax(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


class _Walk:
    """Over every node as it will be constructed, aliases followed."""

    def __init__(self, loader: _Loader) -> None:
        self.places: dict[Key, Place] = {}
        self._loader = loader
        self._values = 0

    def problems(self, node: yaml.Node, at: Key) -> Iterator[Problem]:
        self._values += 1
        if len(at) > _DEEPEST:
            raise Unusable(_TOO_DEEP)
        if self._values > _MOST_VALUES:
            raise Unusable(_TOO_MANY)
        if node.tag != f"{_TAG}str" and node.tag != self._plain(node):
            yield Problem(
                f"the tag {node.tag.replace(_TAG, '!!')} is not taken; write the plain value",
                f"タグ {node.tag.replace(_TAG, '!!')} は使えません。値だけを書いてください",
            ).at(_line(node))
        if isinstance(node, yaml.MappingNode):
            yield from self._keys(node, at)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self.places[(*at, i)] = _line(value)
                yield from self.problems(value, (*at, i))

    def _keys(self, node: yaml.MappingNode, at: Key) -> Iterator[Problem]:
        seen = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                yield Problem("a key must be a word", "キーは単語にしてください").at(_line(name))
                continue
            key = (*at, name.value)
            if name.value in seen:
                yield Problem(
                    f"'{dotted(key)}' is given twice; keep one", f"「{dotted(key)}」が2回あります。1つにしてください"
                ).at(_line(name))
            seen.add(name.value)
            self.places[key] = _line(name)
            yield from self.problems(value, key)

    def _plain(self, node: yaml.Node) -> Any:
        """The tag that the value has by itself."""
        return self._loader.resolve(type(node), node.value if isinstance(node, yaml.ScalarNode) else None, (True, False))  # type: ignore[no-untyped-call]


_TOO_DEEP = Problem(
    "is nested too deeply, or an alias leads back into itself; write it out flat",
    "入れ子が深すぎるか、エイリアスが自分自身を指しています。平らに書いてください",
)
_TOO_MANY = Problem(
    f"stands for more than {_MOST_VALUES:,} values, aliases written out; a config is a page, and data goes into files of its own",
    f"エイリアスを展開すると値が {_MOST_VALUES:,} 個を超えます。データは別のファイルにしてください",
)


def _line(node: yaml.Node) -> Place:
    return Place.line(node.start_mark.line + 1)


def _syntax(error: yaml.YAMLError) -> Problem:
    mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or getattr(error, "reason", None)
    said = Problem(
        f"{what or 'not YAML'}; indent with spaces, and put text that holds ': ' or ' #' in quotes",
        f"YAMLとして読めません({what})。字下げは半角スペースで、「: 」や「 #」を含む文字列は引用符で囲んでください",
    )
    return said.at(Place.line(mark.line + 1) if mark else None)
