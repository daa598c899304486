"""What the roles say while they run: a line for each event on stderr, for people or for a program that gathers logs.

In both forms an event is one line that nobody can forge another one with: control characters are escaped. None holds what users say.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from sumika.cli.log_writer import BackgroundHandler
from sumika.models.settings import Settings

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_FIELDS = "%(levelname)s %(name)s %(message)s"
_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception"}


def log_to_stderr(settings: Settings) -> None:
    """Log to stderr as the settings say; what can't be written there waits for nobody."""
    handler = BackgroundHandler()
    handler.setFormatter(_Json() if settings.log_format == "json" else _Line())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it shows characters of what was uploaded
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # serving/tracing says once what it says of each batch


class _Line(logging.Formatter):
    """A trace of an error follows its line, each of its own lines indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"    {_escaped(line)}" for line in super().formatException(ei).split("\n"))


class _Json(JsonFormatter):
    """One object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, `exception`; and what an event tells by name
    (`log.info("… %(key)s", {"key": …})`), each as a field of its own."""

    def __init__(self) -> None:
        super().__init__(_FIELDS, rename_fields=_NAMES, timestamp="time")

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        named = record.args if isinstance(record.args, Mapping) else {}
        super().add_fields(log_data, record, {**named, **message_dict})


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
