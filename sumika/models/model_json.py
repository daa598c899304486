"""The JSON files of a model's folder: bounded in size, depth and numbers, and none of them asks for code of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from sumika.models.errors import SumikaError, quoted

# The largest known: tokenizer.json of Gemma 3 (33 MB), the index of a model with 91,000 tensors (9 MB).
_LARGEST = {"tokenizer.json": 128 * 2**20, "vocab.json": 128 * 2**20}
_LARGEST_OTHER = 32 * 2**20
_DEEPEST = 64
# Tokenizers say 10^30 for a length without a bound.
_LARGEST_NUMBER = 10**40
# By these a library is told to load code: transformers (`auto_map`, `trust_remote_code`), diffusers, and transformers' generation.
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_pipeline", "custom_generate")
# Here a key may be a word of the vocabulary, with its number.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")
_MODULES = "modules.json"
_OWN_MODULES = "sentence_transformers."

# Above these no model is known by far; an engine would ask for memory by them before it looks at the weights.
_SIZES = {
    "vocab_size": 2**24, "max_position_embeddings": 2**27, "hidden_size": 2**20, "intermediate_size": 2**24, "moe_intermediate_size": 2**24,
    "num_hidden_layers": 2**12, "num_attention_heads": 2**14, "num_key_value_heads": 2**14, "head_dim": 2**16, "sliding_window": 2**27,
    "num_experts": 2**16, "num_local_experts": 2**16, "n_routed_experts": 2**16, "num_experts_per_tok": 2**16, "n_layer": 2**12, "n_head": 2**14,
    "n_embd": 2**20, "n_positions": 2**27,
}  # fmt: skip
# May be nought or absent in a model that is whole: no window, no such layer.
_MAY_BE_NOUGHT = ("sliding_window", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "intermediate_size", "moe_intermediate_size")  # fmt: skip

Problem = tuple[str, str]
"""What is wrong, in English and in Japanese."""


def architectures() -> frozenset[str]:
    """Those that the installed vLLM has code of its own for (`architectures.txt`, held against its registry by a test)."""
    return frozenset((files("sumika.models") / "architectures.txt").read_text().split())


def check(folder: Path) -> Iterator[Problem]:
    """What is wrong with the JSON files of `folder`, the first of each file."""
    for path in sorted(folder.glob("*.json")):
        problem = next(_problems(path), None)
        if problem is not None:
            yield problem


def sizes(config: dict[str, Any], at: str = "") -> Iterator[Problem]:
    """Sizes that no model has, in a `config.json` or in a part of it."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from sizes(value, f"{at}{key}.")
        elif key in _SIZES and (value is not None or key == "max_position_embeddings"):
            least = 0 if key in _MAY_BE_NOUGHT else 1
            numbers = value if isinstance(value, list) and value else [value]
            if not all(type(number) is int and least <= number <= _SIZES[key] for number in numbers):
                where = quoted(f"{at}{key}")
                yield (
                    f"config.json gives {where} as {_shown(value)}, and not as a whole number from {least} to {_SIZES[key]}",
                    f"config.json の {where} が {_shown(value)} です({least}〜{_SIZES[key]} の整数にしてください)",
                )


def _problems(path: Path) -> Iterator[Problem]:
    name, most = quoted(path.name), _LARGEST.get(path.name, _LARGEST_OTHER)
    if (size := path.stat().st_size) > most:
        yield (
            f"{name} has {size / 2**20:.0f} MiB, and at most {most // 2**20} are taken",
            f"{name} が {size / 2**20:.0f} MiB あります(上限 {most // 2**20} MiB)",
        )
        return
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        yield f"{name} is not JSON", f"{name} がJSONではありません"
        return
    yield from _of_code(name, value, path.name)
    if path.name not in _VOCABULARIES and _too_much(value):
        yield (
            f"{name} is nested deeper than {_DEEPEST} levels or holds a whole number of more than 40 digits",
            f"{name} の階層が {_DEEPEST} を超えるか、40 桁を超える整数があります",
        )


def _of_code(name: str, value: Any, file: str) -> Iterator[Problem]:
    for key, given in _keys(value):
        if key in _CODE and not (key == "trust_remote_code" and given is False):
            if file in _VOCABULARIES and type(given) is int:
                continue
            yield f"{name} asks for code of its own ({key})", f"{name} が独自コード({key})を要求しています"
            return
    if file == _MODULES and isinstance(value, list):
        for kind in (one.get("type") for one in value if isinstance(one, dict)):
            if not str(kind).startswith(_OWN_MODULES):
                yield (
                    f"{name} asks for a module that is not sentence-transformers' own ({quoted(str(kind))})",
                    f"{name} が独自のモジュール({quoted(str(kind))})を要求しています",
                )
                return


def _keys(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, however deep, without recursion: how deep is the file's maker's choice."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += [inner for inner in one.values() if isinstance(inner, dict | list)]
        elif isinstance(one, list):
            waiting += [inner for inner in one if isinstance(inner, dict | list)]


def _too_much(value: Any) -> bool:
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > _DEEPEST:
            return True
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        waiting += [(part, depth + 1) for part in inner if isinstance(part, dict | list)]
        if any(isinstance(part, int) and abs(part) > _LARGEST_NUMBER for part in inner):
            return True
    return False


def _shown(value: object) -> str:
    # repr of an integer of more than 4,300 digits raises
    return quoted(json.dumps(value)) if type(value) is not int or abs(value) < 2**64 else "too large a number"


def broken(problem: Problem) -> SumikaError:
    en, ja = problem
    return SumikaError(
        "bad_model",
        f"The folder is not a model that can be served: {en}. Copy the complete model and import it again.",
        f"このフォルダーは配備できるモデルではありません: {ja}。モデル一式をコピーして取り込み直してください。",
    )
