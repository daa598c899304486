"""Whether what an engine says with status 200 is an answer. It is looked at before a client sees it: an engine gone wrong says anything."""

from __future__ import annotations

import codecs

from pydantic_core import from_json

from sumika.serving import engine_errors

_EVENT_END = b"\n\n"
_DATA = b"data: "
_DONE = b"[DONE]"


def check_whole(body: bytes, holds: str, *, complete: bool) -> None:
    """Of an answer in one piece that is not `complete` only how it begins.

    Raises:
        EngineError: `engine_failed`, for what is no object of JSON in UTF-8 with a field `holds`.
        EngineLost: where it tells that the engine has died.
    """
    if not complete:
        _check_beginning(body)
        return
    try:
        told = from_json(body)
    except ValueError:
        raise engine_errors.rubbish() from None
    if not isinstance(told, dict) or told.get(holds) is None:
        raise engine_errors.gave_up(body) if engine_errors.tells_death(body) else engine_errors.rubbish()


def check_events(chunk: bytes) -> None:
    """Each of these events, which are whole, is one object of JSON by its looks, or the mark of the end.

    Raises:
        EngineError: `engine_failed`.
    """
    if not chunk.isascii():
        _check_text(chunk)
    for event in chunk.split(_EVENT_END):
        at = event.find(_DATA)
        data = event[at + len(_DATA) :] if at >= 0 else b""
        if event and data != _DONE and not event.startswith(b":") and not (data.startswith(b'{"') and data.endswith(b"}")):
            raise engine_errors.rubbish()


def _check_beginning(body: bytes) -> None:
    _check_text(body)
    if not body.lstrip().startswith(b"{") or body.lstrip().startswith(b'{"error"'):
        raise engine_errors.rubbish()


def _check_text(data: bytes) -> None:
    """It may end in the middle of a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        raise engine_errors.rubbish() from None
