"""Where a run's curves go, besides the TensorBoard files and pictures that every run folder gets."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints

from sumika.finetune.group import Group, refused


def _a_server(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (parts.scheme in ("http", "https") and parts.hostname and port != 0) or (
        parts.scheme == "sqlite" and parts.path.strip("/")
    ):
        return text
    raise refused(
        "is no address of an MLflow server; write http://HOST:PORT, https://HOST, or sqlite:////FILE",
        "MLflowサーバーのアドレスではありません。http://HOST:PORT、https://HOST、または sqlite:////FILE と書いてください",
    )


class Track(Group):
    """MLflow, where there is a server."""

    mlflow: Annotated[str, AfterValidator(_a_server)] | None = None
    """http(s) address of a tracking server, or sqlite:////FILE; null: none."""
    experiment: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """MLflow's experiment; null: job.name."""
