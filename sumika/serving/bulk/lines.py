"""The input of a batch: one request a line, in OpenAI's shape, checked as a whole before the first one is made."""

from __future__ import annotations

import asyncio
import json
import os
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumika.models.errors import Language, SumikaError, quoted
from sumika.serving.bulk.jsonl import BOM
from sumika.serving.requests import read_json

MOST_LINES = 50_000
MOST_ERRORS = 100
_LONGEST_ID = 256
_FIELDS = ("custom_id", "method", "url", "body")
# How long other requests may wait for the checking of lines.
_SLICE_S = 0.001


@dataclass(frozen=True, slots=True)
class Line:
    """One request: whose answer it is to be, and its body as JSON."""

    custom_id: str
    body: bytes


class Lines:
    """The lines of a file, found by their number (from 0); the file stays on disk."""

    def __init__(self, path: Path, endpoint: str, longest: int) -> None:
        """`longest`: bytes of a line at most.

        Raises:
            FileNotFoundError: it is gone.
        """
        self._endpoint = endpoint
        self._longest = longest
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._starts = array("Q")
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._starts)

    async def check(self, speak: Language) -> list[dict[str, Any]]:
        """Find the lines; what is wrong with them, as OpenAI's `errors.data` tells it. None may be read where there is any."""
        errors: list[dict[str, Any]] = []
        seen: set[str] = set()
        at, paused = 0, time.monotonic()
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for number, raw in enumerate(file, start=1):
                start, at = at, at + len(raw)
                if not raw.removeprefix(BOM).strip():
                    continue
                self._starts.append(start)
                self._ends.append(at)
                try:
                    _note(self._parsed(raw)[0], seen)
                except SumikaError as error:
                    told = {"code": error.code, "line": number, "message": error.text(speak), "param": error.param}
                    errors.append(told)
                if len(errors) == MOST_ERRORS:
                    return errors
                if time.monotonic() - paused > _SLICE_S:
                    await asyncio.sleep(_SLICE_S)
                    paused = time.monotonic()
        return errors or self._number_of_lines(speak)

    def read(self, index: int) -> Line:
        start = self._starts[index]
        custom_id, body = self._parsed(os.pread(self._fd, self._ends[index] - start, start))
        return Line(custom_id, json.dumps(body, ensure_ascii=False).encode())

    def close(self) -> None:
        os.close(self._fd)

    def _number_of_lines(self, speak: Language) -> list[dict[str, Any]]:
        if 0 < len(self) <= MOST_LINES:
            return []
        wrong = _empty() if len(self) == 0 else _too_many(len(self))
        return [{"code": wrong.code, "line": None, "message": wrong.text(speak), "param": None}]

    def _parsed(self, raw: bytes) -> tuple[str, dict[str, Any]]:
        """`custom_id` and `body`.

        Raises:
            SumikaError: for whatever is no request to this batch's endpoint.
        """
        if len(raw) > self._longest:
            raise SumikaError(
                "line_too_long", f"The line is longer than {self._longest:,} bytes, which no request may be.",
                f"1行が {self._longest:,} バイトを超えています。リクエストの上限です。",
            )  # fmt: skip
        data = _object(raw)
        custom_id, body = data["custom_id"], data["body"]
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_ID:
            raise _wrong("custom_id", f"text of 1 to {_LONGEST_ID} characters", f"1〜{_LONGEST_ID} 文字の文字列")
        if data["method"] != "POST":
            raise SumikaError("invalid_method", "method must be 'POST'.", "method は POST にしてください。", param="method")
        if data["url"] != self._endpoint:
            raise SumikaError(
                "invalid_url", f"url must be the batch's own endpoint, {self._endpoint}.",
                f"url はバッチの endpoint と同じ {self._endpoint} にしてください。", param="url",
            )  # fmt: skip
        if not isinstance(body, dict):
            raise _wrong("body", "an object", "オブジェクト")
        if body.get("stream"):
            raise SumikaError(
                "stream_in_batch", "A batch's answers are not streamed; leave 'stream' out.",
                "バッチではストリームを使えません。stream を省いてください。", param="body.stream",
            )  # fmt: skip
        return custom_id, body


def _note(custom_id: str, seen: set[str]) -> None:
    """Raises SumikaError `duplicate_custom_id`."""
    if custom_id in seen:
        shown = quoted(custom_id, 64)
        raise SumikaError(
            "duplicate_custom_id", f"custom_id '{shown}' stands on a line before; give each line its own.",
            f"custom_id「{shown}」が前の行にもあります。行ごとに別の値にしてください。", param="custom_id",
        )  # fmt: skip
    seen.add(custom_id)


def _object(raw: bytes) -> dict[str, Any]:
    """The object on a line, with the four fields of a request and no other."""
    try:
        data = read_json(raw.removeprefix(BOM))
    except SumikaError as error:
        raise SumikaError("invalid_json_line", error.en, error.ja) from None
    if not isinstance(data, dict):
        raise SumikaError("invalid_json_line", "The line must be a JSON object.", "1行に1つのJSONオブジェクトを書いてください。")
    for name in _FIELDS:
        if name not in data:
            raise SumikaError("missing_required_parameter", f"'{name}' is missing.", f"「{name}」がありません。", param=name)
    if strange := sorted(data.keys() - set(_FIELDS)):
        shown = quoted(strange[0], 64)
        raise SumikaError("unknown_field", f"{shown}: unknown field.", f"{shown}: 未対応の項目です。", param=shown)
    return data


def _wrong(name: str, en: str, ja: str) -> SumikaError:
    return SumikaError("invalid_request", f"{name} must be {en}.", f"{name} は{ja}にしてください。", param=name)


def _empty() -> SumikaError:
    return SumikaError("empty_file", "The file holds no request.", "ファイルにリクエストがありません。")


def _too_many(count: int) -> SumikaError:
    return SumikaError(
        "too_many_tasks", f"The file holds {count:,} requests, and a batch takes {MOST_LINES:,}; split it.",
        f"リクエストが {count:,} 件あります(上限 {MOST_LINES:,})。分割してください。",
    )  # fmt: skip
