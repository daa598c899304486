"""Values that break readers of JSON, and what is done with them to a body that was good."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

# Stands in every text that we make up: found in a log, it came from a body.
MARK = "zq7marked"


@dataclass(frozen=True)
class Verbatim:
    """JSON, or what claims to be, written as it stands."""

    text: str


@dataclass(frozen=True)
class Repeated:
    """An object whose pairs are written one after another, the same key twice where it comes twice."""

    pairs: tuple[tuple[str, Any], ...]


def written(value: Any) -> str:
    """`value` as a body. Halves of surrogate pairs become escapes, as a careless client writes them."""
    if isinstance(value, Verbatim):
        return value.text
    if isinstance(value, Repeated):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.pairs) + "}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


NUMBERS = [
    0, 1, -1, True, False, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, -0.0, 0.5, 1e308, -1e308, 5e-324,
    *map(Verbatim, ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4_300, "9" * 5_000, "-" + "9" * 5_000, "1" + "0" * 400 + ".0",
                    "01", "+1", ".5", "1.", "0x10", "1_000", "1e", "--1", "1e99999999999")),
]  # fmt: skip
TEXTS = [
    "", " ", MARK, MARK * 8, "\x00", f"{MARK}\x00", "\r\n", f"{MARK}\r\nlog=forged", "\x1b[31m", "\x7f", "\u2028\u2029", "\ud800", f"a\udfff{MARK}",
    "\u202e\u2066", "e\u0301" * 200, "\u0301" * 2_000, "あ", "が", "か\u3099", "㍿①髙﨑", "𠮷", "👨‍👩‍👧‍👦", "ｔａｌｋ", "tаlk", "talk\u200d", "x" * 300, MARK * 2_000,
    "../../etc/passwd", "/etc/passwd", "C:\\x", "file:///etc/passwd", "http://127.0.0.1:1/x", "http://169.254.169.254/", "gopher://x", "data:text/plain,x",
    "' OR 1=1--", "'; SELECT pg_sleep(8)--", "%", "_", "\\", "%s%n{0}{x}${x}{{7*7}}", "<script>alert(1)</script>", "=cmd|'/c calc'!A1", "__class__",
    "<|im_end|>", "<|im_start|>system", "[INST]", "</s>", "<end_of_turn>", "<start_of_turn>model", "<|endoftext|>", "<bos>",
    "base@1", "base@0", "base@99999999999999999999", "talk@1", "talk", "canary", "null", "true", "NaN", "-1", "2026-13-45", "9999-12-31T23:59:59Z",
]  # fmt: skip
KEYS = [
    "__proto__", "constructor", "model_config", "__class__", "model_fields", "", "\x00", "$ref", "Model", "MODEL", "model ", "x" * 1_000, MARK,
    "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "guided_json", "guided_regex", "structured_outputs",
    "cache_salt", "priority", "request_id", "kv_transfer_params", "vllm_xargs", "lora_request", "documents", "mm_processor_kwargs", "media_io_kwargs",
    "bad_words", "allowed_token_ids", "logits_processors", "prompt_embeds", "best_of", "use_beam_search", "min_tokens", "stop_token_ids", "ignore_eos",
    "skip_special_tokens", "truncate_prompt_tokens", "prompt_logprobs", "return_tokens_as_token_ids", "include_stop_str_in_output", "prompt_cache_retention",
    "role", "scopes", "user_role", "allowed_routes", "is_admin", "id", "hash", "created_by",
]  # fmt: skip


def _nested(depth: int, opening: str, closing: str) -> Verbatim:
    return Verbatim(opening * depth + closing * depth)


SHAPES: list[Any] = [
    None, [], {}, [[]], [None], {"a": None}, "x", [1, "x", None, {}], {"": ""}, _nested(33, "[", "]"), _nested(2_000, "[", "]"), _nested(100_000, "[", "]"),
    _nested(40, '{"a":', "}"), Verbatim('{"a":1,"a":2}'), Verbatim("[1,]"), Verbatim('{"a":}'), Verbatim("[1] []"), Verbatim("//"), Verbatim("'x'"), Verbatim("\x00"),
    Verbatim('"\\ud800"'), Verbatim('"\\x41"'), Verbatim('"a\nb"'), [0] * 5_000, ["a"] * 5_000, [{}] * 300, {f"k{n}": n for n in range(3_000)},
    {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}, {"type": "input_audio"}, {"type": "file", "file": {"file_id": "../x"}},
    {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"$ref": "http://127.0.0.1:1/x"}, {"type": "string", "pattern": "(a+)+b"}, {"enum": list(range(2_000))},
    {"type": "array", "maxItems": 10**9}, {"type": "text", "text": None}, {"role": "user"}, {"role": ["user"], "content": "x"}, {"role": "root", "content": "x"},
]  # fmt: skip

nasty: SearchStrategy[Any] = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(SHAPES),
    st.integers(),
    st.floats(),
    st.text(max_size=40).map(lambda text: MARK + text),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6),
)  # fmt: skip

Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a body, the whole of it first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


@st.composite
def mutated(draw: DrawFn, bodies: Sequence[Any]) -> Any:
    """One of `bodies` with one to three things done to it."""
    body = draw(st.sampled_from(bodies))
    for _ in range(draw(st.integers(1, 3))):
        found = [path for path in places(body) if path] or [()]
        body = _changed(draw, body, draw(st.sampled_from(found)))
    return body


def _changed(draw: DrawFn, value: Any, path: Path) -> Any:
    if path and isinstance(value, dict) and path[0] in value:
        key, rest = path[0], path[1:]
        if rest:
            return value | {key: _changed(draw, value[key], rest)}
        return _member_changed(draw, value, str(key))
    if path and isinstance(value, list) and isinstance(path[0], int) and path[0] < len(value):
        at, rest = path[0], path[1:]
        if rest:
            return [*value[:at], _changed(draw, value[at], rest), *value[at + 1 :]]
        what = draw(st.sampled_from(["replace", "replace", "remove", "many"]))
        put = {"replace": [draw(nasty)], "remove": [], "many": [value[at]] * draw(st.sampled_from([2, 300, 5_000]))}[what]
        return [*value[:at], *put, *value[at + 1 :]]
    return draw(nasty)


def _member_changed(draw: DrawFn, value: dict[str, Any], key: str) -> Any:
    what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "repeat"]))
    if what == "remove":
        return {name: item for name, item in value.items() if name != key}
    if what == "add":
        return value | {draw(st.sampled_from(KEYS)): draw(nasty)}
    if what == "repeat":
        return Repeated((*value.items(), (key, draw(nasty))))
    return value | {key: draw(nasty)}


@st.composite
def garbled(draw: DrawFn, bodies: Sequence[Any]) -> bytes:
    """Bytes of a good body that were cut, mixed or encoded by somebody who does not know how."""
    body = written(draw(st.sampled_from(bodies)))
    how = draw(st.sampled_from(["cut", "insert", "utf-16", "utf-32", "bom", "cp932", "twice", "bytes", "nothing", "spaces"]))
    data = body.encode()
    if how == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if how == "insert":
        at = draw(st.integers(0, len(data)))
        return data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at:]
    if how in ("utf-16", "utf-32", "cp932"):
        return json.dumps({"model": "talk", "x": "日本"}, ensure_ascii=False).encode(how)
    return {
        "bom": b"\xef\xbb\xbf" + data,
        "twice": data + data,
        "bytes": draw(st.binary(max_size=64)),
        "nothing": b"",
        "spaces": b" " * 10_000,
    }[how]
