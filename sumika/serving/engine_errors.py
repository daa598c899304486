"""What an engine did or said, told to whoever asked; `x-sumika-origin` tells it from what the gateway decided."""

from __future__ import annotations

import json
import re

from sumika.models.errors import SumikaError, quoted
from sumika.serving.wire import EngineLost

# Of an engine's own words, which may repeat the request.
_MOST_WORDS = 500
# What is of no use to a client and tells of the machine: places in memory, paths of at least two parts, addresses.
_PLACES = re.compile(
    r"0x[0-9a-fA-F]{4,}|(?<![\w.#])(?!/v\d/)(?:/[\w.+~@-]+){2,}/?(?::\d+)?|\b[A-Za-z]:\\\S+|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"
)
# Words of a program to its programmers.
_TRACES = ("Traceback (most recent call last)", 'File "')
# How a stream ends that its engine did not bring to its end.
BROKEN = ("engine_unreachable", "engine_timeout")
# What vLLM says of every request when the process that generates has died (v1/engine/exceptions.py); its server ends itself soon after.
_DEAD = b"EngineCore encountered an issue"


class EngineError(SumikaError):
    """The engine's fault, or the engine's own words for what is wrong with a request."""


def refusal(status: int, body: bytes) -> EngineError | EngineLost:
    """The engine's own words for what is wrong with a request; of anything else only that the engine failed, or has died."""
    if tells_death(body):
        return _dead()
    try:
        told = json.loads(body)
        message = str(told.get("error", told).get("message", ""))
    except (ValueError, AttributeError, RecursionError):
        message = ""
    if status in (400, 422) and message:
        message = quoted(_own_words(message), _MOST_WORDS)
        code = "context_length_exceeded" if "context length" in message or "max_model_len" in message else "invalid_request"
        return EngineError(code, message, f"エンジンがリクエストを受け付けませんでした: {message}")
    if status == 404:
        return EngineError(
            "version_not_loaded", "The engine is still loading this version; try again in a moment.",
            "エンジンがこの版を読み込み中です。少し待ってからやり直してください。", status=503, retry_after=2,
        )  # fmt: skip
    return failed(f"status {status}", f"状態 {status}")


def _own_words(message: str) -> str:
    if any(trace in message for trace in _TRACES):
        return "The engine can't take this request, and gives no reason that helps. Change it, or tell your administrator."
    return _PLACES.sub("…", message)


def tells_death(text: bytes) -> bool:
    """Whether an engine says that the process which generates has died."""
    return _DEAD in text


def rubbish() -> EngineError:
    """An answer that is none."""
    return failed("its answer can't be read", "応答を読み取れません")


def failed(en: str, ja: str) -> EngineError:
    return EngineError(
        "engine_failed", f"The engine failed on this request ({en}). Try again; if it repeats, tell your administrator.",
        f"エンジンがこのリクエストで失敗しました({ja})。やり直しても続く場合は管理者に連絡してください。", status=502,
    )  # fmt: skip


def gave_up(event: bytes) -> EngineError | EngineLost:
    """What an engine means by an `event` that tells an error in the middle of a stream."""
    if tells_death(event):
        return _dead()
    return EngineError(
        "engine_failed", "The engine failed in the middle of this answer. Try again; if it repeats, tell your administrator.",
        "エンジンが応答の途中で失敗しました。やり直しても続く場合は管理者に連絡してください。", status=502,
    )  # fmt: skip


def _dead() -> EngineLost:
    return EngineLost("the engine is lost: its core died")


def lost(error: BaseException) -> EngineError:
    """An engine that did not answer, or not to the end."""
    if isinstance(error, TimeoutError):
        return EngineError(
            "engine_timeout", "The engine did not answer in time. Try again with a shorter prompt or fewer tokens.",
            "エンジンが時間内に応答しませんでした。プロンプトや出力を短くしてやり直してください。", status=504,
        )  # fmt: skip
    return EngineError(
        "engine_unreachable", "The engine stopped and is being restarted. Try again in a moment.",
        "エンジンが停止したため再起動しています。少し待ってからやり直してください。", status=503, retry_after=10,
    )  # fmt: skip
